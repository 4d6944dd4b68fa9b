"""The command that draws learning curves."""

from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import frame
from icl_loop.cli.console import say
from icl_loop.cli.options import Paths


def plot(
    paths: Paths,
    file: Annotated[
        Path, typer.Option("-o", "--output", help="Where to; ends in .png, .svg or .html.")
    ] = Path("learning-curve.png"),
    window: Annotated[int, typer.Option(min=1, help="Turns in a window.")] = 20,
) -> None:
    """Draw accuracy over turns: a line and a band for each arm, thin lines for sessions, chance."""
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    plots.check_format(file)
    plots.save(plots.curve_chart(frame(paths), window), file)
    say(f"plot: {file}")
