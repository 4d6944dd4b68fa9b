"""Baselines of saved sessions, with progress, for the commands that show them."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from icl_loop.analysis.baseline import LEARNER, BaselineResult, baseline_frame
from icl_loop.core.errors import RequestRefused
from icl_loop.terminal.console import err
from icl_loop.terminal.progress import WorkProgress
from icl_loop.transcripts import Transcript
from icl_loop.transcripts.loading import SavedSessions

MAX_TURNS = 20_000
"""Turns up to which charts have a baseline by default."""


def baseline_turns(turns: pl.DataFrame, learner: str, paths: Sequence[Path]) -> pl.DataFrame:
    """Return the baseline of every turn.

    Raises:
        RequestRefused: The learner cannot read a session.
    """
    played = _transcripts(turns, paths)
    return pl.concat([asyncio.run(baseline_frame(transcript, learner)) for transcript in played])


def chart_baseline(
    turns: pl.DataFrame,
    learner: str | None,
    *,
    wanted: bool,
    paths: Sequence[Path] = (),
    max_turns: int = MAX_TURNS,
) -> BaselineResult:
    """Return the baseline of every turn for a chart, or the reason why there is none.

    Args:
        turns: The frame of turns.
        learner: The reference learner; None for the default one.
        wanted: False if the user wants no baseline.
        paths: Where `turns` was read from; the transcripts it names if omitted.
        max_turns: Limit beyond which the default learner is not used.
    """
    if not wanted:
        return BaselineResult(LEARNER, None, "The baseline was turned off.")
    if learner is None and turns.height > max_turns:
        return BaselineResult(
            LEARNER,
            None,
            f"The chart has no baseline because there are {turns.height:,} turns, more than"
            f" {max_turns:,}. To draw it anyway, add --baseline {LEARNER}.",
        )
    learner = learner or LEARNER
    frames: list[pl.DataFrame] = []
    refused: list[str] = []
    for transcript in _transcripts(turns, paths):
        try:
            frames.append(asyncio.run(baseline_frame(transcript, learner)))
        except RequestRefused as error:
            refused.append(str(error))
    sessions = len(frames) + len(refused)
    note = (
        f"{len(refused)} of {sessions} sessions have no baseline: {refused[0]}." if refused else ""
    )
    return BaselineResult(learner, pl.concat(frames) if frames else None, note)


def _transcripts(turns: pl.DataFrame, paths: Sequence[Path]) -> Iterator[Transcript]:
    """Yield the transcripts that turns come from, and show how many have been worked on."""
    played = turns["path"].unique(maintain_order=True).to_list()
    saved = SavedSessions.at(paths or map(Path, played))
    with WorkProgress(err, "computing the baseline", "sessions", len(played)) as progress:
        for path in played:
            yield saved.read(path)
            progress.advance()
