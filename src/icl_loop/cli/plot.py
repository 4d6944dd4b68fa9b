"""The command that draws figures."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer

from icl_loop.analysis import conclude_each, frame, sessions
from icl_loop.cli.baseline_option import BaselineOf, NoBaseline, shaded
from icl_loop.cli.options import SavedPaths, check_folder
from icl_loop.core.errors import InputError
from icl_loop.terminal.console import complain, say

if TYPE_CHECKING:
    from icl_loop.plots import AnyChart


class Figure(StrEnum):
    """What is drawn."""

    CURVES = "curves"
    CONTRASTS = "contrasts"
    TOKENS = "tokens"
    CONFUSION = "confusion"
    OUTCOMES = "outcomes"


def plot(
    paths: SavedPaths,
    file: Annotated[
        Path, typer.Option("-o", "--output", help="Where to; ends in .png, .svg or .html.")
    ] = Path("learning-curve.png"),
    figure: Annotated[Figure, typer.Option(help="What to draw.")] = Figure.CURVES,
    window: Annotated[int, typer.Option(min=1, help="Turns in a window.")] = 20,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Draw the curves of each run in a panel of its own, alike in scale."
        ),
    ] = False,
    learner: BaselineOf = None,
    no_baseline: NoBaseline = False,
) -> None:
    """Draw accuracy over turns beside chance and the baseline, or another figure of an experiment."""
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    plots.check_format(file)
    check_folder(file)
    if compare and figure is not Figure.CURVES:
        raise InputError(f"--compare draws curves, so it does not go with --figure {figure}")
    turns = frame(paths)
    if figure is Figure.CURVES:
        chart: AnyChart = _curves(
            turns, window, learner, baseline=not no_baseline, compare=compare, paths=paths
        )
    elif figure is Figure.CONTRASTS:
        chart = plots.contrast_charts(conclude_each(turns, None, sessions(paths)))
    else:
        chart = {
            Figure.TOKENS: plots.token_chart,
            Figure.CONFUSION: plots.confusion_chart,
            Figure.OUTCOMES: plots.outcome_chart,
        }[figure](turns)
    plots.save(chart, file)
    say(f"plot: {file}")


def _curves(
    turns: pl.DataFrame,
    window: int,
    learner: str | None,
    *,
    baseline: bool,
    compare: bool,
    paths: Sequence[Path],
) -> "AnyChart":
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    cast = shaded(turns, learner, wanted=baseline, paths=paths)
    if cast.note and baseline:
        complain(cast.note)
    draw = plots.compared_chart if compare else plots.curve_chart
    return draw(turns, window, cast.turns, learner=cast.learner)
