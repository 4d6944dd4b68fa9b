"""`icl-loop export`: write saved sessions in formats of other programs."""

from pathlib import Path
from typing import Annotated

from typer import Option

from icl_loop.cli.options import Transcripts
from icl_loop.terminal.console import err, print_text
from icl_loop.terminal.progress import WorkProgress
from icl_loop.transcripts.files import find


def export(
    paths: Transcripts,
    to: Annotated[
        str | None,
        Option(
            "--to",
            metavar="FORMAT",
            help="parquet, csv, openai-jsonl or inspect. Default: that of the ending of --output.",
        ),
    ] = None,
    place: Annotated[
        Path | None,
        Option(
            "-o", "--output", help="File to write; for inspect a folder, or a file for one arm."
        ),
    ] = None,
    merge: Annotated[
        bool, Option("--merge", help="For openai-jsonl: merge consecutive messages of one role.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Export saved sessions as Parquet, CSV, OpenAI chat JSONL or Inspect logs."""
    from icl_loop import export as exports  # noqa: PLC0415  only this command needs the formats

    to = exports.format_of(place, to)
    with WorkProgress(err, "exporting", "sessions", len(find(paths))) as progress:
        done = exports.export(paths, to, place, force=force, merge=merge, on_sessions=progress.add)
    for note in done.notes():
        print_text(f"note: {note}", err)
    for written in done.places:
        print_text(f"written: {written}")
