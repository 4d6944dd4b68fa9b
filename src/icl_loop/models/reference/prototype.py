"""Class means."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values, to_each
from icl_loop.models.reference.learner import Evidence, Scorer


class Prototype(Scorer):
    """Answers the label whose mean sample is nearest.

    A mean is taken of the samples whose label was revealed or confirmed, and of the mean of all
    samples shown besides, counted as one sample. So a label of which nothing is known stands for
    the average sample: it is guessed where the one asked about is less like every known class than
    like that. Refuted answers are not used.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return the negative squared distance to the mean of each label."""
        if not evidence.features.size:
            return np.zeros(evidence.possible.shape[1])
        members = (evidence.possible & evidence.is_known[:, None]).astype(np.float32)
        sums = members.T @ evidence.features + evidence.features.mean(axis=0)
        means = sums / (members.sum(axis=0)[:, None] + 1)
        return -to_each(means, asked)
