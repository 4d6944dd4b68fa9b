"""Encodings: a picture to the text that a model is shown, and back again.

`pixels` brings any image to a square of ink between 0 and 1; an `Encoding` writes that square
as text and reads it back to its own precision. Every text is self-describing: `decode` needs
nothing but the text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icl_loop.errors import EncodingError, InputError, nearest

Pixels = NDArray[np.float32]
"""Float32, shape (rows, columns), values 0.0 (dark) to 1.0 (bright)."""


def pixels(image: NDArray[np.uint8], size: int) -> Pixels:
    """Resize `image` to `size` x `size`, turn it to grey levels, scale it to 0..1.

    Args:
        image: uint8, shape (height, width) or (height, width, 3).
        size: Side of the square in pixels, at least 1.

    The resize comes before the grey levels and uses Pillow's default filter.
    """
    if size < 1:
        raise InputError(f"size is at least 1 pixel, got {size}")
    grey = Image.fromarray(image).resize((size, size)).convert("L")
    return np.asarray(grey, dtype=np.float32) / np.float32(255)


@dataclass(frozen=True, slots=True)
class Encoding:
    """A way to write pixels as text.

    Attributes:
        name: Its name in experiment files.
        write: Pixels to text.
        read: Text to pixels; raises ValueError on what `write` cannot have written.
        step: Distance between neighbouring values that the text can tell apart.
    """

    name: str
    write: Callable[[Pixels], str]
    read: Callable[[str], Pixels]
    step: float

    def encode(self, values: Pixels) -> str:
        """Return the text for `values`, shape (rows, columns), each between 0 and 1."""
        if values.ndim != 2 or not values.size:
            raise EncodingError(f"{self.name} writes rows x columns, got shape {values.shape}")
        if not (values.min() >= 0 and values.max() <= 1):
            raise EncodingError(
                f"{self.name} writes values from 0 to 1, got {values.min()} to {values.max()}"
            )
        return self.write(values)

    def decode(self, text: str) -> Pixels:
        """Return the pixels that `text` stands for, to the precision of `step`."""
        try:
            return self.read(text)
        except ValueError as error:
            raise EncodingError(f"not a text of the {self.name} encoding: {error}") from None


def encoding(name: str) -> Encoding:
    """Return the encoding called `name`."""
    try:
        return ENCODINGS[name]
    except KeyError:
        raise InputError(f"unknown encoding {name!r}: {nearest(name, ENCODINGS)}") from None


# ---- article: the array as numpy prints it -----------------------------------------------


@lru_cache(maxsize=4096)
def _print_row(tenths: bytes) -> str:
    """Print one row of tenths as numpy prints a float32 array at its default width.

    Most rows of a picture are blank or recur, hence the cache.
    """
    row = np.frombuffer(tenths, dtype=np.float32)
    with np.printoptions(precision=8, threshold=row.size + 1, linewidth=75, suppress=False):
        return str(row)


def _write_article(values: Pixels) -> str:
    rows = np.round(values.astype(np.float32, copy=False), 1) + np.float32(0)  # no minus zero
    return "[" + ",\n".join(_print_row(row.tobytes()) for row in rows) + "]"


def _read_article(text: str) -> Pixels:
    if not (text.startswith("[[") and text.endswith("]]")):
        raise ValueError("no outer brackets")
    rows = [_numbers(row.split()) for row in text[2:-2].split("],\n[")]
    return _square(rows)


def _numbers(words: list[str]) -> list[float]:
    values = [float(word) for word in words]
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("a value outside 0 to 1")
    return values


# ---- one mark a pixel: grid, spaced, ascii, binary ----------------------------------------


def _marks(name: str, ramp: str, between: str = "") -> Encoding:
    """Return the encoding that writes each pixel as the nearest of the marks in `ramp`."""
    top = len(ramp) - 1
    table = np.array(list(ramp))
    level = {mark: index / top for index, mark in enumerate(ramp)}

    def write(values: Pixels) -> str:
        return "\n".join(between.join(row) for row in table[np.rint(values * top).astype(np.intp)])

    def read(text: str) -> Pixels:
        return _square([[level[mark] for mark in _split(line)] for line in text.split("\n")])

    def _split(line: str) -> list[str]:
        if between and any(mark != between for mark in line[1::2]):
            raise ValueError("marks are not set apart")
        marks = list(line[::2] if between else line)
        unknown = set(marks) - level.keys()
        if unknown:
            raise ValueError(f"unknown mark {min(unknown)!r}")
        return marks

    return Encoding(name, write, read, 1 / top)


# ---- sparse: runs of ink -----------------------------------------------------------------

_RUN = re.compile(r"(\d+)(?:-(\d+))?")
_NO_INK = "."


def _write_sparse(values: Pixels) -> str:
    """Write a line a row: the columns of each run of ink, `first-last`, or a dot for none."""
    if values.shape[0] != values.shape[1]:
        raise EncodingError(f"sparse writes squares, got shape {values.shape}")
    return "\n".join(_runs(row) for row in np.rint(values).astype(np.int8))


def _runs(row: NDArray[np.int8]) -> str:
    edges = np.flatnonzero(np.diff(row, prepend=np.int8(0), append=np.int8(0)))
    pairs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return " ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in pairs) or _NO_INK


def _read_sparse(text: str) -> Pixels:
    lines = text.split("\n")
    values = np.zeros((len(lines), len(lines)), dtype=np.float32)
    for row, line in zip(values, lines, strict=True):
        for run in [] if line == _NO_INK else line.split(" "):
            match = _RUN.fullmatch(run)
            if match is None:
                raise ValueError(f"{run!r} is not a run of columns")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < row.size:
                raise ValueError(f"run {run} leaves a row of {row.size} columns")
            row[first : last + 1] = 1
    return values


def _square(rows: list[list[float]]) -> Pixels:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("rows differ in length")
    return np.array(rows, dtype=np.float32)


ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding("article", _write_article, _read_article, 0.1),
        _marks("grid", "0123456789"),
        _marks("spaced", "0123456789", between=" "),
        _marks("ascii", " .:-=+*#%@"),
        _marks("binary", ".#"),
        Encoding("sparse", _write_sparse, _read_sparse, 1.0),
    )
}
"""The encodings by name, in the order in which a reader who was not told tries them."""
