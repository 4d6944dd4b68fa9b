"""The command that writes saved sessions in the formats of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import find
from icl_loop.cli.options import Paths
from icl_loop.terminal.console import err, out
from icl_loop.terminal.work_progress import Waiting


def export(
    paths: Paths,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="parquet, csv, openai-jsonl or inspect."),
    ],
    place: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The file to write; for inspect a folder of logs, or a file for one arm.",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="In openai-jsonl, merge neighbours of one role as the requests did."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """Write saved sessions as Parquet, CSV, OpenAI's chat format, or logs for Inspect."""
    from icl_loop import export as exports  # noqa: PLC0415  only this command needs the formats

    exports.format_named(to)
    with Waiting(err, f"exporting: {{:,}} of {len(find(paths)):,} sessions") as waiting:
        done = exports.export(paths, to, place, force=force, merge=merge, went=waiting.step)
    for note in done.notes():
        err.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    for written in done.places:
        out.print(f"written: {written}", highlight=False, soft_wrap=True, markup=False)
