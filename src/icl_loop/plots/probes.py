"""Chart of probe accuracy against the number of turns played before."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from icl_loop.analysis import Checkpoint
from icl_loop.plots.line_labels import (
    arm_colour,
    arm_dashes,
    end_labels,
    named,
    printable,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, Look, finished

_SPREAD = 0.02
"""Maximum sideways shift of dots at a checkpoint, as a share of the longest session."""
_TOOLTIP = [
    alt.Tooltip("name:N", title="arm"),
    alt.Tooltip("after:Q", title="after turns"),
    alt.Tooltip("value:Q", title="accuracy", format=".1%"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("probes:N"),
    alt.Tooltip("sessions:Q"),
]


def probe_chart(
    turns: pl.DataFrame, checks: Sequence[Checkpoint], look: Look = PAPER
) -> alt.LayerChart:
    """Return a chart of probe accuracy against checkpoint, with one line per arm.

    Bars are 95 % t intervals over sessions; chance is a dashed line.

    Args:
        turns: A frame of turns of all arms, which determines their colours.
        checks: The result of `checkpoints`, not empty.
        look: Colours, size and interactivity.
    """
    turns = named(printable(turns))
    names = turns["name"].unique(maintain_order=True).to_list()
    points = _points(turns, checks)
    longest = max(turns["turns"])
    edge = _SPREAD * longest
    base = alt.Chart(_spread(points, names, edge)).encode(
        x=_axis(longest, edge),
        y=alt.Y(
            "value:Q",
            title="accuracy on probes",
            axis=alt.Axis(format="%", tickCount=6),
            scale=alt.Scale(domain=[0, 1]),
        ),
        color=arm_colour(names, look),
        tooltip=_TOOLTIP,
    )
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(
        y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
    )
    ends = points.group_by("name", maintain_order=True).last().select("name", "turn", "value")
    ends = ends.with_columns(turn=pl.lit(longest + edge))
    colours = {name: look.text_colour(place) for place, name in enumerate(names)}
    chance = pl.DataFrame({"value": turns["chance"].unique(maintain_order=True)})
    level = alt.Chart(chance).mark_rule(strokeDash=[6, 4], color=look.faint)
    layers = [
        level.encode(y=alt.Y("value:Q")),
        bars,
        base.mark_line(strokeWidth=2).encode(strokeDash=arm_dashes(names)),
        base.mark_circle(size=70, opacity=1),
        *end_labels(ends.reverse(), colours, look),
    ]
    title = alt.TitleParams("Accuracy on probes", anchor="start")
    return finished(alt.LayerChart(layer=layers), look, title)


def _axis(longest: int, edge: float) -> alt.X:
    """Return the x axis, with room for shifted dots at both ends."""
    axis = turn_axis(longest).title("turns played before")
    return axis.scale(domain=[-edge, longest + edge], nice=False)


def _spread(points: pl.DataFrame, names: Sequence[str], edge: float) -> pl.DataFrame:
    """Return the points, shifted sideways by arm so that they do not overlap."""
    steps = np.linspace(-edge, edge, len(names) + 2)[1:-1]
    aside = pl.col("name").replace_strict(dict(zip(names, steps, strict=True)))
    return points.with_columns(after=pl.col("turn"), turn=pl.col("turn") + aside)


def _points(turns: pl.DataFrame, checks: Sequence[Checkpoint]) -> pl.DataFrame:
    """Return one row per checkpoint and arm, arms in the order of `turns`."""
    arms = turns.select("experiment", "arm", "name").unique(maintain_order=True)
    rows = [
        {
            "experiment": each.experiment,
            "arm": each.arm,
            "turn": each.after_turn,
            "value": each.accuracy.mean,
            "low": each.accuracy.interval and max(0.0, each.accuracy.interval[0]),
            "high": each.accuracy.interval and min(1.0, each.accuracy.interval[1]),
            "interval": _interval_text(each.accuracy.interval),
            "probes": f"{each.right} of {each.asked} right",
            "sessions": each.accuracy.sessions,
        }
        for each in sorted(checks, key=lambda check: check.after_turn)
    ]
    return arms.join(
        printable(pl.DataFrame(rows)), on=("experiment", "arm"), maintain_order="left_right"
    ).drop("experiment", "arm")


def _interval_text(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "none"
