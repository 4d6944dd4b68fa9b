"""The command that writes the page people look at."""

from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import frame
from icl_loop.cli.baseline_option import BaselineOf, NoBaseline, shaded
from icl_loop.cli.options import SavedPaths, check_folder, pair_of_arms
from icl_loop.core.errors import StoppedShort
from icl_loop.terminal.console import say, this_command


def report(
    paths: SavedPaths,
    file: Annotated[Path, typer.Option("-o", "--output", help="Where to.")] = Path("report.html"),
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST,SECOND",
            help="Arms of the primary contrast, if not those that were recorded.",
        ),
    ] = None,
    learner: BaselineOf = None,
    no_baseline: NoBaseline = False,
) -> None:
    """Write one HTML file with the verdict, the curves and every turn, which needs no network."""
    from icl_loop.report import page  # noqa: PLC0415  only this command needs the chart library

    check_folder(file)
    pair = pair_of_arms(primary)
    turns = frame(paths)
    cast = shaded(turns, learner, wanted=not no_baseline, paths=paths)
    said = page(turns, pair, cast, this_command(), paths=paths)
    try:
        file.write_text(said, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StoppedShort(f"{file} cannot be written: {error.strerror}") from None
    say(f"report: {file}")
