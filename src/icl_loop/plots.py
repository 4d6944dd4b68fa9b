"""Charts of learning curves: PNG, SVG and offline HTML from one specification."""

import json
import math
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from icl_loop.analysis import arm_curves, session_curves
from icl_loop.errors import InputError, StoppedShort, nearest

FORMATS = (".png", ".svg", ".html")
# Okabe and Ito (2008), "Color universal design": told apart with any colour vision. Yellow is
# left out, being too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[list[int], ...] = ([], [7, 3], [2, 2], [7, 2, 2, 2])
"""Strokes of the first arms, of those that take the colours for the second time, and so on."""
GREY = "#555555"
WIDTH, HEIGHT = 640, 380
"""Pixels of the plot without its titles and names."""
MAX_THIN_LINES = 20
"""Sessions of one arm that are drawn singly; with more, an even choice of them is."""
MAX_POINTS = 4_000
"""About as many points have all lines of one kind together; longer ones leave out turns evenly."""
_NAME_GAP = 17 / HEIGHT
"""Least distance between the names at the right, as a share of the height."""


def curve_chart(turns: pl.DataFrame, window: int = 20) -> alt.LayerChart:
    """Return the chart of windowed accuracy against turn.

    For each arm a line, a band (95 % t interval over sessions) and a thin line a session; chance
    as a dashed line. Names stand at the right, moved apart where lines end together.

    Args:
        turns: A frame of turns.
        window: Turns in a window.

    Raises:
        InputError: There are no turns, or a window has none.
    """
    if turns.is_empty():
        raise InputError("there are no turns to draw")
    turns = turns.with_columns(pl.col("experiment", "arm").str.replace_all(r"\p{C}", "\ufffd"))
    sessions = _named(session_curves(turns, window))
    arms = _named(arm_curves(sessions))
    names = arms["name"].unique(maintain_order=True).to_list()
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(names))]
    dashes = [DASHES[place // len(COLOURS) % len(DASHES)] for place in range(len(names))]
    longest = max(turns["turns"])
    base = alt.Chart(_thinned(arms, "name")).encode(
        x=alt.X(
            "turn:Q",
            title="turn",
            axis=alt.Axis(tickMinStep=1),
            scale=alt.Scale(domain=[0, longest], nice=False),
        ),
        y=alt.Y(
            "accuracy:Q",
            title=_windows(sessions),
            axis=alt.Axis(format="%"),
            scale=alt.Scale(domain=[0, 1]),
        ),
        color=alt.Color("name:N", legend=None, scale=alt.Scale(domain=names, range=colours)),
    )
    thin = base.properties(data=_few(sessions)).mark_line(strokeWidth=0.6, strokeOpacity=0.25)
    band = base.mark_area(fillOpacity=0.18).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2.5).encode(
        strokeDash=alt.StrokeDash(
            "name:N", legend=None, scale=alt.Scale(domain=names, range=dashes)
        ),
        tooltip=[
            alt.Tooltip("name:N", title="arm"),
            alt.Tooltip("turn:Q"),
            alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("sessions:Q"),
        ],
    )
    single = base.properties(data=arms.filter(pl.len().over("name") == 1))
    layers = [
        thin.encode(detail=alt.Detail("path:N")),
        band,
        line,
        single.mark_rule().encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        single.mark_circle(size=60, opacity=1),
        *_names(turns, arms, dict(zip(names, colours, strict=True))),
    ]
    chart: alt.LayerChart = (
        alt.LayerChart(layer=layers)
        .properties(width=WIDTH, height=HEIGHT, title=_title(turns))
        .configure(font="DejaVu Sans, Helvetica, Arial, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(grid=True, gridOpacity=0.4)
    )
    return chart


def _named(curves: pl.DataFrame) -> pl.DataFrame:
    """Add the name of each curve: the arm, and the experiment before it if there are several."""
    several = curves["experiment"].n_unique() > 1
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    return curves.with_columns(name=name)


def _few(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return points enough to see single sessions by, each `path` a number that tells no folder."""
    path = pl.col("path").rank("dense").over("name").cast(pl.Int64) - 1
    step = (pl.col("path").n_unique().over("name") / MAX_THIN_LINES).ceil().cast(pl.Int64)
    chosen = sessions.select("name", "turn", "accuracy", path=path, step=step).filter(
        pl.col("path") % pl.col("step") == 0
    )
    return _thinned(chosen.drop("step"), "name", "path")


def _thinned(points: pl.DataFrame, *line: str) -> pl.DataFrame:
    """Return every n-th point of each line, n being what keeps them few."""
    stride = math.ceil(points.height / MAX_POINTS)
    return points.filter(pl.int_range(pl.len()).over(line) % stride == 0)


def _names(turns: pl.DataFrame, arms: pl.DataFrame, colours: dict[str, str]) -> list[alt.Chart]:
    """Draw chance, and the names of all lines at the right, each led to by a dotted line."""
    ends = arms.group_by("name", maintain_order=True).last().select("name", "turn", "accuracy")
    chance = turns.select(
        name=pl.lit("chance"),
        turn=pl.col("turns").max().cast(pl.Float64),
        accuracy=pl.col("chance").unique(maintain_order=True),
    )
    lines = pl.concat(
        [
            chance.with_columns(colour=pl.lit(GREY)),
            ends.with_columns(colour=pl.col("name").replace_strict(colours)).reverse(),
        ]
    ).sort("accuracy", maintain_order=True)
    lines = lines.with_columns(height=pl.Series(_apart(lines["accuracy"])))
    plain_colour = alt.Color("colour:N", scale=None)
    rule = alt.Chart(chance).mark_rule(strokeDash=[6, 4], color=GREY).encode(y=alt.Y("accuracy:Q"))
    leader = (
        alt.Chart(lines)
        .mark_rule(strokeDash=[1, 3])
        .encode(
            x=alt.X("turn:Q"),
            y=alt.Y("accuracy:Q"),
            x2=alt.value(WIDTH),
            y2=alt.Y2("height:Q"),
            color=plain_colour,
        )
    )
    text = (
        alt.Chart(lines)
        .mark_text(align="left", dx=6, fontSize=12, fontWeight="bold", limit=WIDTH // 2)
        .encode(
            x=alt.value(WIDTH), y=alt.Y("height:Q"), text=alt.Text("name:N"), color=plain_colour
        )
    )
    return [rule, leader, text]


def _apart(heights: ArrayLike) -> NDArray[np.float64]:
    """Return rising heights moved as little as keeps them apart and between 0 and 1.

    Least squares under a least distance is isotonic regression of the heights less that distance
    times their rank.
    """
    wanted = np.asarray(heights, dtype=np.float64)
    gap = min(_NAME_GAP, 1 / max(wanted.size - 1, 1))
    offsets = gap * np.arange(wanted.size)
    fitted = np.asarray(isotonic_regression(wanted - offsets).x, dtype=np.float64)
    return np.clip(fitted, 0, 1 - offsets[-1]) + offsets


def _windows(sessions: pl.DataFrame) -> str:
    sizes = sorted(set(sessions["window"]))
    return f"accuracy in windows of {' or '.join(map(str, sizes))} turn{'s' * (sizes != [1])}"


def _title(turns: pl.DataFrame) -> alt.TitleParams:
    names = turns["experiment"].unique(maintain_order=True)
    sessions = turns["path"].n_unique()
    planned = " or ".join(map(str, sorted(set(turns["turns"]))))
    most = max(turns.group_by("experiment", "arm").agg(pl.col("path").n_unique())["path"])
    thin = "single sessions" if most <= MAX_THIN_LINES else "some of the sessions"
    return alt.TitleParams(
        text=f"Learning curve{'s' * (len(names) > 1)}: {', '.join(names)}",
        subtitle=[
            f"{sessions} session{'s' * (sessions > 1)} of {planned} turns",
            f"lines: means over sessions; bands: their 95 % t intervals; thin lines: {thin}",
        ],
        anchor="start",
        limit=WIDTH,
        subtitleColor=GREY,
    )


def save(chart: alt.LayerChart, path: Path) -> None:
    """Write the chart to `path`; its ending says how.

    Raises:
        InputError: The ending is none of .png, .svg, .html.
        StoppedShort: The file cannot be written.
    """
    check_format(path)
    try:
        if path.suffix == ".html":
            chart.save(path, inline=True, embed_options=_OFFLINE, json_kwds={"cls": _InScript})
        else:
            chart.save(path, scale_factor=2)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


_OFFLINE = {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}
"""What the menu of the page offers: nothing that goes to another site."""


class _InScript(json.JSONEncoder):
    """Writes JSON without `<`, so that no name in it can end the script element it stands in."""

    def encode(self, o: Any) -> str:  # noqa: ANN401  the base class takes anything
        return super().encode(o).replace("<", r"\u003c")


def check_format(path: Path) -> None:
    """Raise InputError if `path` does not end in a format that `save` writes."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: a plot is .png, .svg or .html; {nearest(path.suffix, FORMATS)}")
