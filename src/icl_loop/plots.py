"""Charts of learning curves: PNG, SVG and offline HTML from one specification."""

from pathlib import Path

import altair as alt
import polars as pl

from icl_loop.analysis import arm_curves, session_curves
from icl_loop.errors import InputError, StoppedShort, nearest

FORMATS = (".png", ".svg", ".html")
# Okabe and Ito (2008), "Color universal design": told apart with any colour vision. Yellow is
# left out, being too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MAX_THIN_LINES = 40
"""Sessions of one arm that are drawn singly; with more, an even choice of them is."""


def curve_chart(turns: pl.DataFrame, window: int = 20) -> alt.LayerChart:
    """Return the chart of windowed accuracy against turn.

    For each arm a line, a band (95 % t interval over sessions) and a thin line a session; chance
    as a dashed line.

    Args:
        turns: A frame of turns.
        window: Turns in a window.
    """
    sessions = _named(session_curves(turns, window))
    arms = _named(arm_curves(session_curves(turns, window)))
    names = arms["name"].unique(maintain_order=True).to_list()
    colour = alt.Color(
        "name:N",
        title="arm",
        scale=alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))]),
        legend=None,
    )
    x = alt.X("turn:Q", title="turn", scale=alt.Scale(domain=[0, _longest(turns)], nice=False))
    y = alt.Y(
        "accuracy:Q",
        title=f"accuracy in windows of {window} turns",
        axis=alt.Axis(format="%"),
        scale=alt.Scale(domain=[0, 1]),
    )
    tip = [
        alt.Tooltip("name:N", title="arm"),
        alt.Tooltip("turn:Q"),
        alt.Tooltip("accuracy:Q", format=".1%"),
        alt.Tooltip("sessions:Q"),
    ]
    thin = (
        alt.Chart(_values(_few(sessions)))
        .mark_line(strokeWidth=0.6, opacity=0.25)
        .encode(x=x, y=y, color=colour, detail="path:N")
    )
    band = (
        alt.Chart(_values(arms.drop_nulls("low")))
        .mark_area(opacity=0.18)
        .encode(x=x, y=alt.Y("low:Q").scale(domain=[0, 1]), y2="high:Q", color=colour)
    )
    line = (
        alt.Chart(_values(arms))
        .mark_line(strokeWidth=2.5)
        .encode(x=x, y=y, color=colour, tooltip=tip)
    )
    chart: alt.LayerChart = (
        alt.LayerChart(layer=[thin, band, line, *_chance(turns), _line_names(arms, colour)])
        .properties(width=640, height=380, title=_title(turns, window))
        .configure(font="DejaVu Sans, Helvetica, Arial, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(grid=True, gridOpacity=0.4)
    )
    return chart


def _values(table: pl.DataFrame) -> alt.InlineData:
    return alt.InlineData(values=table.to_dicts())


def _named(table: pl.DataFrame) -> pl.DataFrame:
    """Add the name of each curve: the arm, and the experiment before it if there are several."""
    several = table["experiment"].n_unique() > 1
    name = pl.concat_str("experiment", pl.lit(" / "), "arm") if several else pl.col("arm")
    return table.with_columns(name=name)


def _few(sessions: pl.DataFrame) -> pl.DataFrame:
    paths = sessions.select("name", "path").unique(maintain_order=True)
    place = pl.int_range(pl.len()).over("name")
    step = (pl.len().over("name") / MAX_THIN_LINES).ceil().cast(pl.Int64)
    return sessions.join(paths.filter(place % step == 0), on=["name", "path"])


def _chance(turns: pl.DataFrame) -> list[alt.Chart]:
    levels = turns.select(chance=pl.col("chance").unique(maintain_order=True))
    levels = levels.with_columns(text=pl.lit("chance"))
    base = alt.Chart(_values(levels)).encode(y=alt.Y("chance:Q"))
    rule = base.mark_rule(strokeDash=[6, 4], color="#555555")
    text = base.mark_text(align="left", dx=4, dy=-6, color="#555555", fontSize=11).encode(
        x=alt.value(0), text="text:N"
    )
    return [rule, text]


def _line_names(arms: pl.DataFrame, colour: alt.Color) -> alt.Chart:
    """Write each arm's name at the end of its line, moved apart where lines end together."""
    ends = arms.group_by("name", maintain_order=True).last().sort("accuracy")
    gap, placed = 0.045, -1.0
    heights = []
    for accuracy in ends["accuracy"]:
        placed = max(float(accuracy), placed + gap)
        heights.append(placed)
    ends = ends.with_columns(height=pl.Series(heights))
    names: alt.Chart = (
        alt.Chart(_values(ends))
        .mark_text(align="left", dx=6, fontSize=12, fontWeight="bold")
        .encode(x="turn:Q", y="height:Q", text="name:N", color=colour)
    )
    return names


def _title(turns: pl.DataFrame, window: int) -> alt.TitleParams:
    names = ", ".join(turns["experiment"].unique(maintain_order=True))
    sessions = turns["path"].n_unique()
    drawn = (
        f"lines: means over sessions in windows of {window} turns; bands: 95 % t intervals over"
        " sessions; thin lines: single sessions"
    )
    return alt.TitleParams(
        text=f"Learning curve: {names}",
        subtitle=[f"{sessions} sessions of {_longest(turns)} turns", drawn],
        anchor="start",
        subtitleColor="#555555",
    )


def _longest(turns: pl.DataFrame) -> int:
    return int(turns["turns"].max() or 0)  # type: ignore[arg-type]  # a column of integers


def save(chart: alt.LayerChart, path: Path) -> None:
    """Write the chart to `path`; its ending says how.

    Raises:
        InputError: The ending is none of .png, .svg, .html.
        StoppedShort: The file cannot be written.
    """
    check_format(path)
    try:
        if path.suffix == ".html":
            chart.save(path, inline=True)
        else:
            chart.save(path, scale_factor=2)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


def check_format(path: Path) -> None:
    """Raise InputError if `path` does not end in a format that `save` writes."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: a plot is .png, .svg or .html; {nearest(path.suffix, FORMATS)}")
