"""The baseline, where a command draws it unasked."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.progress import track

from icl_loop.analysis.baseline import LEARNER, BaselineResult, baseline_frame
from icl_loop.core.errors import RequestRefused
from icl_loop.terminal.console import err
from icl_loop.transcripts import Transcript
from icl_loop.transcripts.loading import SavedSessions

MOST_TURNS = 20_000
"""Most turns of which a baseline is drawn unasked."""

BaselineOf = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="LEARNER",
        help=f"Whose baseline is drawn: a reference learner that is shown exactly what the model was"
        f" shown. {LEARNER} with up to {MOST_TURNS:,} turns, else none.",
    ),
]
NoBaseline = Annotated[bool, typer.Option("--no-baseline", help="Draw no baseline.")]


def shaded(
    turns: pl.DataFrame,
    learner: str | None,
    *,
    wanted: bool,
    paths: Sequence[Path] = (),
    most_turns: int = MOST_TURNS,
) -> BaselineResult:
    """Return the baseline of every turn, or why there is none.

    Args:
        turns: What `frame` returns.
        learner: Whose baseline was asked for.
        wanted: Whether one may be drawn unasked.
        paths: What `frame` was given; the transcripts that the turns name if nothing.
        most_turns: Of how many turns it may be drawn unasked.
    """
    if not wanted:
        return BaselineResult(LEARNER, None, "No baseline was asked for.")
    if learner is None and turns.height > most_turns:
        return BaselineResult(
            LEARNER,
            None,
            f"No baseline is drawn: there are {turns.height:,} turns, and it is drawn unasked for up"
            f" to {most_turns:,}; ask for it with --baseline {LEARNER}.",
        )
    played = turns["path"].unique(maintain_order=True).to_list()
    archive = SavedSessions.at(paths or map(Path, played))
    watched = track(
        played, "the baseline", console=err, transient=True, disable=not err.is_terminal
    )
    refused: list[str] = []
    parts = list(_parts(map(archive.read, watched), learner or LEARNER, refused))
    return BaselineResult(
        learner or LEARNER, pl.concat(parts) if parts else None, _left_out(refused, len(played))
    )


def _parts(
    sessions: Iterable[Transcript], learner: str, refused: list[str]
) -> Iterator[pl.DataFrame]:
    """Yield the baseline of each session; what the learner cannot read is noted as `refused`."""
    for saved in sessions:
        try:
            yield asyncio.run(baseline_frame(saved, learner))
        except RequestRefused as error:
            refused.append(str(error))


def _left_out(refused: list[str], sessions: int) -> str:
    if not refused:
        return ""
    return f"{len(refused)} of {sessions} sessions have no baseline: {refused[0]}."
