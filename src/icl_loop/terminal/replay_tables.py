"""Tables about replayed sessions: other context policies, and rescored replies."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from icl_loop.replay.policy_summary import PolicySummary
from icl_loop.replay.rescoring import Rescored
from icl_loop.terminal.formatting import (
    UNKNOWN,
    arm_names,
    new_table,
    percent,
    printable,
)


def what_if_table(rows: Sequence[PolicySummary], learner: str) -> Table:
    """Return the table of requests and baseline accuracy under each context policy."""
    table = new_table(
        "Context policies (same replies and feedback)",
        ["arm", "policy"],
        ("turns", "tokens", "largest", "prefix", "shown", "classes", "told", "baseline"),
    )
    table.padding = (0, 0, 0, 0)
    table.caption_justify = "left"
    table.caption = (
        "*: as played. turns: until the window is full. tokens: per request. prefix: share that a"
        " prompt cache could serve. shown: past turns per request. classes, told: classes among them,"
        f" and classes whose label was told. baseline: late accuracy of {learner} in %, ± half the"
        " 95% t interval.\n"
    )
    for name, row in zip(arm_names(rows), rows, strict=True):
        policy = Text(printable(f"* {row.policy}" if row.played else row.policy))
        counts = (
            f"{row.turns:.0f}",
            f"{row.tokens:,.0f}",
            f"{row.largest:,}",
            f"{row.prefix_share:.0%}",
        )
        shown = f"{row.exposure:.1f}", f"{row.classes:.1f}", f"{row.told_classes:.1f}"
        table.add_row(name, policy, *counts, *shown, percent(row.baseline_late))
    return table


def rescored_table(rescored: Sequence[Rescored]) -> Table:
    """Return the table of changed answers, and of accuracy before and after, for each arm."""
    table = new_table(
        "Rescored replies",
        ["arm"],
        ("sessions", "turns", "changed answers", "right before, %", "right after, %"),
    )
    for (_, arm), group in groupby(sorted(rescored, key=_folder_and_arm), key=_folder_and_arm):
        sessions = list(group)
        turns = sum(session.turns for session in sessions)
        table.add_row(
            Text(printable(arm)),
            str(len(sessions)),
            str(turns),
            str(sum(session.changed for session in sessions)),
            _percent_of(sum(session.right_before for session in sessions), turns),
            _percent_of(sum(session.right_after for session in sessions), turns),
        )
    return table


def _folder_and_arm(session: Rescored) -> tuple[Path, str]:
    return session.path.parent, session.arm


def _percent_of(right: int, turns: int) -> str:
    return f"{100 * right / turns:.1f}" if turns else UNKNOWN
