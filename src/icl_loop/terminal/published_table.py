"""Published results beside those of the arms that mirror their conditions, for the terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from icl_loop.analysis.published import Comparison
from icl_loop.core.names import printable
from icl_loop.terminal.formatting import UNKNOWN, arm_name, number, percent, table_of


def published_parts(rows: Sequence[Comparison]) -> Iterator[Table | Text]:
    """Yield a table of published and measured accuracy, and sentences that say what differs."""
    yield table_of(
        "Published and measured accuracy in % (from the first turns to the last ones)",
        rows,
        {"arm": arm_name(rows), "published condition": lambda row: row.published.condition},
        {
            "published": _published,
            "measured early": lambda row: percent(row.summary.early),
            "late": lambda row: percent(row.summary.late),
            "all": lambda row: percent(row.summary.accuracy),
        },
    )
    yield from _setups(
        "published", rows, lambda row: f"{row.published.setup} ({row.published.source})"
    )
    yield from _setups("measured", rows, lambda row: row.setup)
    yield Text(
        "Model, data, number of turns and measure differ as stated: compare the order of the arms, not"
        " the figures."
    )


def _published(row: Comparison) -> str:
    """Return the published accuracy in percent, after that of the start if it is known."""
    start, end = (
        number(share, ".1%").removesuffix("%")
        for share in (row.published.start, row.published.accuracy)
    )
    return end if start == UNKNOWN else f"{start} to {end}"


def _setups(
    title: str, rows: Sequence[Comparison], setup: Callable[[Comparison], str]
) -> Iterator[Text]:
    """Yield each setup once, with the arms that have it if there are several."""
    arms: dict[str, list[str]] = {}
    for row in rows:
        arms.setdefault(setup(row), []).append(arm_name(rows)(row))
    for text, names in arms.items():
        which = f" ({', '.join(names)})" if len(arms) > 1 else ""
        yield Text(printable(f"{title}{which}: {text}"))
