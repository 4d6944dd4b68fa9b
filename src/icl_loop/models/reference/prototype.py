"""Class means."""

import numpy as np
from numpy.typing import NDArray

from icl_loop.models.reference.distances import Values, to_each
from icl_loop.models.reference.learner import Evidence, Scorer


class Prototype(Scorer):
    """Answers the label whose mean picture is nearest.

    A mean is taken of the pictures whose label was revealed or confirmed, and of the mean of all
    pictures shown besides, counted as one picture. So a label of which nothing is known stands for
    the average picture: it is guessed where the picture is less like every known class than like
    that. Refuted answers are not used.
    """

    def scores(self, evidence: Evidence, asked: NDArray[np.float32]) -> Values:
        """Return the negative squared distance to the mean of each label."""
        if not evidence.pictures.size:
            return np.zeros(evidence.possible.shape[1])
        members = (evidence.possible & evidence.is_known[:, None]).astype(np.float32)
        sums = members.T @ evidence.pictures + evidence.pictures.mean(axis=0)
        means = sums / (members.sum(axis=0)[:, None] + 1)
        return -to_each(means, asked)
