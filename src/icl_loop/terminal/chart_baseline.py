"""Baselines of saved sessions, computed with progress."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from icl_loop.analysis.baseline import LEARNER, BaselineResult, baseline_frame, check_learner
from icl_loop.core.errors import IclLoopError, InputError, RequestRefused, TranscriptError
from icl_loop.terminal.console import err
from icl_loop.terminal.progress import WorkProgress
from icl_loop.transcripts.loading import saved_sessions

MAX_TURNS = 20_000
"""Turns up to which charts have a baseline by default."""


def chart_baseline(
    turns: pl.DataFrame,
    learner: str | None,
    *,
    wanted: bool = True,
    paths: Sequence[Path] = (),
    max_turns: int = MAX_TURNS,
    required: bool = False,
) -> BaselineResult:
    """Return the baseline of every turn, or the reason why there is none.

    With `learner` None, the default learner is used for up to `max_turns` turns. `paths` are those
    that `turns` was read from, the transcripts it names if omitted.

    Raises:
        InputError: There is no such learner, or the baseline is `required` and needs a file that
            is gone, such as a prompt set.
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
    check_learner(learner or LEARNER)
    learner, played = learner or LEARNER, turns["path"].unique(maintain_order=True).to_list()
    saved = saved_sessions(paths or map(Path, played))
    frames: list[pl.DataFrame] = []
    refused: list[IclLoopError] = []
    with WorkProgress(err, "computing the baseline", "sessions", len(played)) as progress:
        for path in played:
            try:
                frames.append(asyncio.run(baseline_frame(saved[path].read(), learner)))
            except RequestRefused as error:
                refused.append(error)
            except InputError as error:
                if required or isinstance(error, TranscriptError):
                    raise
                refused.append(error)
            progress.add()
    left_out = f"{len(refused)} of {len(played)} sessions have no baseline"
    note = f"{left_out}: {refused[0]}." if refused else ""
    return BaselineResult(learner, pl.concat(frames) if frames else None, note)
