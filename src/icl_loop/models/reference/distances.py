"""Squared Euclidean distances between samples, reused from one request to the next."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from icl_loop.models.features import Features

Samples = NDArray[np.float32]
"""Shape (samples, features)."""
Values = NDArray[np.float64]

_CACHED_REQUESTS = 16


class DistanceCache:
    """Computes pairwise distances, each pair once while a session goes on.

    Most requests begin with the samples of the request before, so its distances are reused. The
    distance of a pair never depends on what is cached.
    """

    def __init__(self) -> None:
        self._cached: OrderedDict[bytes, tuple[Samples, Values]] = OrderedDict()

    def pairwise(self, samples: Samples) -> Values:
        """Return the distance between each two samples, shape (samples, samples)."""
        first = samples[0].tobytes()
        before, known = self._cached.pop(first, (samples[:0], np.empty((0, 0))))
        reused = _common_prefix(before, samples)
        distances = np.empty((len(samples), len(samples)))
        distances[:reused, :reused] = known[:reused, :reused]
        for row in range(reused, len(samples)):
            distances[row, : row + 1] = distances_to(samples[: row + 1], samples[row])
            distances[: row + 1, row] = distances[row, : row + 1]
        self._cached[first] = samples, distances
        if len(self._cached) > _CACHED_REQUESTS:
            self._cached.popitem(last=False)
        return distances.copy()


def distances_to(samples: Samples, asked: Features) -> Values:
    """Return the distance of each sample to `asked`."""
    distances: Values = np.square(samples - asked).sum(axis=1).astype(np.float64)
    return distances


def _common_prefix(before: Samples, samples: Samples) -> int:
    """Return how many leading samples are the same."""
    count = min(len(before), len(samples))
    if before.shape[1:] != samples.shape[1:]:
        return 0
    differ = np.flatnonzero((before[:count] != samples[:count]).any(axis=1))
    return int(differ[0]) if differ.size else count
