"""Propagation of what is known, and of what is ruled out, over all samples shown."""

import numpy as np

from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Values
from icl_loop.models.reference.learner import Evidence, Scorer, normalized

_NEIGHBOURS = 8
_FALL = 5.0
_ROUNDS = 10
_LEAST = 1e-9


class Propagation(Scorer):
    """Lets all samples shown tell their neighbours which labels they may bear.

    Every sample, the one asked about among them, holds beliefs about its label, at first even. In
    each round it takes the weighted mean of its neighbours' beliefs and drops what it cannot bear:
    all but the right label where that was revealed or confirmed, the answer that was refuted, or
    nothing. So both kinds of evidence reach samples of which nothing was told (label propagation:
    Zhu and Ghahramani 2002). Two corrections matter: weights fall with the distance in units of how
    far off a sample's neighbours are (Zelnik-Manor and Perona 2004), and beliefs in a label that
    is held widely count less, for labels are about equally frequent (class mass normalization: Zhu,
    Ghahramani and Lafferty 2003). The latter makes it try labels of which little is known.
    """

    def scores(self, evidence: Evidence, asked: Features) -> Values:
        """Return how likely each label of the sample asked about is held to be."""
        anything = np.ones((1, evidence.possible.shape[1]), dtype=np.bool_)
        possible = np.vstack([evidence.possible, anything])
        beliefs = normalized(possible)
        if not possible.all():
            samples = np.vstack([evidence.features, asked])
            hears = _weights(self.distances.among(samples))
            for _ in range(_ROUNDS):
                heard = hears @ beliefs + _LEAST
                beliefs = normalized(possible * heard / heard.mean(axis=0))
        held: Values = beliefs[-1]
        return held


def _weights(distances: Values) -> Values:
    """Return how much each sample hears of each other; rows sum to one."""
    neighbours = min(_NEIGHBOURS, len(distances) - 1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
    near = np.take_along_axis(distances, nearest, axis=1)
    reach = np.sqrt(near.max(axis=1))
    unit = np.maximum(reach[:, None] * reach[nearest], _LEAST)
    weights = np.zeros_like(distances)
    np.put_along_axis(weights, nearest, np.exp(-_FALL * near / unit), axis=1)
    return normalized(np.maximum(weights, weights.T) + _LEAST)
