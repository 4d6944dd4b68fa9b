"""Lines over turns, labelled at their right end without overlaps."""

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from icl_loop.plots.theme import HEIGHT, Look, dashes

_NAME_GAP = 17
"""Minimum distance between labels in pixels."""


def named(curves: pl.DataFrame) -> pl.DataFrame:
    """Add a column `name`: the arm, preceded by the experiment if there are several."""
    several = curves["experiment"].n_unique() > 1
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    return curves.with_columns(name=name)


def printable(turns: pl.DataFrame) -> pl.DataFrame:
    """Replace control and format characters in names by U+FFFD."""
    return turns.with_columns(pl.col("experiment", "arm").str.replace_all(r"\p{C}", "\ufffd"))


def thinned(points: pl.DataFrame, most: int, *line: str) -> pl.DataFrame:
    """Return every n-th point of each line, so that about `most` points remain."""
    stride = max(1, math.ceil(points.height / most))
    return points.filter(pl.int_range(pl.len()).over(line) % stride == 0)


def turn_axis(longest: int, ticks: int = 8) -> alt.X:
    """Return the x axis, from 0 to the planned number of turns."""
    return alt.X(
        "turn:Q",
        title="turn",
        axis=alt.Axis(tickMinStep=1, tickCount=ticks),
        scale=alt.Scale(domain=[0, longest], nice=False),
    )


def arm_colour(names: Sequence[str], look: Look) -> alt.Color:
    """Return the colour scale of the arms."""
    colours = [look.colour(place) for place in range(len(names))]
    return alt.Color("name:N", legend=None, scale=alt.Scale(domain=list(names), range=colours))


def arm_dashes(names: Sequence[str]) -> alt.StrokeDash:
    """Return the dash scale of the arms."""
    strokes = [dashes(place) for place in range(len(names))]
    return alt.StrokeDash("name:N", legend=None, scale=alt.Scale(domain=list(names), range=strokes))


def end_labels(
    ends: pl.DataFrame,
    colours: Mapping[str, str],
    look: Look,
    top: float = 1.0,
    height: int = HEIGHT,
) -> list[alt.Chart]:
    """Draw names right of the plot, each connected to the end of its line.

    Args:
        ends: Columns `name`, `turn` and `value`; where lines end together, earlier rows are placed lower.
        colours: Colour of each name.
        look: Colours of the chart.
        top: The value at the top of the plot; the bottom is 0.
        height: Height of the plot in pixels.
    """
    lines = ends.with_columns(
        colour=pl.col("name").replace_strict(colours, default=look.faint)
    ).sort("value", maintain_order=True)
    lines = lines.with_columns(
        height=pl.Series(top * spread_out(lines["value"] / top, _NAME_GAP / height))
    )
    colour = alt.Color("colour:N", scale=None)
    leader = (
        alt.Chart(lines)
        .mark_rule(strokeWidth=1, opacity=0.5, color=look.faint)  # dotted lines are baselines
        .encode(
            x=alt.X("turn:Q"),
            y=alt.Y("value:Q"),
            x2=alt.value("width"),
            y2=alt.Y2("height:Q"),
        )
    )
    text = (
        alt.Chart(lines)
        .mark_text(align="left", dx=6, fontSize=12, limit=320)
        .encode(x=alt.value("width"), y=alt.Y("height:Q"), text=alt.Text("name:N"), color=colour)
    )
    return [leader, text]


def spread_out(heights: ArrayLike, least: float) -> NDArray[np.float64]:
    """Return ascending heights in 0..1, moved as little as possible to be at least `least` apart.

    The least-squares solution is the isotonic regression of height - least * rank, plus least * rank.
    """
    wanted = np.asarray(heights, dtype=np.float64)
    gap = min(least, 1 / max(wanted.size - 1, 1))
    offsets = gap * np.arange(wanted.size)
    fitted = np.asarray(isotonic_regression(wanted - offsets).x, dtype=np.float64)
    return np.clip(fitted, 0, 1 - offsets[-1]) + offsets
