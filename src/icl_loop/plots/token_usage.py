"""What a window held and what it cost: past turns shown, and prompt tokens cached or not."""

import altair as alt
import polars as pl

from icl_loop.core.errors import InputError
from icl_loop.plots.line_labels import (
    arm_colour,
    arm_dashes,
    named,
    names_at_the_right,
    printable,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, AnyChart, Look, finished, panels

PANEL = 160
"""Pixels of height of one arm's tokens."""


def exposure_chart(turns: pl.DataFrame, look: Look = PAPER) -> alt.LayerChart:
    """Return the chart of past turns shown against turn, a line an arm, a mean over sessions."""
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
        *names_at_the_right(ends.reverse(), colours, look, top),
    ]
    title = alt.TitleParams("Past turns in the window", anchor="start")
    return finished(alt.LayerChart(layer=layers), look, title)


def reports_tokens(turns: pl.DataFrame) -> bool:
    """Whether the models of these turns said what their prompts took."""
    return bool(turns["prompt"].sum())


def knows_tokens(turns: pl.DataFrame) -> bool:
    """Whether the tokens of these turns' prompts were reported, or at least counted here."""
    return reports_tokens(turns) or bool(turns["counted"].sum())


def _known_tokens(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the turns with tokens as counted here where the models said nothing of theirs."""
    if reports_tokens(turns):
        return turns
    return turns.with_columns(
        prompt=pl.col("counted").fill_null(0), cached=pl.col("prefix").fill_null(0)
    )


def token_panels(turns: pl.DataFrame, look: Look = PAPER) -> dict[str, alt.LayerChart]:
    """Return for each arm the chart of prompt tokens against turn, cached and uncached apart.

    Where the models reported none, tokens are those counted here, and cached are those that a cache
    of prefixes could serve.

    Raises:
        InputError: Tokens were neither reported nor counted.
    """
    if not knows_tokens(turns):
        raise InputError("no tokens are recorded: the models of these sessions report none")
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
                legend=None if look.lively else alt.Legend(title=None, orient="top"),
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
    """Return past turns shown and, where they are known, the prompt tokens of each arm, on paper."""
    if not knows_tokens(turns):
        return exposure_chart(turns)
    counted = (
        "" if reports_tokens(turns) else ", as counted; cached: what a prefix cache could serve"
    )
    title = f"Prompt tokens a turn, means over sessions{counted}"
    return panels(list(token_panels(turns).values()), title)
