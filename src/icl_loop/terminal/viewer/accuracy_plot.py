"""Running accuracy as a small plot of braille dots."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from icl_loop.terminal.progress import RECENT

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bits of a braille cell's dots, four rows of two, as Unicode numbers them."""
_BLANK = 0x2800
_CHANCE_EVERY = 3
"""Every how many dots the line of chance has one."""
_SCALE = 5
"""Columns of the names at the left."""

Canvas = NDArray[np.bool_]
"""Dots that are set, shape (4 rows a line, 2 columns a mark)."""


def curve(right: Sequence[bool], planned: int, chance: float, width: int, height: int) -> Text:
    """Return the accuracy in the latest `RECENT` turns after each turn, over a line of chance.

    It takes `height` lines of `width` columns; the right edge is the last turn planned.
    """
    shape = 4 * height, 2 * max(1, width - _SCALE)
    line, level = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    _trace(line, running(right), max(planned, len(right), 1))
    level[_row(level, np.array([chance])), ::_CHANCE_EVERY] = True
    plot = Text()
    for place, (drawn, both) in enumerate(zip(_cells(line), _cells(line | level), strict=True)):
        plot.append({0: "100% ", height - 1: "  0% "}.get(place, " " * _SCALE), "dim")
        for own, marks in groupby(zip(drawn, both, strict=True), lambda pair: pair[0] != _BLANK):
            plot.append("".join(_mark(mark) for _, mark in marks), "cyan" if own else "dim")
        plot.append("\n")
    plot.right_crop(1)
    return plot


def running(right: Sequence[bool]) -> NDArray[np.float64]:
    """Return the share of right answers in the latest `RECENT` turns after each turn."""
    sums = np.concatenate([[0], np.cumsum(right)])
    stops = np.arange(1, len(right) + 1)
    starts = np.maximum(0, stops - RECENT)
    return np.asarray((sums[stops] - sums[starts]) / (stops - starts), np.float64)


def _trace(canvas: Canvas, values: NDArray[np.float64], planned: int) -> None:
    """Draw a line that goes level through each turn's columns and upright between them."""
    rows, columns, before = _row(canvas, values), canvas.shape[1], 0
    for column in range(-(-len(values) * columns // planned)):
        first = column * planned // columns
        stop = max(first + 1, (column + 1) * planned // columns)
        reached = rows[before:stop]
        canvas[reached.min() : reached.max() + 1, column] = True
        before = before + len(reached) - 1


def _row(canvas: Canvas, share: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.rint((1 - share) * (len(canvas) - 1)).astype(np.intp)


def _mark(point: int) -> str:
    return " " if point == _BLANK else chr(point)


def _cells(canvas: Canvas) -> list[list[int]]:
    """Return the code points of the marks, a list a line."""
    rows, columns = canvas.shape
    cells = canvas.reshape(rows // 4, 4, columns // 2, 2).swapaxes(1, 2)
    marks: list[list[int]] = (_BLANK + (cells * _DOTS).sum(axis=(2, 3))).tolist()
    return marks
