"""The results that are printed after a run and by `analyze`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.text import Text

from icl_loop.analysis import (
    ArmMetrics,
    checkpoints,
    conclude_each,
    measure,
    nearest_pictures,
    probes,
    sessions,
    summarise,
    warnings,
)
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.spending import Spending, spending
from icl_loop.terminal.console import out, print_text
from icl_loop.terminal.formatting import printable
from icl_loop.terminal.results_tables import (
    accuracy_table,
    answers_table,
    baseline_table,
    conclusion_tables,
    probes_table,
    usage_table,
)

MAX_NEIGHBOUR_TURNS = 50_000
"""Turns up to which nearest pictures are computed, which takes about 10 s."""


def print_results(
    turns: pl.DataFrame,
    primary: tuple[str, str] | None,
    metrics: Sequence[ArmMetrics],
    baselines: Sequence[ArmBaseline] = (),
    spent: Sequence[Spending] = (),
    paths: Sequence[Path] = (),
) -> None:
    """Print all result tables and the verdict.

    Args:
        turns: The frame of turns.
        primary: Arms of the primary contrast, if not the recorded ones.
        metrics: Metrics of every arm.
        baselines: Every arm compared with its baseline.
        spent: Usage and cost of every arm; computed if omitted.
        paths: Where `turns` was read from; the transcripts it names if omitted.
    """
    summaries, paths = summarise(turns), paths or transcripts_of(turns)
    conclusions = conclude_each(turns, primary, sessions(paths))
    out.print(accuracy_table(summaries))
    out.print(answers_table(metrics))
    out.print(usage_table(spent or spending(turns, paths=paths)))
    if asked := checkpoints(probes(paths)):
        out.print(probes_table(asked))
    if baselines:
        out.print(baseline_table(baselines))
    for warning in warnings(summaries):
        print_text(f"note: {warning}")
    for conclusion in conclusions:
        if len(conclusions) > 1:
            out.rule(printable(conclusion.experiment), align="left")
        for part in conclusion_tables(conclusion):
            out.print(part, soft_wrap=isinstance(part, Text))


def arm_metrics(turns: pl.DataFrame, paths: Sequence[Path] = ()) -> list[ArmMetrics]:
    """Return the metrics of every arm, without nearest pictures if there are too many turns."""
    if turns.height > MAX_NEIGHBOUR_TURNS:
        return measure(turns, {})
    return measure(turns, nearest_pictures(paths or transcripts_of(turns)))


def transcripts_of(turns: pl.DataFrame) -> list[Path]:
    """Return the paths of the transcripts that turns come from."""
    return [Path(path) for path in turns["path"].unique(maintain_order=True)]
