"""Charts that compare context policies turn by turn."""

import altair as alt
import polars as pl

from icl_loop.core.errors import InputError
from icl_loop.core.names import distinct
from icl_loop.plots.line_charts import thinned
from icl_loop.plots.theme import COLOURS, GREY, PAPER, panel_title

_WIDTH, _HEIGHT = 250, 150
_MAX_POINTS = 4_000
"""Approximate number of points in a panel."""
_PLAYED = "as played"
_PANELS = {
    "tokens": ("tokens per request", "~s"),
    "share": ("cacheable share", "%"),
    "shown": ("past turns shown", "~s"),
    "baseline": ("baseline accuracy", "%"),
}


def what_if_chart(turns: pl.DataFrame, learner: str, window: int = 20) -> alt.VConcatChart:
    """Return charts of tokens, cacheable share, turns shown and baseline accuracy against turn.

    Each arm has a row of charts, each policy a line (a mean over sessions). Shares are taken over
    windows of turns and drawn at their middle.

    Args:
        turns: The result of `turns_of`.
        learner: Name of the baseline's reference learner.
        window: Number of turns in a window.

    Raises:
        InputError: There are no turns, or `window` is below 1.
    """
    if turns.is_empty():
        raise InputError("there are no turns to draw")
    if window < 1:
        raise InputError(f"window must be at least 1, got {window}")
    lines = _lines(turns, window)
    known = lines["name"].unique(maintain_order=True)
    names = distinct(known)
    lines = lines.with_columns(pl.col("name").replace_strict(known, names))
    rows = [
        alt.hconcat(*(_panel(part, measure, names) for measure in _PANELS)).properties(
            title=panel_title(f"{experiment} / {arm}", 4 * _WIDTH)
        )
        for (experiment, arm), part in lines.group_by("experiment", "arm", maintain_order=True)
    ]
    title = PAPER.heading(
        "What other context policies would have shown",
        [
            "replies and feedback as played; cacheable: what a prompt cache could serve",
            f"shares in windows of {window} turns; baseline: {learner}; dashed: chance",
        ],
    )
    chart: alt.VConcatChart = (
        alt.vconcat(*rows)
        .properties(title=title)
        .configure(**PAPER.config())
        .configure_legend(labelLimit=0)
    )
    return chart


def _lines(turns: pl.DataFrame, window: int) -> pl.DataFrame:
    """Return means over sessions at each turn, with shares over windows; thinned if long."""
    line = ("experiment", "arm", "name")

    def rolling(values: pl.Expr) -> pl.Expr:
        return values.cast(pl.Float64).rolling_sum(window, min_samples=1)

    means = (
        turns.with_columns(name=pl.when("played").then(pl.lit(_PLAYED)).otherwise("policy"))
        .group_by(*line, "turn", maintain_order=True)
        .agg(
            pl.col("tokens", "prefix", "shown", "baseline", "chance").mean(), turns=pl.max("turns")
        )
        .sort("turn", maintain_order=True)
    )
    size = pl.min_horizontal(window, pl.len().over(line))
    shares = means.with_columns(
        share=(rolling(pl.col("prefix")) / rolling(pl.col("tokens"))).over(line),
        baseline=(rolling(pl.col("baseline")) / rolling(pl.col("turn") * 0 + 1)).over(line),
        middle=pl.col("turn") + 1 - (size - 1) / 2,
        whole=pl.col("turn") + 1 >= size,
    )
    return thinned(shares, _MAX_POINTS, *line)


def _panel(lines: pl.DataFrame, measure: str, names: list[str]) -> alt.LayerChart:
    title, form = _PANELS[measure]
    is_share = form == "%"
    turn = pl.col("middle") if is_share else pl.col("turn") + 1
    drawn = lines.filter("whole") if is_share else lines
    planned = alt.Scale(domain=[0, max(lines["turns"])])
    heights = alt.Scale(domain=[0, 1]) if is_share else alt.Scale(zero=True)
    line = (
        alt.Chart(drawn.select("name", turn=turn, value=measure))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("turn:Q", title="turn", scale=planned),
            y=alt.Y("value:Q", title=title, scale=heights, axis=alt.Axis(format=form)),
            color=_colour(names),
            strokeDash=_dashes(names),
            tooltip=["name:N", "turn:Q", alt.Tooltip("value:Q", format=".3~s")],
        )
    )
    chance = alt.Chart(lines.select(value="chance").unique())
    rule = chance.mark_rule(strokeDash=[6, 4], color=GREY).encode(y="value:Q")
    layers = [line, rule] if measure == "baseline" else [line]
    return alt.LayerChart(layer=layers, width=_WIDTH, height=_HEIGHT)


def _colour(names: list[str]) -> alt.Color:
    policies = [name for name in names if name != _PLAYED]
    colours = {name: COLOURS[at % (len(COLOURS) - 1)] for at, name in enumerate(policies)}
    shades = [colours.get(name, "#000000") for name in names]
    legend = alt.Legend(title=None, orient="bottom", columns=2)
    return alt.Color("name:N", scale=alt.Scale(domain=names, range=shades), legend=legend)


def _dashes(names: list[str]) -> alt.StrokeDash:
    strokes = [[4, 2] if name == _PLAYED else [1, 0] for name in names]
    return alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=strokes), legend=None)
