"""Learning curves: windowed accuracy against turn, with chance and the baseline."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from icl_loop.analysis import arm_curves, session_curves
from icl_loop.core.errors import InputError
from icl_loop.plots.line_labels import (
    arm_colour,
    arm_dashes,
    end_labels,
    named,
    printable,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import GREY, HEIGHT, PAPER, WIDTH, Look, finished, panels

MAX_THIN_LINES = 20
"""Maximum number of single sessions drawn per arm, evenly chosen."""
FEWEST_FOR_BAND = 3
"""A band needs at least three sessions: with two it covers the whole plot."""
MAX_WITH_THIN = 5
"""With more arms, single sessions are not drawn, because they would hide each other."""
MAX_POINTS = PAPER.points
"""Approximate number of points for all lines of one kind; longer lines are thinned evenly."""


def curve_chart(
    turns: pl.DataFrame,
    window: int = 20,
    baseline: pl.DataFrame | None = None,
    look: Look = PAPER,
    learner: str = "",
) -> alt.LayerChart:
    """Return a chart of windowed accuracy against turn.

    Each arm has a line, a band (95 % t interval over sessions) and thin lines for single sessions.
    Chance is a dashed line, the baseline a dotted line in the colour of its arm. Arm names stand at
    the right and never overlap.

    Args:
        turns: A frame of turns.
        window: Number of turns in a window.
        baseline: The result of `baselines` for the same transcripts.
        look: Colours, size and interactivity.
        learner: Name of the baseline's reference learner.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    if turns.is_empty():
        raise InputError("there are no turns to draw")
    turns = printable(turns)
    arms = named(turns)["name"].unique(maintain_order=True).to_list()
    layers = _layers(turns, window, baseline, look, arms)
    title = _title(turns, learner if baseline is not None else "")
    return finished(alt.LayerChart(layer=layers), look, title)


