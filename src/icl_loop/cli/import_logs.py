"""`icl-loop import`: make transcripts of other programs' files."""

import shlex
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from icl_loop.cli.options import check_parent_folder, relative_to_here
from icl_loop.core.errors import InputError
from icl_loop.terminal.console import print_text


def import_logs(
    files: Annotated[
        list[Path],
        Argument(
            metavar="FILE...",
            help="Inspect logs (.eval) or folders of them, chats (.jsonl), tables of turns (.csv,"
            " .tsv, .parquet).",
        ),
    ],
    out_dir: Annotated[
        Path, Option("--out", help="Parent folder; the transcripts go into OUT/NAME.")
    ] = Path("transcripts"),
    name: Annotated[
        str | None,
        Option(help="Name of the experiment. Default: that in the file, followed by -imported."),
    ] = None,
    labels: Annotated[
        str | None,
        Option(metavar="A,B,...", help="All labels, if the files do not name every one of them."),
    ] = None,
) -> None:
    """Import Inspect logs, chat JSONL and tables of turns as transcripts to analyze.

    A table has the columns session, turn, answer, label and told, and may have arm, stream, model,
    sample, question and reply. Imported sessions can be analysed, plotted, reported and exported, but
    not resumed, verified or branched.
    """
    from icl_loop.export.importing import import_files  # noqa: PLC0415  only this command needs it

    chosen = [label.strip() for label in labels.split(",")] if labels is not None else []
    if labels is not None and (len(set(chosen)) < max(2, len(chosen)) or not all(chosen)):
        raise InputError(
            f"--labels takes two or more different labels, such as cat,dog, not {labels!r}"
        )
    check_parent_folder(out_dir)
    imported = import_files(files, out_dir, name=name, labels=chosen)
    turns = sum(each.turns for each in imported)
    folders = sorted({each.path.parent for each in imported})
    shown = " ".join(shlex.quote(str(relative_to_here(folder))) for folder in folders)
    print_text(f"imported:    {_count(len(imported), 'session')}, {_count(turns, 'turn')}")
    print_text(f"transcripts: {shown}")
    print_text(f"next:        icl-loop analyze {shown}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
