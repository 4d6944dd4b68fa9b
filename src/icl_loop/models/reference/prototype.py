"""Nearest class mean."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values, distances_to
from icl_loop.models.reference.learner import Evidence, ScoringLearner


class NearestMean(ScoringLearner):
    """Answers the label whose mean sample is nearest.

    The mean of all samples counts as one more member of every class, so a label without known
    samples is answered if the sample resembles no known class. Refuted answers are not used.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return the negative squared distance to the mean of each label."""
        if not evidence.features.size:
            return np.zeros(evidence.possible.shape[1])
        members = (evidence.possible & evidence.is_known[:, None]).astype(np.float32)
        sums = members.T @ evidence.features + evidence.features.mean(axis=0)
        means = sums / (members.sum(axis=0)[:, None] + 1)
        return -distances_to(means, asked)
