"""Label propagation."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values
from icl_loop.models.reference.learner import Evidence, ScoringLearner, normalised

_NEIGHBOURS = 8
_DECAY = 5.0
_ROUNDS = 10
_EPSILON = 1e-9


class LabelPropagation(ScoringLearner):
    """Passes label beliefs between neighbouring samples (Zhu and Ghahramani 2002).

    Every sample, including the one asked about, starts with equal belief in its possible labels. In
    each round it takes the weighted mean of its neighbours' beliefs and drops the labels that are
    impossible, so both confirmed and refuted answers reach samples without feedback. Weights decay
    with the distance relative to the local scale (Zelnik-Manor and Perona 2004). Beliefs are divided
    by how common the label is, because labels are about equally frequent (class mass normalisation:
    Zhu, Ghahramani and Lafferty 2003); this favours labels about which little is known.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return the belief in each label of the sample asked about."""
        anything = np.ones((1, evidence.possible.shape[1]), dtype=np.bool_)
        possible = np.vstack([evidence.possible, anything])
        beliefs = normalised(possible)
        if not possible.all():
            samples = np.vstack([evidence.features, asked])
            weights = _neighbour_weights(self.distances.pairwise(samples))
            for _ in range(_ROUNDS):
                received = weights @ beliefs + _EPSILON
                beliefs = normalised(possible * received / received.mean(axis=0))
        final: Values = beliefs[-1]
        return final


def _neighbour_weights(distances: Values) -> Values:
    """Return the weight of each sample's neighbours, shape (samples, samples); rows sum to one."""
    neighbours = min(_NEIGHBOURS, len(distances) - 1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
    near = np.take_along_axis(distances, nearest, axis=1)
    scale = np.sqrt(near.max(axis=1))
    unit = np.maximum(scale[:, None] * scale[nearest], _EPSILON)
    weights = np.zeros_like(distances)
    np.put_along_axis(weights, nearest, np.exp(-_DECAY * near / unit), axis=1)
    return normalised(np.maximum(weights, weights.T) + _EPSILON)
