"""Pictures written as text, and read back again.

`pixels` brings any image to a square of ink between 0 and 1; an encoding writes that square as text
and reads it back to its own precision. Every text is self-describing: `decode` needs nothing but
the text.
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
"""Float32, shape (rows, columns), values 0.0 (dark) to 1.0 (bright)."""

MAX_SIDE = 1024
"""Most rows or columns of a picture; a text that claims more is refused before it takes memory."""


def to_pixels(image: Picture, size: int) -> Pixels:
    """Resize `image` to `size` x `size`, turn it to grey levels, scale it to 0..1.

    Args:
        image: uint8, shape (height, width) or (height, width, 3).
        size: Side of the square in pixels, from 1 to `MAX_SIDE`.

    The resize comes before the grey levels and uses Pillow's default filter.
    """
    if not 1 <= size <= MAX_SIDE:
        raise InputError(f"size is 1 to {MAX_SIDE} pixels, got {size}")
    scaled = Image.fromarray(image).resize((size, size))
    grey = scaled if scaled.mode == "L" else scaled.convert("L")
    return np.asarray(grey, dtype=np.float32) / np.float32(255)


class PixelEncoding(Encoding):
    """A way to write a picture that was brought to a square of pixels."""

    @property
    def modality(self) -> Modality:
        """Pictures."""
        return "picture"

    def prepare(self, content: Picture, size: int) -> Pixels:
        """Return a picture as `size` x `size` pixels."""
        return to_pixels(content, size)

    def check_pixels(self, values: Pixels) -> None:
        """Raise EncodingError unless `values` are rows and columns from 0 to 1."""
        if values.ndim != 2 or not values.size or max(values.shape) > MAX_SIDE:
            raise EncodingError(
                f"{self.name} writes rows x columns, at most {MAX_SIDE}, got shape {values.shape}"
            )
        if not (values.min() >= 0 and values.max() <= 1):
            raise EncodingError(
                f"{self.name} writes values from 0 to 1, got {values.min()} to {values.max()}"
            )


@dataclass(frozen=True)
class PixelTextEncoding(PixelEncoding):
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
        self.check_pixels(values)
        return self.write(values)

    def decode(self, text: str) -> Pixels:
        """Return the pixels that `text` stands for, to the precision of `step`.

        Raises:
            EncodingError: No pixels are written as exactly this text.
        """
        try:
            values = self.read(text)
        except ValueError as error:
            raise EncodingError(f"not a text of the {self.name} encoding: {error}") from None
        if self.encode(values) != text:
            raise EncodingError(f"not a text of the {self.name} encoding: it is written otherwise")
        return values


# ---- article: the array as numpy prints it -----------------------------------------------


_TENTHS = np.array([b"0.  ", *(b"0.%d " % tenth for tenth in range(1, 10)), b"1.  "])
_WHOLE = np.array([b"0. ", *(b"?" for _ in range(9)), b"1. "])
_LINE = 74
"""Columns of a line as numpy fills it by default: 75 less one for the closing bracket."""


def _write_article(values: Pixels) -> str:
    """Write each row as numpy prints it; asking numpy itself takes ten times as long."""
    tenths = np.rint(values.astype(np.float32, copy=False) * np.float32(10)).astype(np.intp)
    whole = (tenths % 10 == 0).all(axis=1).tolist()
    long, short = _rows(_TENTHS[tenths]), _rows(_WHOLE[tenths])
    rows = [_wrap(*(short[i] if whole[i] else long[i])) for i in range(len(whole))]
    return "[" + ",\n".join(rows) + "]"


def _rows(words: NDArray[np.bytes_]) -> list[tuple[str, int]]:
    """Return each row of words, which end in a blank, as one text; and the width of a word."""
    width, text = words.itemsize, words.tobytes().decode("ascii")
    row = width * words.shape[1]
    return [(text[start : start + row], width) for start in range(0, len(text), row)]


def _wrap(printed: str, width: int) -> str:
    """Print one row of float32 tenths: numbers of one width, lines that end in no blanks."""
    line = _LINE // width * width
    if len(printed) <= line:
        return f"[{printed[:-1]}]"
    *full, last = [printed[start : start + line] for start in range(0, len(printed), line)]
    return "[" + "".join([each.rstrip() + "\n " for each in full]) + last[:-1] + "]"


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


def _marks(name: str, ramp: str, between: str = "") -> PixelTextEncoding:
    """Return the encoding that writes each pixel as the nearest of the marks in `ramp`."""
    top = len(ramp) - 1
    table = np.array(list(ramp))
    level = {mark: index / top for index, mark in enumerate(ramp)}

    def write(values: Pixels) -> str:
        levels = np.rint(values * top).astype(np.intp)
        return "\n".join(between.join(row) for row in table[levels].tolist())

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

    return PixelTextEncoding(name, write, read, 1 / top)


_BINARY = _marks("binary", ".#")

# ---- sparse: runs of ink -----------------------------------------------------------------

_INK = re.compile("#+")
_RUN = re.compile(r"(\d+)(?:-(\d+))?")
_NO_INK = "."


def _write_sparse(values: Pixels) -> str:
    """Write a line a row: the columns of each run of ink, `first-last`, or a dot for none."""
    if values.shape[0] != values.shape[1]:
        raise EncodingError(f"sparse writes squares, got shape {values.shape}")
    return "\n".join(_runs(line) for line in _BINARY.write(values).split("\n"))


def _runs(line: str) -> str:
    spans = [(run.start(), run.end() - 1) for run in _INK.finditer(line)]
    return " ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in spans) or _NO_INK


def _read_sparse(text: str) -> Pixels:
    lines = text.split("\n")
    if len(lines) > MAX_SIDE:
        raise ValueError(f"more than {MAX_SIDE} rows")
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


PIXEL_TEXT_ENCODINGS = {
    each.name: each
    for each in (
        PixelTextEncoding("article", _write_article, _read_article, 0.1),
        _marks("grid", "0123456789"),
        _marks("spaced", "0123456789", between=" "),
        _marks("ascii", " .:-=+*#%@"),
        _BINARY,
        PixelTextEncoding("sparse", _write_sparse, _read_sparse, 1.0),
    )
}
"""The ways to write a picture as text, by name."""
