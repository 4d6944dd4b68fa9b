"""Numbers, names and tables formatted for people."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from icl_loop.core.names import printable

if TYPE_CHECKING:  # slow to load, and the command line formats text before it needs them
    from icl_loop.analysis import Contrast, Estimate

UNKNOWN = "–"
RECENT = 20
"""Turns of a session that its recent accuracy covers."""
YES_NO = {True: "yes", False: "no", None: UNKNOWN}


class _OfArm(Protocol):
    """A result of one arm of an experiment."""

    @property
    def experiment(self) -> str: ...

    @property
    def arm(self) -> str: ...


_Row = TypeVar("_Row")
_Columns = Mapping[str, Callable[[_Row], str]]
"""Cells by their heading, as functions of the row."""


def table_of(
    title: str,
    rows: Sequence[_Row],
    names: _Columns[_Row],
    numbers: _Columns[_Row],
    *,
    gap: int = 1,
    caption: str | None = None,
) -> Table:
    """Return a table with columns of names, at least 10 wide, and then columns of numbers.

    `gap` is the number of spaces after each column besides the one that separates columns.
    """
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
    )
    for heading in names:
        table.add_column(heading, overflow="fold", min_width=10)
    for heading in numbers:
        table.add_column(heading, overflow="fold", justify="right")
    cells = [*names.values(), *numbers.values()]
    for row in rows:
        table.add_row(*(Text(printable(cell(row))) for cell in cells))
    return table


def arm_name(rows: Sequence[_OfArm]) -> Callable[[_OfArm], str]:
    """Return a function that names the arm of a row, with its experiment if there are several."""
    several = len({row.experiment for row in rows}) > 1
    return lambda row: f"{row.experiment} / {row.arm}" if several else row.arm


def number(value: float | None, spec: str) -> str:
    """Return a number in the given format, or a dash if it is unknown."""
    return UNKNOWN if value is None else format(value, spec)


def whole_percent(share: float | None) -> str:
    """Return a share in percent, without decimals and without the sign."""
    return number(share, ".0%").removesuffix("%")


def percent(estimate: "Estimate") -> str:
    """Return a mean and the ends of its interval, in percent, such as 6.2 2–17."""
    mean = number(estimate.mean, ".1%").removesuffix("%")
    if estimate.interval is None:
        return mean
    return f"{mean} " + "–".join(map(whole_percent, estimate.interval))


def decimals(estimate: "Estimate") -> str:
    """Return a mean and half the width of its interval, with two decimals."""
    if estimate.mean is None or estimate.interval is None:
        return number(estimate.mean, ".2f")
    low, high = estimate.interval
    return f"{estimate.mean:.2f} ±{(high - low) / 2:.2f}"


def points(difference: float | None) -> str:
    """Return a difference in percentage points, with its sign."""
    return number(difference, "+z.1%").removesuffix("%")


def interval_points(contrast: "Contrast") -> str:
    """Return the interval of a contrast in percentage points."""
    return " to ".join(map(points, contrast.interval)) if contrast.interval else UNKNOWN


def p_value(value: float | None) -> str:
    """Return a p-value with four decimals."""
    return "<0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def dollars(usd: float | None) -> str:
    """Return an amount of US dollars, without the sign."""
    return number(usd, ",.2f")


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
