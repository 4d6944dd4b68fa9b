"""The policies beside each other, printed."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from icl_loop.replay.what_if.policy_summary import PolicySummary
from icl_loop.terminal.formatting import percent, printable


def what_if_table(rows: Iterable[PolicySummary], learner: str) -> Table:
    """Return the table of arms and policies: tokens, prefix, turns and classes shown, the baseline."""
    rows = list(rows)
    several = len({row.experiment for row in rows}) > 1
    table = Table(
        title="what other policies would have shown; replies and told words as they were",
        caption=f"baseline: late accuracy in % of {learner}, ± half of its 95 % t interval;"
        " prefix: share of the tokens that a prefix cache could serve; turns: until the window is"
        " full; *: as played",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("arm", overflow="fold")
    table.add_column("policy", overflow="fold")
    for heading in ("turns", "tokens", "largest", "prefix", "shown", "classes", "told", "baseline"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        name = f"{row.experiment} / {row.arm}" if several else row.arm
        table.add_row(Text(printable(name)), Text(_policy(row)), *_cells(row))
    return table


def _policy(row: PolicySummary) -> str:
    return printable(f"* {row.policy}" if row.played else row.policy)


def _cells(row: PolicySummary) -> tuple[str, ...]:
    return (
        f"{row.turns:.0f}",
        f"{row.tokens:,.0f}",
        f"{row.largest:,}",
        f"{row.prefix_share:.0%}",
        f"{row.exposure:.1f}",
        f"{row.classes:.1f}",
        f"{row.told_classes:.1f}",
        percent(row.baseline_late),
    )
