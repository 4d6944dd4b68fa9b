"""Lines over turns, with their names at the right, moved apart where lines end together."""

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from icl_loop.plots.theme import HEIGHT, Look, dashes

_NAME_GAP = 17
"""Least pixels between the names at the right."""


def named(curves: pl.DataFrame) -> pl.DataFrame:
    """Add the name of each curve: the arm, and the experiment before it if there are several."""
    several = curves["experiment"].n_unique() > 1
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    return curves.with_columns(name=name)


def printable(turns: pl.DataFrame) -> pl.DataFrame:
    """Replace control and format characters in names by U+FFFD."""
    return turns.with_columns(pl.col("experiment", "arm").str.replace_all(r"\p{C}", "\ufffd"))


def thinned(points: pl.DataFrame, most: int, *line: str) -> pl.DataFrame:
    """Return every n-th point of each line, n being what keeps them about `most`."""
    stride = max(1, math.ceil(points.height / most))
    return points.filter(pl.int_range(pl.len()).over(line) % stride == 0)


def turn_axis(longest: int, ticks: int = 8) -> alt.X:
    """Return the axis of turns, from 0 to those planned."""
    return alt.X(
        "turn:Q",
        title="turn",
        axis=alt.Axis(tickMinStep=1, tickCount=ticks),
        scale=alt.Scale(domain=[0, longest], nice=False),
    )


def arm_colour(names: Sequence[str], look: Look) -> alt.Color:
    """Return the colours of the arms."""
    colours = [look.colour(place) for place in range(len(names))]
    return alt.Color("name:N", legend=None, scale=alt.Scale(domain=list(names), range=colours))


def arm_dashes(names: Sequence[str]) -> alt.StrokeDash:
    """Return the strokes of the arms."""
    strokes = [dashes(place) for place in range(len(names))]
    return alt.StrokeDash("name:N", legend=None, scale=alt.Scale(domain=list(names), range=strokes))


def names_at_the_right(
    ends: pl.DataFrame,
    colours: Mapping[str, str],
    look: Look,
    top: float = 1.0,
    height: int = HEIGHT,
) -> list[alt.Chart]:
    """Draw names beside the plot, each led to by a faint grey line from where its line ends.

    Args:
        ends: Columns `name`, `turn` and `value`; where lines end together, those named first stand
            lower.
        colours: Of the names.
        look: How charts look.
        top: The value at the top of the plot; 0 is at its foot.
        height: Pixels of the plot.
    """
    lines = ends.with_columns(
        colour=pl.col("name").replace_strict(colours, default=look.faint)
    ).sort("value", maintain_order=True)
    lines = lines.with_columns(
        height=pl.Series(top * apart(lines["value"] / top, _NAME_GAP / height))
    )
    colour = alt.Color("colour:N", scale=None)
    leader = (
        alt.Chart(lines)
        .mark_rule(strokeWidth=1, opacity=0.5, color=look.faint)  # dots are the baseline's
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


def apart(heights: ArrayLike, least: float) -> NDArray[np.float64]:
    """Return rising heights moved as little as keeps them `least` apart and between 0 and 1.

    Least squares under a least distance is isotonic regression of the heights less that distance
    times their rank.
    """
    wanted = np.asarray(heights, dtype=np.float64)
    gap = min(least, 1 / max(wanted.size - 1, 1))
    offsets = gap * np.arange(wanted.size)
    fitted = np.asarray(isotonic_regression(wanted - offsets).x, dtype=np.float64)
    return np.clip(fitted, 0, 1 - offsets[-1]) + offsets
