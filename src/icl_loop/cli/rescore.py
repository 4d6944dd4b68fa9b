"""`icl-loop rescore`: parse and score saved replies with other parsing rules."""

import shlex
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

from rich.table import Table
from typer import Option

from icl_loop.cli.options import (
    NewParent,
    Transcripts,
    check_parent_folder,
    relative_to_here,
)
from icl_loop.replay import rescoring
from icl_loop.replay.rescoring import Rescored
from icl_loop.terminal.console import out, print_text
from icl_loop.terminal.formatting import number, table_of
from icl_loop.transcripts.files import find


def rescore(
    paths: Transcripts,
    overrides: Annotated[
        list[str],
        Option("--set", metavar="answers.KEY=VALUE", help="Rule for parsing answers; repeatable."),
    ],
    out_dir: NewParent = None,
) -> None:
    """Parse and score saved replies by other rules, without calling a model.

    The saved sessions stay unchanged; recorded requests and feedback are kept.
    Rescored sessions of experiment NAME are saved in NAME-rescored-DIGEST.
    All other commands, such as analyze, can read that folder.
    """
    if out_dir is not None:
        check_parent_folder(out_dir)
    rescored = [rescoring.rescore(path, overrides, out_dir) for path in find(paths)]
    out.print(_table(rescored))
    folders = sorted({session.path.parent for session in rescored})
    shown = " ".join(shlex.quote(str(relative_to_here(folder))) for folder in folders)
    print_text(f"transcripts: {shown}")
    print_text(f"next:        icl-loop analyze {shown}")


def _table(rescored: Sequence[Rescored]) -> Table:
    """Return the table of changed answers, and of accuracy before and after, for each arm."""

    def total(arm: list[Rescored], name: str) -> int:
        return sum(getattr(session, name) for session in arm)

    def share(arm: list[Rescored], name: str) -> str:
        turns = total(arm, "turns")
        return number(100 * total(arm, name) / turns if turns else None, ".1f")

    ordered = sorted(rescored, key=lambda each: (each.path.parent, each.arm))
    return table_of(
        "Rescored replies",
        [list(group) for _, group in groupby(ordered, lambda each: (each.path.parent, each.arm))],
        {"arm": lambda arm: arm[0].arm},
        {
            "sessions": lambda arm: str(len(arm)),
            "turns": lambda arm: str(total(arm, "turns")),
            "changed answers": lambda arm: str(total(arm, "changed")),
            "right before, %": lambda arm: share(arm, "right_before"),
            "right after, %": lambda arm: share(arm, "right_after"),
        },
    )
