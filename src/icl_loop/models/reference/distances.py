"""Squared Euclidean distances between samples, reused from one request to the next."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from icl_loop.models.features import Features

Samples = NDArray[np.float32]
"""Shape (samples, features)."""
Values = NDArray[np.float64]


class DistanceCache:
    """Computes pairwise distances; reuses those of an earlier request with the same leading samples."""

    def __init__(self) -> None:
        self._cached: OrderedDict[bytes, tuple[Samples, Values]] = OrderedDict()

    def pairwise(self, samples: Samples) -> Values:
        """Return the distance between each two samples, shape (samples, samples)."""
        first = samples[0].tobytes()
        before, known = self._cached.pop(first, (samples[:0], np.empty((0, 0))))
        reused = 0
        if before.shape[1:] == samples.shape[1:]:
            count = min(len(before), len(samples))
            differs = (before[:count] != samples[:count]).any(axis=1)
            reused = int(differs.argmax()) if differs.any() else count
        distances = np.empty((len(samples), len(samples)))
        distances[:reused, :reused] = known[:reused, :reused]
        for row in range(reused, len(samples)):
            distances[row, : row + 1] = distances_to(samples[: row + 1], samples[row])
            distances[: row + 1, row] = distances[row, : row + 1]
        self._cached[first] = samples, distances
        if len(self._cached) > 16:
            self._cached.popitem(last=False)
        return distances.copy()


def distances_to(samples: Samples, asked: Features) -> Values:
    """Return the distance of each sample to `asked`."""
    distances: Values = np.square(samples - asked).sum(axis=1).astype(np.float64)
    return distances
