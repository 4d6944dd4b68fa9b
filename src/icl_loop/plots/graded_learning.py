"""Charts of the labels' probabilities: log loss and Brier score over turns, and reliability."""

import altair as alt
import polars as pl

from icl_loop.analysis import arm_curves
from icl_loop.analysis.calibration import calibration
from icl_loop.analysis.curves import LATE
from icl_loop.analysis.graded_learning import loss_curves
from icl_loop.core.errors import InputError
from icl_loop.plots.line_charts import (
    LEGEND,
    arm_colour,
    arm_dashes,
    end_labels,
    fitting_window,
    heading,
    level_name,
    line_ends,
    named,
    share_axis,
    thinned,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, Look, finished

SCORES = {"log_loss": "Log loss in bits", "brier": "Brier score"}


def score_chart(
    graded: pl.DataFrame, window: int | None = None, look: Look = PAPER, score: str = "log_loss"
) -> alt.LayerChart:
    """Return a chart of a mean score in windows of turns, with one line per arm.

    Bands are 95 % t intervals over sessions; the score of a uniform guess is a dashed line.

    Args:
        graded: The result of `graded_turns`.
        window: Number of turns in a window, at least 1; by default that of `fitting_window`.
        look: Colours, size and interactivity.
        score: One of `SCORES`.
    """
    graded = named(graded)
    names = graded["name"].unique(maintain_order=True).to_list()
    sessions = loss_curves(graded, window or fitting_window(graded), score)
    arms = arm_curves(sessions, score).join(
        graded.select("experiment", "arm", "name").unique(),
        on=("experiment", "arm"),
        maintain_order="left",
    )
    chance = pl.col("chance").unique(maintain_order=True)
    guess = graded.select(
        name=pl.lit(level_name("uniform guess", names)),
        turn=pl.col("turns").max().cast(pl.Float64),
        value=-chance.log(2) if score == "log_loss" else 1 - chance,
    )
    top = 1.15 * max(*arms[score], *guess["value"], 0.1)
    sizes = " or ".join(map(str, sorted(sessions["window"].unique())))
    base = alt.Chart(thinned(arms, look.points, "name")).encode(
        x=turn_axis(graded),
        y=alt.Y(
            f"{score}:Q",
            title=f"{SCORES[score]}, in windows of {sizes} turn{'s' * (sizes != '1')}",
            scale=alt.Scale(domain=[0, top], nice=False, clamp=True),
        ),
        color=arm_colour(names, look),
    )
    tooltip = [
        alt.Tooltip("name:N", title="arm"),
        alt.Tooltip("turn:Q"),
        alt.Tooltip(f"{score}:Q", title=SCORES[score], format=".2f"),
        alt.Tooltip("sessions:Q"),
    ]
    wide = thinned(arms.drop_nulls("low"), look.points, "name")
    single = base.properties(data=arms.filter(pl.len().over("name") == 1))
    rule = alt.Chart(guess).mark_rule(strokeDash=[6, 4], color=look.faint)
    layers = [
        base.properties(data=wide).mark_area(fillOpacity=0.16).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2.5).encode(
            strokeDash=arm_dashes(names, arms, score), tooltip=tooltip
        ),
        single.mark_circle(size=60, opacity=1).encode(tooltip=tooltip),
        rule.encode(y="value:Q"),
        *end_labels(line_ends(arms, score), names, look, guess, top),
    ]
    title = heading(f"{SCORES[score]} of the labels' probabilities", graded, look, LEGEND)
    return finished(alt.LayerChart(layer=layers), look, title)


def calibration_chart(graded: pl.DataFrame, look: Look = PAPER) -> alt.LayerChart:
    """Return a reliability diagram of the late turns, with one line per arm.

    A point is a bin of turns: how often the most probable label is right, against its probability.
    Where the two agree, on the dashed line, the model is calibrated.

    Args:
        graded: The result of `graded_turns`.
        look: Colours, size and interactivity.

    Raises:
        InputError: No late turn has log probabilities.
    """
    graded = named(graded)
    names = graded["name"].unique(maintain_order=True).to_list()
    rows = [
        {"name": name, "turn": each.confidence, "value": each.accuracy, "turns": each.turns}
        for name in names
        for each in calibration(graded.filter(LATE, name=name)).bins
    ]
    if not rows:
        raise InputError("no late turn has log probabilities of the labels yet")
    points = pl.DataFrame(rows)
    axis, scale = alt.Axis(format="%", tickCount=6), alt.Scale(domain=[0, 1])
    base = alt.Chart(points).encode(
        x=alt.X("turn:Q", title="probability of the most probable label", axis=axis, scale=scale),
        y=share_axis("value:Q", "how often it is right"),
        color=arm_colour(names, look),
        tooltip=[
            alt.Tooltip("name:N", title="arm"),
            alt.Tooltip("turn:Q", title="probability", format=".1%"),
            alt.Tooltip("value:Q", title="right", format=".1%"),
            alt.Tooltip("turns:Q"),
        ],
    )
    diagonal = alt.Chart(pl.DataFrame({"turn": [0.0, 1.0], "value": [0.0, 1.0]}))
    layers = [
        diagonal.mark_line(strokeDash=[6, 4], color=look.faint).encode(x="turn:Q", y="value:Q"),
        base.mark_line(strokeWidth=2).encode(strokeDash=arm_dashes(names, points, "value")),
        base.mark_circle(opacity=1).encode(size=alt.Size("turns:Q", legend=None)),
        *end_labels(line_ends(points), names, look),
    ]
    caption = "late turns; larger dots: more turns; dashed: calibrated"
    title = heading("Calibration of the labels' probabilities", graded, look, caption)
    return finished(alt.LayerChart(layer=layers), look, title)
