"""Charts of the context: past turns shown, and cached and uncached prompt tokens."""

import altair as alt
import polars as pl

from icl_loop.core.errors import InputError
from icl_loop.plots.line_charts import (
    arm_colour,
    arm_dashes,
    end_labels,
    heading,
    line_ends,
    named,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, AnyChart, Look, finished, panel_title, panels

PANEL = 160
"""Height of an arm's panel in pixels."""


def exposure_chart(turns: pl.DataFrame, look: Look = PAPER) -> alt.LayerChart:
    """Return a chart of the number of past turns shown, a mean over sessions per arm.

    Raises:
        InputError: They are not known, because the sessions were imported.
    """
    if not turns["exposure"].count():
        raise InputError("these sessions were imported, and the past turns shown are not known")
    turns = named(turns.drop_nulls("exposure"))
    names = turns["name"].unique(maintain_order=True).to_list()
    shown = turns.group_by("name", "turn").agg(value=pl.col("exposure").mean(), sessions=pl.len())
    shown = shown.sort(pl.col("name").cast(pl.Enum(names)), "turn")
    top = max(1.0, *shown["value"])
    base = alt.Chart(thinned(shown, look.points, "name")).encode(
        x=turn_axis(turns),
        y=alt.Y("value:Q", title="past turns shown", scale=alt.Scale(domain=[0, top], nice=False)),
        color=arm_colour(names, look),
        strokeDash=arm_dashes(names, shown, "value"),
        tooltip=[
            alt.Tooltip("name:N", title="arm"),
            alt.Tooltip("turn:Q"),
            alt.Tooltip("value:Q", title="past turns shown", format=".1f"),
            alt.Tooltip("sessions:Q"),
        ],
    )
    ends = end_labels(line_ends(shown), names, look, top=top)
    layers = [base.mark_line(strokeWidth=2), *ends]
    title = heading("Past turns in the window", turns, look, "lines: means over sessions")
    return finished(alt.LayerChart(layer=layers), look, title)


def reports_tokens(turns: pl.DataFrame) -> bool:
    """Return whether the models of these turns reported prompt tokens."""
    return bool(turns["prompt"].sum())


def knows_tokens(turns: pl.DataFrame) -> bool:
    """Return whether prompt tokens were reported or at least estimated locally."""
    return reports_tokens(turns) or bool(turns["counted"].sum())


def token_panels(turns: pl.DataFrame, look: Look = PAPER) -> dict[str, alt.LayerChart]:
    """Return, for each arm, a chart of cached and uncached prompt tokens against turn.

    If the models reported no tokens, local estimates are shown, and "cached" is what a prompt cache
    could serve.

    Raises:
        InputError: Tokens were neither reported nor estimated.
    """
    if not knows_tokens(turns):
        raise InputError("no token counts are recorded in these sessions")
    turns = named(turns)
    prompt, cached = ("prompt", "cached") if reports_tokens(turns) else ("counted", "prefix")
    used = (
        turns.group_by("name", "turn", maintain_order=True)
        .agg(prompt=pl.col(prompt).fill_null(0).mean(), cached=pl.col(cached).fill_null(0).mean())
        .with_columns(uncached=pl.col("prompt") - pl.col("cached"))
        .sort("turn")
    )
    top, x = max(used["prompt"]), turn_axis(turns, 5)
    return {
        name: _panel(used.filter(name=name), name, x, top, look)
        for name in turns["name"].unique(maintain_order=True)
    }


def _panel(used: pl.DataFrame, name: str, x: alt.X, top: float, look: Look) -> alt.LayerChart:
    few = thinned(used, look.points // 4, "name")
    parts = few.unpivot(on=["cached", "uncached"], index="turn", variable_name="tokens")
    parts = parts.with_columns(order=(pl.col("tokens") == "uncached").cast(pl.Int64))
    colours = alt.Scale(domain=["uncached", "cached"], range=[look.colour(1), look.colour(4)])
    areas = (
        alt.Chart(parts)
        .mark_area(opacity=0.9)
        .encode(
            x=x,
            y=alt.Y(
                "value:Q",
                stack="zero",
                title="prompt tokens",
                axis=alt.Axis(tickCount=4, format="~s"),
                scale=alt.Scale(domain=[0, top], nice=True),
            ),
            color=alt.Color(
                "tokens:N",
                scale=colours,
                legend=None if look.interactive else alt.Legend(title=None, orient="top"),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("tokens:N"),
                alt.Tooltip("turn:Q"),
                alt.Tooltip("value:Q", title="mean", format=",.0f"),
            ],
        )
    )
    return finished(alt.LayerChart(layer=[areas]), look, panel_title(name, 260), PANEL, 300)


def token_chart(turns: pl.DataFrame, look: Look = PAPER) -> AnyChart:
    """Return the prompt tokens of each arm or, if unknown, the past turns shown."""
    if not knows_tokens(turns):
        return exposure_chart(turns, look)
    estimated = ", estimated; cached: what a prompt cache could serve"
    caption = "means over sessions" + ("" if reports_tokens(turns) else estimated)
    title = heading("Prompt tokens per turn", turns, look, caption)
    return panels(list(token_panels(turns, look).values()), title, look)