def compared_chart(
    turns: pl.DataFrame, window: int = 20, baseline: pl.DataFrame | None = None, learner: str = ""
) -> alt.ConcatChart:
    """Return the learning curves of several experiments (or runs of one), each in its own panel.

    All panels share one scale, and arms of the same name share a colour.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    if turns.is_empty():
        raise InputError("there are no turns to draw")
    turns = printable(turns)
    arms = turns["arm"].unique(maintain_order=True).to_list()
    charts = [
        finished(
            alt.LayerChart(layer=_layers(part, window, baseline, PAPER, arms, PANEL)),
            PAPER,
            alt.TitleParams(str(name), anchor="start", fontSize=12, limit=PANEL),
            PANEL,
        )
        for (name,), part in turns.group_by("experiment", maintain_order=True)
    ]
    legend = [_LEGEND, _baseline_legend(learner)] if baseline is not None else [_LEGEND]
    return panels(charts, "Learning curves", pixels=PANEL + 60, subtitle=legend)


PANEL = 240
"""Height of a panel in pixels."""
_LEGEND = "lines: means over sessions; bands: 95 % t intervals; dashed: chance"


def _layers(
    turns: pl.DataFrame,
    window: int,
    baseline: pl.DataFrame | None,
    look: Look,
    all_arms: Sequence[str],
    height: int = HEIGHT,
) -> list[alt.Chart]:
    """Return the layers of one plot, from back to front."""
    sessions = named(session_curves(turns, window))
    arms = named(arm_curves(sessions))
    names = list(all_arms)
    base = alt.Chart(thinned(arms, look.points, "name")).encode(
        x=turn_axis(max(turns["turns"].unique()), 8 if height == HEIGHT else 5),
        y=alt.Y(
            "accuracy:Q",
            title=_accuracy_title(sessions),
            axis=alt.Axis(format="%", tickCount=6),
            scale=alt.Scale(domain=[0, 1]),
        ),
        color=arm_colour(names, look),
    )
    thin = base.properties(data=_single_sessions(sessions, look)).mark_line(
        strokeWidth=0.6, strokeOpacity=0.25
    )
    wide = pl.col("sessions") >= FEWEST_FOR_BAND
    band = (
        base.properties(data=thinned(arms.filter(wide), look.points, "name"))
        .mark_area(fillOpacity=0.16 if len(names) <= MAX_WITH_THIN else 0.1)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    )
    line = base.mark_line(strokeWidth=2.5).encode(strokeDash=arm_dashes(names))
    single = base.properties(data=arms.filter(pl.len().over("name") == 1))
    chance = _chance(turns)
    ends = arms.group_by("name", maintain_order=True).last()
    ends = ends.select("name", "turn", value="accuracy").reverse()
    colours = {name: look.text_colour(place) for place, name in enumerate(names)}
    return [
        *([thin.encode(detail=alt.Detail("path:N"))] if len(names) <= MAX_WITH_THIN else []),
        band,
        *_stateless_levels(turns, base),
        *_baseline_lines(turns, window, baseline, base, look),
        line.encode(tooltip=_TOOLTIP),
        single.mark_rule().encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        single.mark_circle(size=60, opacity=1).encode(tooltip=_TOOLTIP),
        _level(chance, look),
        *_pointer_layer(base, look),
        *end_labels(pl.concat([chance, ends]), colours, look, height=height),
    ]


def _stateless_levels(turns: pl.DataFrame, base: alt.Chart) -> list[alt.Chart]:
    """Draw the overall accuracy of arms without history as a level line."""
    if "exposure" not in turns.columns:
        return []
    shown = pl.col("exposure").sum().over("experiment", "arm")
    levels = named(turns).filter(shown == 0).group_by("name").agg(accuracy=pl.col("correct").mean())
    rule = alt.Chart(levels).mark_rule(strokeDash=[2, 5], strokeWidth=1.2)
    drawn = rule.encode(y=alt.Y("accuracy:Q"), color=base.encoding.color)
    return [drawn] if levels.height else []


_TOOLTIP = [
    alt.Tooltip("name:N", title="arm"),
    alt.Tooltip("turn:Q"),
    alt.Tooltip("accuracy:Q", format=".1%"),
    alt.Tooltip("sessions:Q"),
]


def _single_sessions(sessions: pl.DataFrame, look: Look) -> pl.DataFrame:
    """Return the points of single sessions, with numbers in place of paths, which may name folders."""
    path = pl.col("path").rank("dense").over("name").cast(pl.Int64) - 1
    step = (pl.col("path").n_unique().over("name") / MAX_THIN_LINES).ceil().cast(pl.Int64)
    chosen = sessions.select("name", "turn", "accuracy", path=path, step=step).filter(
        pl.col("path") % pl.col("step") == 0
    )
    return thinned(chosen.drop("step"), look.points, "name", "path")


def baseline_curves(turns: pl.DataFrame, window: int, baseline: pl.DataFrame) -> pl.DataFrame:
    """Return the named curves of the baseline, in the form of `arm_curves`; arms without one are absent."""
    both = turns.join(baseline, on=["path", "turn"], how="inner", maintain_order="left")
    shaded = both.with_columns(correct="baseline")
    curves = arm_curves(session_curves(shaded, window)) if shaded.height else None
    several = turns["experiment"].n_unique() > 1
    if curves is None:
        return pl.DataFrame(schema={"name": pl.String, "turn": pl.Float64, "accuracy": pl.Float64})
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    return curves.select("turn", "accuracy", name=name)


def _baseline_lines(
    turns: pl.DataFrame, window: int, baseline: pl.DataFrame | None, base: alt.Chart, look: Look
) -> list[alt.Chart]:
    if baseline is None:
        return []
    curves = thinned(baseline_curves(turns, window, baseline), look.points, "name")
    fine = base.properties(data=curves).mark_line(strokeWidth=1.3, strokeDash=[1, 2])
    return [fine]


def _chance(turns: pl.DataFrame) -> pl.DataFrame:
    return turns.select(
        name=pl.lit("chance"),
        turn=pl.col("turns").max().cast(pl.Float64),
        value=pl.col("chance").unique(maintain_order=True),
    )


def _level(chance: pl.DataFrame, look: Look) -> alt.Chart:
    rule = alt.Chart(chance).mark_rule(strokeDash=[6, 4], color=look.faint)
    drawn: alt.Chart = rule.encode(y=alt.Y("value:Q"))
    return drawn


def _pointer_layer(base: alt.Chart, look: Look) -> list[alt.Chart]:
    """Mark the point nearest to the pointer and show its values."""
    if not look.interactive:
        return []
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    seen = alt.condition(near, alt.value(1), alt.value(0))
    dots = (
        base.mark_circle(size=70)
        .encode(opacity=seen, tooltip=alt.value(alt.ExprRef(_NEAREST_TOOLTIP)))
        .add_params(near)
    )
    return [dots]


# The pointer hits the Voronoi cell around a point; its datum holds the point.
_NEAREST_TOOLTIP = (
    "{'arm': (datum.datum || datum).name, 'turn': (datum.datum || datum).turn,"
    " 'accuracy': format((datum.datum || datum).accuracy, '.1%'),"
    " '95 % interval': isValid((datum.datum || datum).low)"
    " ? format((datum.datum || datum).low, '.1%') + ' to '"
    " + format((datum.datum || datum).high, '.1%') : 'none',"
    " 'sessions': (datum.datum || datum).sessions}"
)


def _accuracy_title(sessions: pl.DataFrame) -> str:
    sizes = sorted(sessions["window"].unique())
    return f"accuracy in windows of {' or '.join(map(str, sizes))} turn{'s' * (sizes != [1])}"


def _title(turns: pl.DataFrame, learner: str) -> alt.TitleParams:
    names = turns["experiment"].unique(maintain_order=True)
    sessions = turns["path"].n_unique()
    planned = " or ".join(map(str, sorted(turns["turns"].unique())))
    most = max(turns.group_by("experiment", "arm").agg(pl.col("path").n_unique())["path"])
    some = "single sessions" if most <= MAX_THIN_LINES else "some of the sessions"
    thin = turns.select("experiment", "arm").n_unique() <= MAX_WITH_THIN
    subtitle = [
        f"{sessions} session{'s' * (sessions > 1)} of {planned} turns",
        "lines: means over sessions; bands: 95 % t intervals"
        + (f"; thin lines: {some}" if thin else ""),
    ]
    if learner:
        subtitle.append(_baseline_legend(learner))
    return alt.TitleParams(
        text=f"Learning curve{'s' * (len(names) > 1)}: {', '.join(names)}",
        subtitle=subtitle,
        anchor="start",
        limit=WIDTH,
        subtitleColor=GREY,
    )


def _baseline_legend(learner: str) -> str:
    return f"dotted: the baseline, {learner} given the same context as the model"
