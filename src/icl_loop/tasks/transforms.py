"""Pixel transforms: they remove what a model may know about images, but not what it can learn.

A transform is drawn once per session, from its seed and stream, and applied after the resize.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import scipy  # submodules are imported on first use
from numpy.typing import NDArray

from icl_loop.core.errors import InputError
from icl_loop.core.records import keyed_bits, keyed_order

Pixels = NDArray[np.float32]
Transform = Callable[[Pixels], Pixels]
"""From float32 pixels of shape (size, size) in 0..1 to pixels of the same shape and range."""
Key = tuple[int, int]
"""Seed and stream of a session."""

MAX_PROJECTED_SIZE = 32
"""Largest side of a projected image: the matrix has size**4 entries."""
PROJECTION_SPREAD = 3.0
"""Divisor that keeps projected values in 0..1, around 0.5."""


def unchanged(values: Pixels) -> Pixels:
    """Return the pixels as they are."""
    return values


@lru_cache(256)
def permuted(size: int, key: Key) -> Transform:
    """Return a random permutation of the pixels."""
    order = keyed_order(size * size, *key, "pixels")
    return lambda values: values.ravel()[order].reshape(values.shape)


@lru_cache(64)
def projected(size: int, key: Key) -> Transform:
    """Return a random rotation of pixel space, scaled to 0..1.

    The matrix is uniform over the orthogonal matrices (Stewart 1980: QR of a Gaussian matrix, with
    the diagonal of R made positive). Distances between images are preserved up to one factor,
    except for the few values that are clipped to 0..1.

    Raises:
        InputError: The size is above `MAX_PROJECTED_SIZE`.
    """
    if size > MAX_PROJECTED_SIZE:
        raise InputError(
            f"projected pixels need a size of at most {MAX_PROJECTED_SIZE}, got {size}"
        )
    side = size * size
    bits = keyed_bits(side * side, *key, "projection") >> np.uint64(11)
    gaussian = scipy.special.ndtri((bits + 0.5) / 2.0**53).reshape(side, side)
    q, r = np.linalg.qr(gaussian)
    rotation = (q * np.sign(np.diag(r))).astype(np.float32)

    def rotate(values: Pixels) -> Pixels:
        rotated = 0.5 + (rotation @ values.ravel()) / PROJECTION_SPREAD
        clipped: Pixels = np.clip(rotated, 0, 1).astype(np.float32)
        return clipped.reshape(values.shape)

    return rotate


TRANSFORMS: Mapping[str, Callable[[int, Key], Transform]] = {
    "identity": lambda _size, _key: unchanged,
    "permuted": permuted,
    "projected": projected,
}
"""By kind: from the side of the images, and seed and stream, to the transform of a session."""
