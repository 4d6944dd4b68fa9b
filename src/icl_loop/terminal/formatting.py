"""Numbers, names and tables formatted for a terminal."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import Estimate

UNKNOWN = "–"
_NAME_WIDTH = 10
"""Columns that a narrow table keeps for names."""
RECENT = 20
"""Turns of a session that its recent accuracy covers."""


class _OfArm(Protocol):
    """A result of one arm of an experiment."""

    @property
    def experiment(self) -> str: ...

    @property
    def arm(self) -> str: ...


_Row = TypeVar("_Row", bound=_OfArm)


def printable(text: str) -> str:
    """Return `text` with U+FFFD in place of every character that could control a terminal."""
    return "".join(char if _is_safe(char) else "\ufffd" for char in text)


def _is_safe(char: str) -> bool:
    # Python calls wide spaces unprintable, but they only take up room.
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


def new_table(title: str, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """Return an empty table whose columns are some names, and then numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in names:
        table.add_column(heading, overflow="fold", min_width=_NAME_WIDTH)
    for heading in numbers:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def arm_names(rows: Sequence[_OfArm]) -> list[Text]:
    """Return the names of the arms, with their experiments if there are several."""
    several = len({row.experiment for row in rows}) > 1
    names = (f"{row.experiment} / {row.arm}" if several else row.arm for row in rows)
    return [Text(printable(name)) for name in names]


def arm_table(
    title: str, rows: Sequence[_Row], columns: Mapping[str, Callable[[_Row], str]]
) -> Table:
    """Return a table with a row per arm, and columns given by a heading and a function of the row."""
    table = new_table(title, ["arm"], columns)
    for name, row in zip(arm_names(rows), rows, strict=True):
        table.add_row(name, *(cell(row) for cell in columns.values()))
    return table


def whole_percent(share: float | None) -> str:
    """Return a share in percent, without decimals."""
    return UNKNOWN if share is None else f"{100 * share:.0f}"


def percent(estimate: Estimate) -> str:
    """Return a mean and half the width of its interval, in percent."""
    if estimate.mean is None:
        return UNKNOWN
    if estimate.interval is None:
        return f"{100 * estimate.mean:.1f}"
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    return f"{100 * estimate.mean:.1f} ±{100 * half:.1f}"


def mean(estimate: Estimate, spec: str) -> str:
    """Return a mean in the given format."""
    return UNKNOWN if estimate.mean is None else format(estimate.mean, spec)


def dollars(usd: float | None) -> str:
    """Return an amount of US dollars, without the sign."""
    return UNKNOWN if usd is None else f"{usd:,.2f}"


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
