"""Learning curves: windowed accuracy against turn, with chance and the baseline."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from icl_loop.analysis import arm_curves, session_curves
from icl_loop.analysis.curves import with_baseline
from icl_loop.core.errors import InputError
from icl_loop.core.names import distinct
from icl_loop.plots.inline import InlineConcatChart, InlineLayerChart
from icl_loop.plots.line_charts import (
    LEGEND,
    arm_colour,
    arm_dashes,
    chance_levels,
    chance_rule,
    end_labels,
    fitting_window,
    heading,
    line_ends,
    named,
    share_axis,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import HEIGHT, PAPER, Look, finished, panel_title, panels

MAX_THIN_LINES = 20
"""Maximum number of single sessions drawn per arm, evenly chosen."""
MAX_WITH_THIN = 5
"""With more arms, single sessions are not drawn, because they would hide each other."""
PANEL = 240
"""Height of a panel in pixels."""
_TOOLTIP = [
    alt.Tooltip("name:N", title="arm"),
    alt.Tooltip("turn:Q"),
    alt.Tooltip("accuracy:Q", format=".1%"),
    alt.Tooltip("sessions:Q"),
]
# The pointer hits the Voronoi cell around a point; its datum holds the point.
_NEAREST_TOOLTIP = (
    "{'arm': (datum.datum || datum).name, 'turn': (datum.datum || datum).turn,"
    " 'accuracy': format((datum.datum || datum).accuracy, '.1%'),"
    " '95 % interval': isValid((datum.datum || datum).low)"
    " ? format((datum.datum || datum).low, '.1%') + ' to '"
    " + format((datum.datum || datum).high, '.1%') : 'none',"
    " 'sessions': (datum.datum || datum).sessions}"
)


def curve_chart(
    turns: pl.DataFrame,
    window: int | None = None,
    baseline: pl.DataFrame | None = None,
    look: Look = PAPER,
    learner: str = "",
) -> InlineLayerChart:
    """Return a chart of windowed accuracy against turn.

    Each arm has a line, a band (95 % interval over sessions) and thin lines for single sessions.
    Chance is a dashed line, the baseline a dotted line in the colour of its arm. Arm names stand at
    the right and never overlap.

    Args:
        turns: A frame of turns.
        window: Number of turns in a window; by default that of `fitting_window`.
        baseline: The result of `baselines` for the same transcripts.
        look: Colours, size and interactivity.
        learner: Name of the baseline's reference learner.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    turns = _named(turns)
    names = turns["name"].unique(maintain_order=True).to_list()
    layers = _layers(turns, window or fitting_window(turns), baseline, look, names)
    most = max(turns.group_by("name").agg(pl.col("path").n_unique())["path"])
    some = "single sessions" if most <= MAX_THIN_LINES else "some of the sessions"
    thin = f"; thin lines: {some}" if len(names) <= MAX_WITH_THIN else ""
    dotted = [_baseline_legend(learner)] if baseline is not None and learner else []
    title = heading("Learning curves", turns, look, LEGEND + thin, *dotted)
    return finished(InlineLayerChart(layer=layers), look, title)


def compared_chart(
    turns: pl.DataFrame,
    window: int | None = None,
    baseline: pl.DataFrame | None = None,
    look: Look = PAPER,
    learner: str = "",
) -> InlineConcatChart:
    """Return the learning curves of several experiments, runs or models, each in its own panel.

    The panels are those of `curve_panels`.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    charts = curve_panels(turns, window, baseline, look)
    dotted = [_baseline_legend(learner)] if baseline is not None else []
    title = heading("Learning curves", turns, look, f"{LEGEND}; dashed: chance", *dotted)
    return panels(list(charts.values()), title, look)


def curve_panels(
    turns: pl.DataFrame,
    window: int | None = None,
    baseline: pl.DataFrame | None = None,
    look: Look = PAPER,
) -> dict[str, alt.LayerChart]:
    """Return the learning curves of each experiment in a frame as a small chart, by its name.

    All share one scale and one window, by default one that fits the shortest experiment. Arms of the
    same name share a colour; if no name occurs twice, arms in the same place do.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    turns = _named(turns)
    arms = turns["arm"].unique(maintain_order=True)
    turns = turns.with_columns(name=pl.col("arm").replace_strict(arms, distinct(arms)))
    names = turns["name"].unique(maintain_order=True).to_list()
    recurring = len(names) < turns.select("experiment", "name").n_unique()
    parts = turns.partition_by("experiment", maintain_order=True)
    size, charts = window or min(map(fitting_window, parts)), {}
    for part in parts:
        name, own = part["experiment"][0], names
        if not recurring:
            own = part["name"].unique(maintain_order=True).to_list()
        drawn = alt.LayerChart(layer=_layers(part, size, baseline, look, own, PANEL))
        charts[name] = finished(drawn, look, panel_title(name, PANEL), PANEL, PANEL + 60)
    return charts


