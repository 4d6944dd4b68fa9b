"""Kernel ridge regression."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values
from icl_loop.models.reference.learner import Evidence, ScoringLearner

_WIDTH = 3.0
_NOISE = 0.1
_NOISE_IF_REFUTED = 1.0


class KernelRidge(ScoringLearner):
    """Regresses each label on the samples with a Gaussian kernel (Saunders et al. 1998).

    The target is the probability of the label given the feedback, less its probability without any.
    An example with only a refuted answer counts against that answer and slightly for the others,
    with a larger ridge because it says less. The kernel width is relative to the median distance.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return the value of each regression at the sample asked about."""
        labels = evidence.possible.shape[1]
        informative = np.flatnonzero(~evidence.possible.all(axis=1))
        if not informative.size:
            return np.zeros(labels)
        distances = self.distances.pairwise(np.vstack([evidence.features, asked]))
        scale = float(np.median(distances)) or 1.0
        kernel = np.exp(-_WIDTH / scale * distances)
        ridge = np.where(evidence.is_known[informative], _NOISE, _NOISE_IF_REFUTED)
        targets = evidence.probabilities[informative] - 1 / labels
        gram = kernel[np.ix_(informative, informative)] + np.diag(ridge)
        return np.asarray(kernel[-1, informative] @ np.linalg.solve(gram, targets))
