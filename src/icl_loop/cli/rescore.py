"""The command that rescores saved sessions under another answer rule."""

import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import find
from icl_loop.cli.options import Paths, from_here
from icl_loop.replay import rescoring
from icl_loop.replay.rescoring import Rescored
from icl_loop.terminal.console import out
from icl_loop.terminal.formatting import printable


def rescore(
    paths: Paths,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="answers.KEY=VALUE", help="Override an answer setting; repeatable."
        ),
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Parent folder for the new experiments; by default, that of the sources.",
        ),
    ] = None,
) -> None:
    """Rescore saved replies under another answer rule, without any request.

    The results of an experiment NAME are new transcripts in NAME-rescored-DIGEST.
    The sources do not change, and the told texts stay.
    """
    done = [rescoring.rescore(path, changes, out_dir) for path in find(paths)]
    out.print(_table(done))
    folders = sorted({each.path.parent for each in done})
    shown = " ".join(shlex.quote(str(from_here(folder))) for folder in folders)
    out.print(f"transcripts: {shown}", highlight=False, markup=False, soft_wrap=True)
    out.print(
        f"next:        icl-loop analyze {shown}", highlight=False, markup=False, soft_wrap=True
    )


def _table(done: Sequence[Rescored]) -> Table:
    """Return a table of changed answers, and of the accuracy before and after."""
    table = Table(title="rescored sessions", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in (
        "arm",
        "sessions",
        "turns",
        "answers changed",
        "right before, %",
        "right after, %",
    ):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    by_arm = sorted(done, key=_place)
    for (_, arm), group in groupby(by_arm, key=_place):
        each = list(group)
        turns = sum(one.turns for one in each)
        table.add_row(
            Text(printable(arm)),
            str(len(each)),
            str(turns),
            str(sum(one.changed for one in each)),
            _percent(sum(one.right_before for one in each), turns),
            _percent(sum(one.right_after for one in each), turns),
        )
    return table


def _place(one: Rescored) -> tuple[str, str]:
    return str(one.path.parent), one.arm


def _percent(right: int, turns: int) -> str:
    return f"{100 * right / turns:.1f}" if turns else "–"