def _named(turns: pl.DataFrame) -> pl.DataFrame:
    if turns.is_empty():
        raise InputError("there are no turns to draw")
    return named(turns)


def _layers(
    turns: pl.DataFrame,
    window: int,
    baseline: pl.DataFrame | None,
    look: Look,
    names: Sequence[str],
    height: int = HEIGHT,
) -> list[alt.Chart]:
    """Return the layers of one plot, from back to front."""
    sessions = _with_names(session_curves(turns, window), turns)
    arms = _with_names(arm_curves(sessions), turns)
    base = alt.Chart(thinned(arms, look.points, "name")).encode(
        x=turn_axis(turns, 8 if height == HEIGHT else 5),
        y=share_axis("accuracy:Q", _accuracy_title(sessions)),
        color=arm_colour(names, look),
    )
    thin = base.properties(data=_single_sessions(sessions, look)).mark_line(
        strokeWidth=0.6, strokeOpacity=0.25
    )
    wide = thinned(arms.drop_nulls("low"), look.points, "name")
    band = base.properties(data=wide).mark_area(
        fillOpacity=0.16 if len(names) <= MAX_WITH_THIN else 0.1
    )
    layers = [thin.encode(detail="path:N")] if len(names) <= MAX_WITH_THIN else []
    layers += [band.encode(y="low:Q", y2="high:Q"), *_stateless_levels(turns, base)]
    if baseline is not None:
        points = thinned(_baseline_curves(turns, window, baseline), look.points, "name")
        layers.append(base.properties(data=points).mark_line(strokeWidth=1.3, strokeDash=[1, 2]))
    line = base.mark_line(strokeWidth=2.5).encode(
        strokeDash=arm_dashes(names, arms, "accuracy"), tooltip=_TOOLTIP
    )
    single = base.properties(data=arms.filter(pl.len().over("name") == 1))
    ends, levels = line_ends(arms, "accuracy"), chance_levels(turns)
    return [
        *layers,
        line,
        single.mark_rule().encode(y="low:Q", y2="high:Q"),
        single.mark_circle(size=60, opacity=1).encode(tooltip=_TOOLTIP),
        chance_rule(turns, look),
        *([_pointer_layer(base)] if look.interactive else []),
        *end_labels(ends, names, look, levels, height=look.height or height),
    ]


def _with_names(curves: pl.DataFrame, turns: pl.DataFrame) -> pl.DataFrame:
    names = turns.select("experiment", "arm", "name").unique()
    return curves.join(names, on=("experiment", "arm"), maintain_order="left")


def _baseline_curves(turns: pl.DataFrame, window: int, baseline: pl.DataFrame) -> pl.DataFrame:
    answered = turns.join(baseline, on=["path", "turn"], maintain_order="left")
    sessions = session_curves(with_baseline(answered), window)
    return _with_names(arm_curves(sessions), turns).select("turn", "accuracy", "name")


def _stateless_levels(turns: pl.DataFrame, base: alt.Chart) -> list[alt.Chart]:
    """Draw the overall accuracy of arms without history as a level line."""
    stateless = turns.filter(pl.col("exposure").eq_missing(0).all().over("experiment", "arm"))
    levels = stateless.group_by("name").agg(accuracy=pl.col("correct").mean())
    rule = alt.Chart(levels).mark_rule(strokeDash=[2, 5], strokeWidth=1.2)
    return [rule.encode(y="accuracy:Q", color=base.encoding.color)] if levels.height else []


def _single_sessions(sessions: pl.DataFrame, look: Look) -> pl.DataFrame:
    """Return the points of single sessions, with numbers in place of paths, which may name folders."""
    path = pl.col("path").rank("dense").over("name").cast(pl.Int64) - 1
    step = (pl.col("path").n_unique().over("name") / MAX_THIN_LINES).ceil().cast(pl.Int64)
    chosen = sessions.select("name", "turn", "accuracy", path=path, step=step)
    chosen = chosen.filter(pl.col("path") % pl.col("step") == 0).drop("step")
    return thinned(chosen, look.points, "name", "path")


def _pointer_layer(base: alt.Chart) -> alt.Chart:
    """Mark the point nearest to the pointer and show its values."""
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    drawn: alt.Chart = (
        base.mark_circle(size=70)
        .encode(
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=alt.value(alt.ExprRef(_NEAREST_TOOLTIP)),
        )
        .add_params(near)
    )
    return drawn


def _accuracy_title(sessions: pl.DataFrame) -> str:
    sizes = sorted(sessions["window"].unique())
    return f"accuracy in windows of {' or '.join(map(str, sizes))} turn{'s' * (sizes != [1])}"


def _baseline_legend(learner: str) -> str:
    return f"dotted: the baseline, {learner} given the same context as the model"
