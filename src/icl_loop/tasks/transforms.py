"""Transforms of pixels: what takes away what a model knows of pictures and leaves what it can learn.

Each is drawn once for a stream, from its seed and number, and applied after the resize.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import scipy  # its parts are loaded where they are first used
from numpy.typing import NDArray

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import keyed_bits, keyed_order

Pixels = NDArray[np.float32]
Transform = Callable[[Pixels], Pixels]
"""From pixels, float32 of shape (size, size) in 0..1, to pixels of the same shape and range."""
Key = tuple[int, int]

MAX_PROJECTED = 32
"""Largest side of a projected picture: its matrix has the fourth power of it in entries."""
SPREAD = 3.0
"""Projected values are divided by this, so that those of pictures lie in 0..1 about 0.5."""


def identity(_: int, __: Key) -> Transform:
    """Return the transform that changes nothing."""
    return unchanged


def unchanged(values: Pixels) -> Pixels:
    """Return the pixels as they are."""
    return values


@lru_cache(256)
def permuted(size: int, key: Key) -> Transform:
    """Return the transform that moves every pixel to a place drawn for the stream."""
    order = keyed_order(size * size, *key, "pixels")
    return lambda values: values.ravel()[order].reshape(values.shape)


@lru_cache(64)
def projected(size: int, key: Key) -> Transform:
    """Return a random rotation of the space of pictures, scaled into 0..1.

    The matrix is uniform over the orthogonal ones (Stewart 1980: QR of a Gaussian matrix, signs of
    R's diagonal made positive). Distances between pictures are kept up to one factor, but for the
    few values that leave 0..1 and are cut off there.
    """
    if size > MAX_PROJECTED:
        raise InputError(f"projected pixels need a size of at most {MAX_PROJECTED}, got {size}")
    side = size * size
    bits = keyed_bits(side * side, *key, "projection") >> np.uint64(11)
    gaussian = scipy.special.ndtri((bits + 0.5) / 2.0**53).reshape(side, side)
    q, r = np.linalg.qr(gaussian)
    rotation = (q * np.sign(np.diag(r))).astype(np.float32)

    def rotate(values: Pixels) -> Pixels:
        turned = 0.5 + (rotation @ values.ravel()) / SPREAD
        kept: Pixels = np.clip(turned, 0, 1).astype(np.float32)
        return kept.reshape(values.shape)

    return rotate


TRANSFORMS: Mapping[str, Callable[[int, Key], Transform]] = {
    "identity": identity,
    "permuted": permuted,
    "projected": projected,
}


def transform(kind: str, size: int, key: Key) -> Transform:
    """Return the transform of this kind for pictures of `size` x `size` in a session.

    Raises:
        InputError: There is no such kind, or it does not take pictures of this size.
    """
    if kind not in TRANSFORMS:
        raise InputError(f"unknown pixels {kind!r}: {nearest(kind, TRANSFORMS)}")
    return TRANSFORMS[kind](size, key)
