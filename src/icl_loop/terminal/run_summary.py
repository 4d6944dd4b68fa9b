"""What is printed of transcripts after a run, and by `analyze`."""

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
from icl_loop.terminal import progress
from icl_loop.terminal.console import out
from icl_loop.terminal.formatting import printable
from icl_loop.terminal.results_tables import (
    baseline_table,
    metrics_table,
    probes_table,
    spending_table,
    verdict_lines,
)

MOST_PICTURES = 50_000
"""Most turns of which the nearest pictures are sought: that takes about 10 s."""


def print_summary(
    turns: pl.DataFrame,
    primary: tuple[str, str] | None,
    metrics: Sequence[ArmMetrics],
    shaded: Sequence[ArmBaseline] = (),
    spent: Sequence[Spending] = (),
    paths: Sequence[Path] = (),
) -> None:
    """Print the tables of a frame of turns, and what follows from them.

    Args:
        turns: What `frame` returns.
        primary: Arms of the primary contrast, if not those that were recorded.
        metrics: Of every arm.
        shaded: Every arm beside its baseline.
        spent: What every arm took.
        paths: What `frame` was given; the transcripts that the turns name if nothing.
    """
    summaries, paths = summarise(turns), paths or transcripts_of(turns)
    conclusions = conclude_each(turns, primary, sessions(paths))
    out.print(progress.summary_table(summaries))
    out.print(metrics_table(metrics))
    out.print(spending_table(spent or spending(turns, paths=paths)))
    if asked := checkpoints(probes(paths)):
        out.print(probes_table(asked))
    if shaded:
        out.print(baseline_table(shaded))
    for warning in warnings(summaries):
        out.print(f"note: {printable(warning)}", highlight=False, markup=False)
    for conclusion in conclusions:
        if len(conclusions) > 1:
            out.rule(printable(conclusion.experiment), align="left")
        for line in verdict_lines(conclusion):
            out.print(line, soft_wrap=isinstance(line, Text))


def measured_arms(turns: pl.DataFrame, paths: Sequence[Path] = ()) -> list[ArmMetrics]:
    """Return the metrics of every arm; the nearest pictures are sought unless there are too many."""
    if turns.height > MOST_PICTURES:
        return measure(turns, {})
    return measure(turns, nearest_pictures(paths or transcripts_of(turns)))


def transcripts_of(turns: pl.DataFrame) -> list[Path]:
    """Return the transcripts that the turns of a frame are of."""
    return [Path(path) for path in turns["path"].unique(maintain_order=True)]
