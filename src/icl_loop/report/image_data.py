"""Pictures as they are packed into the page."""

import base64

import numpy as np

from icl_loop.tasks.encodings import Pixels

Drawn = tuple[int, int, str]
"""Rows, columns, and a byte of brightness for each pixel, in base64."""


def drawn(pixels: Pixels) -> Drawn:
    """Return a picture, shape (rows, columns) and between 0 and 1, as it is packed."""
    rows, columns = pixels.shape
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return rows, columns, base64.b64encode(levels.tobytes()).decode()
