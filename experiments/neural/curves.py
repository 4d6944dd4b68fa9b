"""Draw the curves of a training of `neural/in-context` from its logs.

    python experiments/neural/curves.py stage-1/log.jsonl stage-2/log.jsonl -o training.png

Steps are counted through all stages, which dotted lines separate.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from icl_loop.plots import save
from icl_loop.plots.theme import GREY, PAPER, panel_title

BLOCKS = {
    "5 labels": ("5 labels, per 10 turns", {"1-10": 0, "21-30": 2, "51-60": 5}),
    "10 labels": ("10 labels, per 20 turns", {"1-20": 0, "61-80": 3, "181-200": 9}),
}
"""The entry of the log, and where the blocks of turns are in it."""
WIDTH, HEIGHT = 270, 240


def panel(title: str, measure: str, rows: list[dict[str, Any]], ends: list[int]) -> alt.LayerChart:
    """Return lines over steps; `rows` have `step`, `value`, and the block of turns as `turns`."""
    names = list(dict.fromkeys(row["turns"] for row in rows))
    colour = alt.Color(
        "turns:N",
        scale=alt.Scale(domain=names, range=list(PAPER.colours[: len(names)])),
        legend=alt.Legend(title="turns", orient="bottom") if len(names) > 1 else None,
    )
    heights = alt.Scale(domain=[0, 100]) if len(names) > 1 else alt.Scale(zero=False)
    lines = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(point=True)
        .encode(
            alt.X("step:Q", title="step"),
            alt.Y("value:Q", title=measure, scale=heights),
            colour,
        )
    )
    borders = alt.Chart(pl.DataFrame({"step": ends}))
    rules = borders.mark_rule(strokeDash=[2, 3], color=GREY).encode(x="step:Q")
    drawn: alt.LayerChart = (rules + lines).properties(
        width=WIDTH, height=HEIGHT, title=panel_title(title, WIDTH)
    )
    return drawn


def main() -> None:
    """Read the logs and write the picture."""
    parser = argparse.ArgumentParser(description="Draw the curves of a training from its logs.")
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("training.png"))
    given = parser.parse_args()
    points, ends, before = [], [], 0
    for log in given.logs:
        _settings, *lines = map(json.loads, log.read_text().splitlines())
        points += [{**line, "step": before + line["step"]} for line in lines]
        before = points[-1]["step"]
        ends.append(before)
    losses = [
        {"step": each["step"], "value": each["loss"], "turns": "mean of all turns"}
        for each in points
    ]
    charts = [panel("Log loss of the right label", "nats", losses, ends[:-1])]
    for title, (entry, blocks) in BLOCKS.items():
        rows = [
            {"step": each["step"], "value": each[entry][place], "turns": turns}
            for each in points
            for turns, place in blocks.items()
        ]
        measure = "accuracy on held-out images, %"
        charts.append(panel(f"{title}, right and wrong told", measure, rows, ends[:-1]))
    heading = PAPER.heading("Learning to learn in context: training of neural/in-context")
    chart = alt.hconcat(*charts).resolve_scale(color="independent").properties(title=heading)
    save(chart.configure(**PAPER.config()), given.output)


if __name__ == "__main__":
    main()
