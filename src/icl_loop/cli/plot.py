"""`icl-loop plot`: draw charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from icl_loop.analysis import checkpoints, conclude_each, frame, probes, sessions
from icl_loop.analysis.arm_roles import by_model
from icl_loop.analysis.graded_learning import graded_turns
from icl_loop.cli import options
from icl_loop.cli.baseline import chart_baseline
from icl_loop.core.errors import InputError
from icl_loop.terminal.console import print_error, print_text

if TYPE_CHECKING:
    import polars as pl

    from icl_loop import plots

Figure = Literal[
    "curves",
    "contrasts",
    "tokens",
    "confusion",
    "outcomes",
    "log-loss",
    "brier",
    "calibration",
    "probes",
]


def plot(
    paths: options.TranscriptsOrExports,
    file: Annotated[
        Path, Option("-o", "--output", help="File to write: .png, .svg or .html.")
    ] = Path("learning-curve.png"),
    figure: Annotated[Figure, Option(help="Chart to draw.")] = "curves",
    window: options.Window = 20,
    compare: Annotated[
        bool,
        Option("--compare", help="Draw each run in its own panel, as each of several models is."),
    ] = False,
    learner: options.ChartBaseline = None,
    no_baseline: options.NoBaseline = False,
) -> None:
    """Draw accuracy over turns with chance and the baseline, or another chart."""
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    plots.check_format(file)
    options.check_writable(file)
    if compare and figure != "curves":
        raise InputError(f"--compare works with --figure curves only, not {figure}")
    turns = frame(paths)
    experiments = turns["experiment"].n_unique()
    chart: plots.AnyChart
    if figure == "curves":
        baseline = chart_baseline(turns, learner, wanted=not no_baseline, paths=paths)
        if baseline.note and not no_baseline:
            print_error(baseline.note)
        turns = by_model(turns, sessions(paths))
        several_models = turns["experiment"].n_unique() > experiments
        draw = plots.compared_chart if compare or several_models else plots.curve_chart
        chart = draw(turns, window, baseline.turns, learner=baseline.learner)
    elif figure == "contrasts":
        chart = plots.contrast_charts(
            conclude_each(turns, None, sessions(paths), probes(paths), paths)
        )
    elif figure == "probes":
        checks = checkpoints(probes(paths))
        if not checks:
            raise InputError("there are no probes; they are asked after the turns in probes.at")
        chart = plots.probe_chart(turns, checks)
    elif figure in ("log-loss", "brier", "calibration"):
        chart = _graded_chart(turns, paths, figure, window)
    else:
        chart = {
            "tokens": plots.token_chart,
            "confusion": plots.confusion_chart,
            "outcomes": plots.outcome_chart,
        }[figure](turns)
    plots.save(chart, file)
    print_text(f"plot: {file}")


def _graded_chart(
    turns: "pl.DataFrame", paths: Sequence[Path], figure: Figure, window: int
) -> "plots.AnyChart":
    from icl_loop import plots  # noqa: PLC0415  as above

    graded = graded_turns(turns, paths)
    if graded is None:
        raise InputError(
            "there are no log probabilities of labels; they are requested with"
            ' model.answer_format = "choice" or "logprobs"'
        )
    if figure == "calibration":
        return plots.calibration_chart(graded)
    return plots.score_chart(graded, window, score=figure.replace("-", "_"))
