"""Charts of the context: past turns shown, and cached and uncached prompt tokens."""

import altair as alt
import polars as pl

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
from icl_loop.plots.theme import PAPER, AnyChart, Look, finished, panels

PANEL = 160
"""Height of an arm's panel in pixels."""


def exposure_chart(turns: pl.DataFrame, look: Look = PAPER) -> alt.LayerChart:
    """Return a chart of the number of past turns shown, a mean over sessions per arm."""
    turns = named(printable(turns))
    names = turns["name"].unique(maintain_order=True).to_list()
    shown = turns.group_by("name", "turn").agg(value=pl.col("exposure").mean(), sessions=pl.len())
    shown = shown.sort(pl.col("name").cast(pl.Enum(names)), "turn")
    top = max(1.0, float(shown["value"].max()))  # type: ignore[arg-type]  # a column of numbers
    base = alt.Chart(thinned(shown, look.points, "name")).encode(
        x=turn_axis(max(turns["turns"].unique())),
        y=alt.Y("value:Q", title="past turns shown", scale=alt.Scale(domain=[0, top], nice=False)),
        color=arm_colour(names, look),
        strokeDash=arm_dashes(names),
        tooltip=[
            alt.Tooltip("name:N", title="arm"),
            alt.Tooltip("turn:Q"),
            alt.Tooltip("value:Q", title="past turns shown", format=".1f"),
            alt.Tooltip("sessions:Q"),
        ],
    )
    ends = shown.group_by("name", maintain_order=True).last().select("name", "turn", "value")
    colours = {name: look.text_colour(place) for place, name in enumerate(names)}
    layers = [
        base.mark_line(strokeWidth=2),
        *end_labels(ends.reverse(), colours, look, top),
    ]
    title = alt.TitleParams("Past turns in the window", anchor="start")
    return finished(alt.LayerChart(layer=layers), look, title)


def reports_tokens(turns: pl.DataFrame) -> bool:
    """Return whether the models of these turns reported prompt tokens."""
    return bool(turns["prompt"].sum())


def knows_tokens(turns: pl.DataFrame) -> bool:
    """Return whether prompt tokens were reported or at least estimated locally."""
    return reports_tokens(turns) or bool(turns["counted"].sum())


def _known_tokens(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the turns with local estimates where the models reported no tokens."""
    if reports_tokens(turns):
        return turns
    return turns.with_columns(
        prompt=pl.col("counted").fill_null(0), cached=pl.col("prefix").fill_null(0)
    )


def token_panels(turns: pl.DataFrame, look: Look = PAPER) -> dict[str, alt.LayerChart]:
    """Return, for each arm, a chart of cached and uncached prompt tokens against turn.

    If the models reported no tokens, local estimates are shown, and "cached" is what a prompt cache
    could serve.

    Raises:
        InputError: Tokens were neither reported nor estimated.
    """
    if not knows_tokens(turns):
        raise InputError("no token counts are recorded in these sessions")
    turns = _known_tokens(named(printable(turns)))
    used = turns.group_by("name", "turn", maintain_order=True).agg(
        cached=pl.col("cached").mean(), prompt=pl.col("prompt").mean()
    )
    used = used.with_columns(uncached=pl.col("prompt") - pl.col("cached")).sort("turn")
    top = float(used["prompt"].max())  # type: ignore[arg-type]  # a column of numbers
    longest = max(turns["turns"].unique())
    return {
        name: _panel(used.filter(name=name), name, longest, top, look)
        for name in turns["name"].unique(maintain_order=True)
    }


def _panel(used: pl.DataFrame, name: str, longest: int, top: float, look: Look) -> alt.LayerChart:
    few = thinned(used, look.points // 4, "name")
    parts = few.unpivot(on=["cached", "uncached"], index="turn", variable_name="tokens")
    parts = parts.with_columns(order=(pl.col("tokens") == "uncached").cast(pl.Int64))
    areas = (
        alt.Chart(parts)
        .mark_area(opacity=0.9)
        .encode(
            x=turn_axis(longest, 5),
            y=alt.Y(
                "value:Q",
                stack="zero",
                title="prompt tokens",
                axis=alt.Axis(tickCount=4, format="~s"),
                scale=alt.Scale(domain=[0, top], nice=True),
            ),
            color=alt.Color(
                "tokens:N",
                scale=alt.Scale(
                    domain=["uncached", "cached"], range=[look.colour(1), look.colour(4)]
                ),
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
    title = alt.TitleParams(name, anchor="start", fontSize=12, color=look.ink, limit=260)
    return finished(alt.LayerChart(layer=[areas]), look, title, PANEL)


def token_chart(turns: pl.DataFrame) -> AnyChart:
    """Return the prompt tokens of each arm or, if unknown, the past turns shown."""
    if not knows_tokens(turns):
        return exposure_chart(turns)
    counted = (
        "" if reports_tokens(turns) else ", estimated; cached: what a prompt cache could serve"
    )
    title = f"Prompt tokens per turn, means over sessions{counted}"
    return panels(list(token_panels(turns).values()), title)
