"""What the charts of lines over turns share: names, axes, colours, chance, and labels at line ends."""

import math
from collections.abc import Mapping, Sequence
from itertools import count

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from icl_loop.plots.theme import HEIGHT, Look, dashes

_NAME_GAP = 17
"""Minimum distance between labels in pixels."""


def named(turns: pl.DataFrame) -> pl.DataFrame:
    """Add a column `name`: the arm, preceded by the experiment if there are several.

    Control and format characters in names become U+FFFD.
    """
    several = turns["experiment"].n_unique() > 1
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    safe = turns.with_columns(pl.col("experiment", "arm").str.replace_all(r"\p{C}", "\ufffd"))
    return safe.with_columns(name=name)


def thinned(points: pl.DataFrame, most: int, *line: str) -> pl.DataFrame:
    """Return every n-th point of each line, so that about `most` points remain."""
    stride = max(1, math.ceil(points.height / most))
    return points.filter(pl.int_range(pl.len()).over(line) % stride == 0)


def turn_axis(longest: int, ticks: int = 8) -> alt.X:
    """Return the x axis, from 0 to the planned number of turns."""
    axis = alt.Axis(tickMinStep=1, tickCount=ticks)
    return alt.X(
        "turn:Q", title="turn", axis=axis, scale=alt.Scale(domain=[0, longest], nice=False)
    )


def share_axis(field: str, title: str) -> alt.Y:
    """Return a y axis from 0 to 100 %."""
    axis = alt.Axis(format="%", tickCount=6)
    return alt.Y(field, title=title, axis=axis, scale=alt.Scale(domain=[0, 1]))


def arm_colour(names: Sequence[str], look: Look, field: str = "name") -> alt.Color:
    """Return the colour scale of the arms, whose names are in `field`."""
    colours = [look.colour(place) for place in range(len(names))]
    return alt.Color(f"{field}:N", legend=None, scale=alt.Scale(domain=list(names), range=colours))


def arm_dashes(names: Sequence[str]) -> alt.StrokeDash:
    """Return the dash scale of the arms."""
    strokes = [dashes(place) for place in range(len(names))]
    return alt.StrokeDash("name:N", legend=None, scale=alt.Scale(domain=list(names), range=strokes))


def chance_levels(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the chance levels of the experiments, in the form that `end_labels` takes."""
    return turns.select(
        name=pl.lit("chance"),
        turn=pl.col("turns").max().cast(pl.Float64),
        value=pl.col("chance").unique(maintain_order=True),
    )


def chance_rule(turns: pl.DataFrame, look: Look) -> alt.Chart:
    """Draw chance as a dashed line."""
    rule = alt.Chart(chance_levels(turns)).mark_rule(strokeDash=[6, 4], color=look.faint)
    drawn: alt.Chart = rule.encode(y="value:Q")
    return drawn


def line_ends(points: pl.DataFrame, value: str = "value") -> pl.DataFrame:
    """Return the last point of each line, in the form that `end_labels` takes."""
    ends = points.group_by("name", maintain_order=True).last()
    return ends.select("name", "turn", value=value).reverse()


def end_labels(
    ends: pl.DataFrame,
    names: Sequence[str] | Mapping[str, int],
    look: Look,
    top: float = 1.0,
    height: int = HEIGHT,
) -> list[alt.Chart]:
    """Draw names right of the plot, each connected to the end of its line.

    Args:
        ends: Columns `name`, `turn` and `value`; where lines end together, earlier rows are placed lower.
        names: Names of all arms, which determine the colours; or the place of the colour by name.
        look: Colours of the chart.
        top: The value at the top of the plot; the bottom is 0.
        height: Height of the plot in pixels.
    """
    places = names if isinstance(names, Mapping) else dict(zip(names, count(), strict=False))
    colours = {name: look.text_colour(place) for name, place in places.items()}
    colour = pl.col("name").replace_strict(colours, default=look.faint)
    lines = ends.with_columns(colour=colour).sort("value", maintain_order=True)
    heights = top * spread_out(lines["value"] / top, _NAME_GAP / height)
    base = alt.Chart(lines.with_columns(height=pl.Series(heights)))
    leader = base.mark_rule(strokeWidth=1, opacity=0.5, color=look.faint)  # dotted: baselines
    text = base.mark_text(align="left", dx=6, fontSize=12, limit=320)
    right = alt.value("width")
    return [
        leader.encode(x="turn:Q", y="value:Q", x2=right, y2="height:Q"),
        text.encode(x=right, y="height:Q", text="name:N", color=alt.Color("colour:N", scale=None)),
    ]


def spread_out(heights: ArrayLike, least: float) -> NDArray[np.float64]:
    """Return ascending heights in 0..1, moved as little as possible to be at least `least` apart.

    The least-squares solution is the isotonic regression of height - least * rank, plus least * rank.
    """
    wanted = np.asarray(heights, dtype=np.float64)
    gap = min(least, 1 / max(wanted.size - 1, 1))
    offsets = gap * np.arange(wanted.size)
    fitted = np.asarray(isotonic_regression(wanted - offsets).x, dtype=np.float64)
    return np.clip(fitted, 0, 1 - offsets[-1]) + offsets
