"""Distances among the samples of a request, where most requests begin like the one before."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from icl_loop.models.features import Features

Samples = NDArray[np.float32]
"""Shape (samples, features)."""
Values = NDArray[np.float64]

_KEPT = 16


class Distances:
    """Measures squared Euclidean distances, and no pair twice while a session goes on.

    What was measured for a request is kept for the next that begins with the same samples. The
    distance of a pair is the same number whatever else is measured with it, so that nothing
    depends on what is kept; samples that are alike have none.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[Samples, Values]] = OrderedDict()

    def among(self, samples: Samples) -> Values:
        """Return the distance of each sample to each other, shape (samples, samples)."""
        first = samples[0].tobytes()
        before, known = self._kept.pop(first, (samples[:0], np.empty((0, 0))))
        begun = _common(before, samples)
        distances = np.empty((len(samples), len(samples)))
        distances[:begun, :begun] = known[:begun, :begun]
        for row in range(begun, len(samples)):
            distances[row, : row + 1] = to_each(samples[: row + 1], samples[row])
            distances[: row + 1, row] = distances[row, : row + 1]
        self._kept[first] = samples, distances
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return distances.copy()


def to_each(samples: Samples, asked: Features) -> Values:
    """Return the squared Euclidean distance of `asked` to each sample."""
    distances: Values = np.square(samples - asked).sum(axis=1).astype(np.float64)
    return distances


def _common(before: Samples, samples: Samples) -> int:
    """Return with how many of the same samples both begin."""
    count = min(len(before), len(samples))
    if before.shape[1:] != samples.shape[1:]:
        return 0
    differ = np.flatnonzero((before[:count] != samples[:count]).any(axis=1))
    return int(differ[0]) if differ.size else count
