"""`icl-loop plot`: draw charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from icl_loop.analysis import checkpoints, conclude_each, frame, probes, sessions
from icl_loop.analysis.arm_roles import by_model
from icl_loop.analysis.graded_learning import graded_turns
from icl_loop.cli import options
from icl_loop.core.errors import InputError, nearest
from icl_loop.terminal.chart_baseline import chart_baseline
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
        Path, Option("-o", "--output", help="File to write: .png, .svg, .pdf or .html.")
    ] = Path("learning-curve.png"),
    figure: Annotated[Figure, Option(help="Chart to draw.")] = "curves",
    window: Annotated[
        int | None,
        Option(
            min=1,
            help="Turns per window. Default: 20, but at most a fifth of the longest session.",
        ),
    ] = None,
    arms: Annotated[
        str | None, Option(metavar="ARM,ARM", help="Arms to draw. Default: all.")
    ] = None,
    compare: Annotated[
        bool,
        Option("--compare", help="Draw each run in its own panel, as each of several models is."),
    ] = False,
    learner: options.ChartBaseline = None,
    no_baseline: options.NoBaseline = False,
    title: Annotated[str, Option(help="Title in place of the default one.")] = "",
    width: Annotated[
        int | None,
        Option(min=50, max=10_000, help="Width of the plot, or of each panel, in pixels."),
    ] = None,
    height: Annotated[
        int | None,
        Option(min=50, max=10_000, help="Height of the plot, or of each panel, in pixels."),
    ] = None,
    no_caption: Annotated[
        bool, Option("--no-caption", help="Leave out the lines below the title.")
    ] = False,
) -> None:
    """Draw accuracy over turns with chance and the baseline, or another chart."""
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    plots.check_format(file)
    options.check_writable(file)
    if compare and figure != "curves":
        raise InputError(f"--compare works with --figure curves only, not {figure}")
    turns = _only(frame(paths), arms)
    look = plots.Look(width=width, height=height, title=title, captions=not no_caption)
    chart: plots.AnyChart
    if figure == "curves":
        baseline = chart_baseline(turns, learner, wanted=not no_baseline, paths=paths)
        if baseline.note and not no_baseline:
            print_error(baseline.note)
        separate = by_model(turns, sessions(paths))
        several_models = separate is not turns
        draw = plots.compared_chart if compare or several_models else plots.curve_chart
        chart = draw(separate, window, baseline.turns, look, baseline.learner)
    elif figure == "contrasts":
        chart = plots.contrast_charts(
            conclude_each(turns, None, sessions(paths), probes(paths), paths), look
        )
    elif figure == "probes":
        asked = probes(paths)
        checks = checkpoints(asked.filter(asked["arm"].is_in(turns["arm"].unique().implode())))
        if not checks:
            raise InputError("there are no probes; they are asked after the turns in probes.at")
        chart = plots.probe_chart(turns, checks, look)
    elif figure in ("log-loss", "brier", "calibration"):
        chart = _graded_chart(turns, paths, figure, window, look)
    else:
        chart = {
            "tokens": plots.token_chart,
            "confusion": plots.confusion_chart,
            "outcomes": plots.outcome_chart,
        }[figure](turns, look)
    plots.save(chart, file)
    print_text(f"plot: {file}")


def _only(turns: "pl.DataFrame", arms: str | None) -> "pl.DataFrame":
    """Return the turns of the arms that `--arms` names; all if it was not given."""
    if arms is None:
        return turns
    wanted = [arm.strip() for arm in arms.split(",")]
    played = turns["arm"].unique(maintain_order=True).to_list()
    for arm in wanted:
        if arm not in played:
            raise InputError(f"--arms {arms}: there is no arm {arm!r}; {nearest(arm, played)}")
    return turns.filter(turns["arm"].is_in(wanted))


def _graded_chart(
    turns: "pl.DataFrame",
    paths: Sequence[Path],
    figure: Figure,
    window: int | None,
    look: "plots.Look",
) -> "plots.AnyChart":
    from icl_loop import plots  # noqa: PLC0415  as above

    graded = graded_turns(turns, paths)
    if graded is None:
        raise InputError(
            "there are no log probabilities of labels; they are requested with"
            ' model.answer_format = "choice" or "logprobs"'
        )
    if figure == "calibration":
        return plots.calibration_chart(graded, look)
    return plots.score_chart(graded, window, look, score=figure.replace("-", "_"))
