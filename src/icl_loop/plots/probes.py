"""Chart of probe accuracy against the number of turns played before."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from icl_loop.analysis import Checkpoint
from icl_loop.core.names import distinct
from icl_loop.plots.line_charts import (
    arm_colour,
    chance_levels,
    chance_rule,
    end_labels,
    heading,
    line_ends,
    named,
    share_axis,
    turn_axis,
)
from icl_loop.plots.theme import PAPER, Look, dashes, finished

_SHIFT = 0.02
"""Maximum sideways shift of dots at a checkpoint, as a share of the longest session."""
_DASHES = {"flipped": [7, 3], "shuffled": [2, 2], "removed": [7, 3, 2, 3]}
"""Dash patterns of the verdicts that were not told."""
_TOOLTIP = [
    alt.Tooltip("name:N", title="arm"),
    alt.Tooltip("after:Q", title="after turns"),
    alt.Tooltip("value:Q", title="accuracy", format=".1%"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("probes:N"),
    alt.Tooltip("sessions:Q"),
]


def probe_chart(
    turns: pl.DataFrame, checks: Sequence[Checkpoint], look: Look = PAPER
) -> alt.LayerChart:
    """Return a chart of probe accuracy against checkpoint, with one line per arm and verdicts.

    Lines of an arm have its colour; those with other verdicts than told are dashed.
    Bars are 95 % intervals over sessions; chance is a dashed line.

    Args:
        turns: A frame of turns of all arms, which determines their colours.
        checks: The result of `checkpoints`, not empty.
        look: Colours, size and interactivity.
    """
    turns = named(turns)
    arms = turns["name"].unique(maintain_order=True).to_list()
    points = _points(turns, checks)
    lines = points.select("name", "arm", "verdicts").unique(maintain_order=True)
    names = [*arms, *lines.filter(pl.col("verdicts") != "told")["name"]]
    longest = max(turns["turns"])
    edge = _SHIFT * longest  # dots of several arms are shifted sideways so that they do not overlap
    shifts = dict(zip(names, np.linspace(-edge, edge, len(names) + 2)[1:-1], strict=True))
    shifted = points.with_columns(
        after="turn", turn=pl.col("turn") + pl.col("name").replace_strict(shifts)
    )
    x = turn_axis(turns).title("turns played before")
    base = alt.Chart(shifted).encode(
        x=x.scale(domain=[-edge, longest + edge], nice=False),
        y=share_axis("value:Q", "accuracy on probes"),
        color=arm_colour(arms, look, "arm"),
        tooltip=_TOOLTIP,
    )
    places = {name: arms.index(arm) for name, arm, _ in lines.iter_rows()}
    ends = line_ends(points).with_columns(turn=pl.lit(longest + edge))
    layers = [
        chance_rule(turns, look),
        base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(strokeDash=_dashes(lines, arms)),
        base.mark_circle(size=70, opacity=1),
        *end_labels(ends, places, look, chance_levels(turns)),
    ]
    title = heading(
        "Accuracy on probes", turns, look, "dots: means over sessions; bars: 95 % intervals"
    )
    return finished(alt.LayerChart(layer=layers), look, title)


def _dashes(lines: pl.DataFrame, arms: Sequence[str]) -> alt.StrokeDash:
    """Return the dash scale of the lines: that of the arm, or that of the verdicts if not as told."""
    strokes = [_DASHES.get(verdicts, dashes(arms.index(arm))) for _, arm, verdicts in lines.rows()]
    scale = alt.Scale(domain=lines["name"].to_list(), range=strokes)
    return alt.StrokeDash("name:N", legend=None, scale=scale)


def _points(turns: pl.DataFrame, checks: Sequence[Checkpoint]) -> pl.DataFrame:
    """Return one row per checkpoint and arm, arms in the order of `turns`."""
    names = turns.select("experiment", "arm", place="name")
    rows = [
        {
            "experiment": each.experiment,
            "arm": each.arm,
            "verdicts": each.verdicts,
            "suffix": each.line.removeprefix(each.arm),
            "turn": each.after_turn,
            "value": each.accuracy.mean,
            "low": each.accuracy.interval and each.accuracy.interval[0],
            "high": each.accuracy.interval and each.accuracy.interval[1],
            "interval": "{:.1%} to {:.1%}".format(*each.accuracy.interval)
            if each.accuracy.interval
            else "none",
            "probes": f"{each.right} of {each.asked} right",
            "sessions": each.accuracy.sessions,
        }
        for each in sorted(checks, key=lambda check: check.after_turn)
    ]
    arms = names.unique(maintain_order=True)
    joined = arms.join(pl.DataFrame(rows), on=("experiment", "arm"), maintain_order="left_right")
    lines = joined.select("place", "suffix").unique(maintain_order=True)
    lines = lines.sort(pl.col("suffix") != "", maintain_order=True)  # arms keep their names
    lines = lines.with_columns(name=pl.Series(distinct(map("".join, lines.rows()))))
    points = joined.drop("experiment", "arm").join(lines, on=("place", "suffix"))
    return points.rename({"place": "arm"}).drop("suffix")
