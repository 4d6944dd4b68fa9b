"""The command that writes saved sessions in the formats of other programs."""

import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from icl_loop.analysis import find
from icl_loop.cli.console import err, out
from icl_loop.cli.options import Paths

_PATIENCE_S = 2.0
"""Nothing is shown of what takes no longer."""


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
    with _Progress(len(find(paths)), err) as progress:
        done = exports.export(paths, to, place, force=force, merge=merge, went=progress.add)
    for note in done.notes():
        err.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    for written in done.places:
        out.print(f"written: {written}", highlight=False, soft_wrap=True, markup=False)


class _Progress:
    """A bar of the sessions written, shown on a terminal once it takes long."""

    def __init__(self, sessions: int, console: Console) -> None:
        self._bar = Progress(
            TextColumn("sessions"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=sessions)
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def add(self, sessions: int) -> None:
        """Take note of sessions that are written."""
        self._bar.update(self._task, advance=sessions)
        if time.monotonic() - self._since > _PATIENCE_S and not self._bar.live.is_started:
            self._bar.start()
