"""`icl-loop rescore`: parse and score saved replies by other rules."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from icl_loop.cli.options import Transcripts, relative_to_here
from icl_loop.replay import rescoring
from icl_loop.terminal.console import out, print_text
from icl_loop.terminal.replay_tables import rescored_table
from icl_loop.transcripts.files import find


def rescore(
    paths: Transcripts,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="answers.KEY=VALUE", help="Rule for parsing answers; repeatable."
        ),
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Parent folder of the new transcripts; default: that of PATHS."),
    ] = None,
) -> None:
    """Parse and score saved replies by other rules, without calling a model.

    The saved sessions stay unchanged; recorded requests and feedback are kept.
    Rescored sessions of experiment NAME are saved in NAME-rescored-DIGEST.
    All other commands, such as analyze, can read that folder.
    """
    rescored = [rescoring.rescore(path, overrides, out_dir) for path in find(paths)]
    out.print(rescored_table(rescored))
    folders = sorted({session.path.parent for session in rescored})
    shown = " ".join(shlex.quote(str(relative_to_here(folder))) for folder in folders)
    print_text(f"transcripts: {shown}")
    print_text(f"next:        icl-loop analyze {shown}")
