"""Images written as text, and parsed back.

`to_pixels` resizes an image to a square of grey levels from 0 to 1. Each encoding writes the square
as text, from which `decode` recovers it to the precision of the encoding.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icl_loop.core.errors import EncodingError, InputError
from icl_loop.core.records import Modality, Picture
from icl_loop.tasks.encodings.encoding import Encoding

Pixels = NDArray[np.float32]
"""Float32, shape (rows, columns), from 0.0 (dark) to 1.0 (bright)."""

MAX_SIDE = 1024
"""Most rows or columns; a longer text is rejected before it takes memory."""


def to_pixels(image: Picture, size: int) -> Pixels:
    """Resize an image to a square, convert it to grey levels, and scale these to 0..1."""
    if not 1 <= size <= MAX_SIDE:
        raise InputError(f"size must be 1 to {MAX_SIDE} pixels, got {size}")
    grey = Image.fromarray(image).resize((size, size)).convert("L")
    return np.asarray(grey, dtype=np.float32) / np.float32(255)


class PixelEncoding(Encoding):
    """An encoding of pixels."""

    modality: Modality = "picture"

    def prepare(self, content: Picture, size: int) -> Pixels:
        """Return an image as `size` x `size` pixels."""
        return to_pixels(content, size)

    def check_pixels(self, values: Pixels) -> None:
        """Raise EncodingError unless `values` has rows and columns of values from 0 to 1."""
        if values.ndim != 2 or not values.size or max(values.shape) > MAX_SIDE:
            raise EncodingError(
                f"{self.name}: pixels need 1 to {MAX_SIDE} rows and columns, got shape {values.shape}"
            )
        if not (values.min() >= 0 and values.max() <= 1):
            raise EncodingError(
                f"{self.name}: pixels must be from 0 to 1, got {values.min()} to {values.max()}"
            )


@dataclass(frozen=True)
class PixelTextEncoding(PixelEncoding):
    """A way to write pixels as text.

    `read` raises ValueError for texts that `write` never produces. Values that differ by `step` can
    be told apart.
    """

    name: str
    write: Callable[[Pixels], str]
    read: Callable[[str], Pixels]
    step: float

    def encode(self, values: Pixels) -> str:
        """Return the text for `values`, shape (rows, columns), each between 0 and 1."""
        self.check_pixels(values)
        return self.write(values)

    def parse(self, shown: str) -> Pixels:
        """Return the pixels that a text shows, to the precision of `step`."""
        return self.read(shown)


# ---- article: rows as numpy prints them --------------------------------------------------

_TENTHS = np.array([b"0.  ", *(b"0.%d " % tenth for tenth in range(1, 10)), b"1.  "])
_WHOLE = np.array([b"0. ", *(b"?" for _ in range(9)), b"1. "])
_LINE_WIDTH = 74
"""numpy's default of 75 characters, less one for the closing bracket."""


def _write_article(values: Pixels) -> str:
    """Write each row as numpy prints it, about ten times as fast as numpy does."""
    tenths = np.rint(values.astype(np.float32, copy=False) * np.float32(10)).astype(np.intp)
    rows = [_write_row(_WHOLE if (row % 10 == 0).all() else _TENTHS, row) for row in tenths]
    return "[" + ",\n".join(rows) + "]"


def _write_row(words: NDArray[np.bytes_], tenths: NDArray[np.intp]) -> str:
    """Write a row of numbers of equal width, broken into lines without trailing spaces."""
    text = words[tenths].tobytes().decode("ascii")
    length = _LINE_WIDTH // words.itemsize * words.itemsize
    lines = [text[start : start + length] for start in range(0, len(text), length)]
    return "[" + "\n ".join([*(line.rstrip() for line in lines[:-1]), lines[-1][:-1]]) + "]"


def _read_article(text: str) -> Pixels:
    if not (text.startswith("[[") and text.endswith("]]")):
        raise ValueError("no outer brackets")
    rows = [[float(number) for number in row.split()] for row in text[2:-2].split("],\n[")]
    if not all(0 <= value <= 1 for row in rows for value in row):
        raise ValueError("a value is not between 0 and 1")
    return _to_array(rows)


# ---- grid, spaced, ascii, binary: one character per pixel ---------------------------------


def _character_encoding(name: str, ramp: str, separator: str = "") -> PixelTextEncoding:
    """Return the encoding that writes each pixel as the nearest character of `ramp`."""
    top = len(ramp) - 1
    characters = np.array(list(ramp))
    values_of = {character: level / top for level, character in enumerate(ramp)}

    def write(values: Pixels) -> str:
        levels = np.rint(values * top).astype(np.intp)
        return "\n".join(separator.join(row) for row in characters[levels].tolist())

    def read(text: str) -> Pixels:
        lines = [line[:: len(separator) + 1] for line in text.split("\n")]
        unknown = set("".join(lines)) - values_of.keys()
        if unknown:
            raise ValueError(f"unknown character {min(unknown)!r}")
        return _to_array([[values_of[character] for character in line] for line in lines])

    return PixelTextEncoding(name, write, read, 1 / top)


_BINARY = _character_encoding("binary", ".#")

# ---- sparse: the columns of bright pixels ------------------------------------------------

_BRIGHT = re.compile("#+")
_SPAN = re.compile(r"(\d+)(?:-(\d+))?")
_NONE = "."


def _write_sparse(values: Pixels) -> str:
    """Write the columns of bright pixels of each row as `first-last`, or a dot for none."""
    if values.shape[0] != values.shape[1]:
        raise EncodingError(f"sparse: pixels must form a square, got shape {values.shape}")
    lines = []
    for line in _BINARY.write(values).split("\n"):
        spans = [(run.start(), run.end() - 1) for run in _BRIGHT.finditer(line)]
        lines.append(" ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in spans) or _NONE)
    return "\n".join(lines)


def _read_sparse(text: str) -> Pixels:
    lines = text.split("\n")
    if len(lines) > MAX_SIDE:
        raise ValueError(f"more than {MAX_SIDE} rows")
    values = np.zeros((len(lines), len(lines)), dtype=np.float32)
    for row, line in zip(values, lines, strict=True):
        for span in [] if line == _NONE else line.split(" "):
            match = _SPAN.fullmatch(span)
            if match is None:
                raise ValueError(f"{span!r} is not a span of columns")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < row.size:
                raise ValueError(f"span {span} does not fit a row of {row.size} columns")
            row[first : last + 1] = 1
    return values


def _to_array(rows: list[list[float]]) -> Pixels:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("rows differ in length")
    return np.array(rows, dtype=np.float32)


PIXEL_TEXT_ENCODINGS = {
    each.name: each
    for each in (
        PixelTextEncoding("article", _write_article, _read_article, 0.1),
        _character_encoding("grid", "0123456789"),
        _character_encoding("spaced", "0123456789", separator=" "),
        _character_encoding("ascii", " .:-=+*#%@"),
        _BINARY,
        PixelTextEncoding("sparse", _write_sparse, _read_sparse, 1.0),
    )
}
"""The encodings of images as text, by name."""
