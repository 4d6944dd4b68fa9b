"""Numbers, names and tables formatted for a terminal."""

import unicodedata

from rich.box import SIMPLE_HEAD
from rich.table import Table

from icl_loop.analysis import Estimate

UNKNOWN = "–"
RECENT = 20
"""Turns of a session that its recent accuracy covers."""


def printable(text: str) -> str:
    """Return `text` with U+FFFD in place of every character that could control a terminal."""
    return "".join(char if _is_safe(char) else "\ufffd" for char in text)


def _is_safe(char: str) -> bool:
    # Python calls wide spaces unprintable, but they only take up room.
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


def new_table(title: str) -> Table:
    """Return an empty table in the style of all result tables."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def percent(estimate: Estimate) -> str:
    """Return a mean and half the width of its interval, in percent."""
    if estimate.mean is None:
        return UNKNOWN
    if estimate.interval is None:
        return f"{100 * estimate.mean:.1f}"
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    return f"{100 * estimate.mean:.1f} ±{100 * half:.1f}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(5025)
    '1 h 24 min'
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
