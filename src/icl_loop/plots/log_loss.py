"""Chart of the log loss of the labels' probabilities over turns."""

import altair as alt
import polars as pl

from icl_loop.analysis import arm_curves
from icl_loop.analysis.graded_learning import loss_curves
from icl_loop.plots.curves import FEWEST_FOR_BAND
from icl_loop.plots.line_charts import (
    arm_colour,
    arm_dashes,
    end_labels,
    line_ends,
    named,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, Look, finished

_TOOLTIP = [
    alt.Tooltip("name:N", title="arm"),
    alt.Tooltip("turn:Q"),
    alt.Tooltip("log_loss:Q", title="bits", format=".2f"),
    alt.Tooltip("sessions:Q"),
]


def log_loss_chart(graded: pl.DataFrame, window: int = 20, look: Look = PAPER) -> alt.LayerChart:
    """Return a chart of the mean log loss in windows of turns, with one line per arm.

    Bands are 95 % t intervals over sessions; the log loss of a uniform guess is a dashed line.

    Args:
        graded: The result of `graded_turns`.
        window: Number of turns in a window, at least 1.
        look: Colours, size and interactivity.
    """
    graded = named(graded)
    names = graded["name"].unique(maintain_order=True).to_list()
    sessions = loss_curves(graded, window)
    arms = arm_curves(sessions, "log_loss", None).join(
        graded.select("experiment", "arm", "name").unique(),
        on=("experiment", "arm"),
        maintain_order="left",
    )
    guess = graded.select(
        name=pl.lit("uniform guess"),
        turn=pl.col("turns").max().cast(pl.Float64),
        value=-pl.col("chance").log(2).unique(maintain_order=True),
    )
    top = 1.15 * max(*arms["log_loss"], *guess["value"], 0.1)
    sizes = " or ".join(map(str, sorted(sessions["window"].unique())))
    base = alt.Chart(thinned(arms, look.points, "name")).encode(
        x=turn_axis(max(graded["turns"])),
        y=alt.Y(
            "log_loss:Q",
            title=f"log loss in bits, in windows of {sizes} turn{'s' * (sizes != '1')}",
            scale=alt.Scale(domain=[0, top], nice=False, clamp=True),
        ),
        color=arm_colour(names, look),
    )
    wide = thinned(arms.filter(pl.col("sessions") >= FEWEST_FOR_BAND), look.points, "name")
    single = base.properties(data=arms.filter(pl.len().over("name") == 1))
    rule = alt.Chart(guess).mark_rule(strokeDash=[6, 4], color=look.faint)
    layers = [
        base.properties(data=wide).mark_area(fillOpacity=0.16).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2.5).encode(strokeDash=arm_dashes(names), tooltip=_TOOLTIP),
        single.mark_circle(size=60, opacity=1).encode(tooltip=_TOOLTIP),
        rule.encode(y="value:Q"),
        *end_labels(pl.concat([guess, line_ends(arms, "log_loss")]), names, look, top),
    ]
    title = alt.TitleParams("Log loss of the labels' probabilities", anchor="start")
    return finished(alt.LayerChart(layer=layers), look, title)
