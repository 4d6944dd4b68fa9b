"""Kernel ridge regression."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values
from icl_loop.models.reference.learner import Evidence, Scorer

_WIDTH = 3.0
_NOISE = 0.1
_NOISE_OF_REFUTATION = 1.0


class KernelRidge(Scorer):
    """Regresses the labels on the samples with a Gaussian kernel and answers the highest value.

    One regression a label (Saunders, Gammerman and Vovk 1998). Its targets are what a sample
    bears of the label on average, given what was told, less what any sample bears of it: one of
    which only a wrong answer is known counts against that answer, and a little for all others. What
    such a sample tells is less certain, so its target has the larger ridge. The kernel falls with
    the squared distance in units of the median among the samples.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return the value of each regression at the sample asked about."""
        labels = evidence.possible.shape[1]
        told = np.flatnonzero(~evidence.possible.all(axis=1))
        if not told.size:
            return np.zeros(labels)
        distances = self.distances.among(np.vstack([evidence.features, asked]))
        kernel = np.exp(-_WIDTH / _unit(distances) * distances)
        ridge = np.where(evidence.is_known[told], _NOISE, _NOISE_OF_REFUTATION)
        targets = evidence.shares[told] - 1 / labels
        weights = np.linalg.solve(kernel[np.ix_(told, told)] + np.diag(ridge), targets)
        return np.asarray(kernel[-1, told] @ weights)


def _unit(distances: Values) -> float:
    """Return the median distance between samples, one if most are alike."""
    return float(np.median(distances)) or 1.0
