"""Distances among the pictures of a request, where most requests begin like the one before."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float32]
"""Shape (pictures, pixels)."""
Values = NDArray[np.float64]

_KEPT = 16


class Distances:
    """Measures squared Euclidean distances, and no pair twice while a session goes on.

    What was measured for a request is kept for the next that begins with the same pictures. The
    distance of a pair is the same number whatever else is measured with it, so that nothing
    depends on what is kept; pictures that are alike have none.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[Pictures, Values]] = OrderedDict()

    def among(self, pictures: Pictures) -> Values:
        """Return the distance of each picture to each other, shape (pictures, pictures)."""
        first = pictures[0].tobytes()
        before, known = self._kept.pop(first, (pictures[:0], np.empty((0, 0))))
        begun = _common(before, pictures)
        distances = np.empty((len(pictures), len(pictures)))
        distances[:begun, :begun] = known[:begun, :begun]
        for row in range(begun, len(pictures)):
            distances[row, : row + 1] = to_each(pictures[: row + 1], pictures[row])
            distances[: row + 1, row] = distances[row, : row + 1]
        self._kept[first] = pictures, distances
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return distances.copy()


def to_each(pictures: Pictures, asked: NDArray[np.float32]) -> Values:
    """Return the squared Euclidean distance of `asked` to each picture."""
    distances: Values = np.square(pictures - asked).sum(axis=1).astype(np.float64)
    return distances


def _common(before: Pictures, pictures: Pictures) -> int:
    """Return with how many of the same pictures both begin."""
    count = min(len(before), len(pictures))
    if before.shape[1:] != pictures.shape[1:]:
        return 0
    differ = np.flatnonzero((before[:count] != pictures[:count]).any(axis=1))
    return int(differ[0]) if differ.size else count
