"""What the charts of lines over turns share: names, axes, colours, chance, and labels at line ends."""

import math
from collections.abc import Mapping, Sequence
from itertools import count

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from icl_loop.analysis.curves import models_played
from icl_loop.core.names import distinct
from icl_loop.plots.theme import HEIGHT, Look, dashes

LEGEND = "lines: means over sessions; bands: 95 % intervals"
_NAME_GAP = 17
"""Minimum distance between labels in pixels."""
_WINDOW = 20
"""Turns in a window, unless sessions are short."""
_DASH = 7
"""Length in pixels of the pieces in which equal curves are drawn in turn."""
_EQUAL = 0.003
"""Share of the axis within which two curves hide each other: about half the width of a line."""


def named(turns: pl.DataFrame) -> pl.DataFrame:
    """Add a column `name`: the arm, preceded by the experiment if there are several.

    Names are data of a chart and never part of an expression in it; see `distinct`.
    """
    arms = turns.select("experiment", "arm").unique(maintain_order=True)
    several = arms["experiment"].n_unique() > 1
    names = [f"{experiment} / {arm}" if several else arm for experiment, arm in arms.rows()]
    return turns.drop("name", strict=False).join(
        arms.with_columns(name=pl.Series(distinct(names), dtype=pl.String)),
        on=("experiment", "arm"),
        maintain_order="left",
    )


def thinned(points: pl.DataFrame, most: int, *line: str) -> pl.DataFrame:
    """Return every n-th point of each line, so that about `most` points remain."""
    stride = max(1, math.ceil(points.height / most))
    return points.filter(pl.int_range(pl.len()).over(line) % stride == 0)


def fitting_window(turns: pl.DataFrame) -> int:
    """Return the number of turns in a window: 20, but at most a fifth of the longest session."""
    return min(_WINDOW, max(1, (int(max(turns["turn"])) + 1) // 5))


def heading(what: str, turns: pl.DataFrame, look: Look, *legend: str) -> alt.TitleParams:
    """Return the title of a figure: what it shows, of which experiments and sessions.

    Args:
        what: What the figure shows.
        turns: A frame of the turns drawn.
        look: The title in place of this one, if any, and whether there is a caption.
        legend: Lines of the caption that explain the marks.
    """
    experiments = turns["experiment"].unique(maintain_order=True)
    of = f": {experiments[0]}" if len(experiments) == 1 else ""  # several stand beside the lines
    sessions = turns["path"].n_unique()
    planned = " or ".join(map(str, sorted(turns["turns"].unique())))
    played = f"{sessions} session{'s' * (sessions > 1)} of {planned} turns"
    models = models_played(turns)
    by = [f"model{'s' * (len(models) > 1)}: {', '.join(models)}"] if models else []
    return look.heading(what + of, ["; ".join([played, *by]), *legend])


def turn_axis(turns: pl.DataFrame, ticks: int = 8) -> alt.X:
    """Return the x axis, from 0 to the number of turns planned, or played if these are more."""
    longest = max(turns.select(pl.max_horizontal("turns", pl.col("turn") + 1)).to_series())
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


def arm_dashes(names: Sequence[str], points: pl.DataFrame, value: str) -> alt.StrokeDash:
    """Return the dash scale of the arms.

    Lines that would hide each other are drawn in pieces of equal length that take turns.

    Args:
        names: Names of all arms, in the order in which their lines are drawn.
        points: The points of the lines, with columns `name`, `turn` and `value`.
        value: Name of the column of values.
    """
    strokes = [dashes(place) for place in range(len(names))]
    for group in _hidden(names, points, value):
        for above, name in enumerate(group[1:], start=1):  # the first is drawn below all others
            dash = [_DASH * (len(group) - above), _DASH * above]
            strokes[names.index(name)] = dash
    return alt.StrokeDash("name:N", legend=None, scale=alt.Scale(domain=list(names), range=strokes))


def _hidden(names: Sequence[str], points: pl.DataFrame, value: str) -> list[list[str]]:
    """Return the groups of lines of which at least half of the points are those of the first."""
    top = max(float(points[value].abs().max() or 0.0), _EQUAL)  # type: ignore[arg-type]  # a column of floats
    curves = {name: points.filter(name=name).select("turn", value) for name in names}
    groups: list[list[str]] = []
    for name, curve in curves.items():
        for group in groups:
            both = curve.join(curves[group[0]], on="turn")
            equal = (both[value] - both[f"{value}_right"]).abs() <= _EQUAL * top
            if both.height and 2 * equal.sum() >= both.height:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def level_name(name: str, arms: Sequence[str]) -> str:
    """Return `name`, with a word added if an arm is called the same."""
    return level_name(f"{name} level", arms) if name in arms else name


def chance_levels(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the chance levels of named turns, in the form that `end_labels` takes."""
    return turns.select(
        name=pl.lit(level_name("chance", turns["name"].unique().to_list())),
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
    levels: pl.DataFrame | None = None,
    top: float = 1.0,
    height: int | None = None,
) -> list[alt.Chart]:
    """Draw names right of the plot, each connected to the end of its line.

    Args:
        ends: Columns `name`, `turn` and `value`; where lines end together, earlier rows are placed lower.
        names: Names of all arms, which determine the colours; or the place of the colour by name.
        look: Colours of the chart.
        levels: Levels that belong to no arm, such as chance, in the form of `ends`; placed lowest.
        top: The value at the top of the plot; the bottom is 0.
        height: Height of the plot in pixels; by default that of the look.
    """
    places = names if isinstance(names, Mapping) else dict(zip(names, count(), strict=False))
    colours = {name: look.text_colour(place) for name, place in places.items()}
    colour = pl.col("name").replace_strict(colours, default=look.faint)
    lines = ends if levels is None else pl.concat([levels, ends])
    lines = lines.with_columns(colour=colour).sort("value", maintain_order=True)
    heights = top * spread_out(lines["value"] / top, _NAME_GAP / (height or look.height or HEIGHT))
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
