"""Saved transcripts as a polars frame, one row per turn."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from icl_loop.analysis.transcript_lines import (
    SCORED_FIELDS,
    SESSION_FIELDS,
    batches_of,
    checked_lines,
    is_scored_right,
)
from icl_loop.core.errors import TranscriptError
from icl_loop.core.records import Turn
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.schema import TurnLine
from icl_loop.transcripts.tables import USAGE, Schema, beside, columns, is_exported, read_table

_THREADS = 2  # one parses while the other reads and verifies
_COLUMNS = columns(TurnLine)
_TURNS: Schema = {
    "path": pl.String,
    **{name: _COLUMNS[name] for name in SCORED_FIELDS},
    **dict.fromkeys(("told_length", "exposure"), pl.Int64),
    **{name: _COLUMNS[name] for name in ("latency_s", "counted", "prefix", *USAGE)},
}
_SESSIONS: Schema = {
    **dict.fromkeys(("path", "experiment", "arm"), pl.String),
    **dict.fromkeys(("stream", "turns"), pl.Int64),
    "complete": pl.Boolean,
    "chance": pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Part:
    """The sessions and turns of some transcripts."""

    sessions: pl.DataFrame
    turns: pl.DataFrame


def frame(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the turns of the transcripts or exports at `paths`, one row each, in order.

    Columns: `path`, `experiment`, `arm`, `stream`, `turns` (planned), `chance`, `complete`
    (whether all were played), `turn`, `sample`, `label`, `answer`, `outcome`, `correct`,
    `told_length` (characters of feedback), `exposure` (past turns shown), `latency_s`, `counted`
    (tokens of the request, counted locally), `prefix` (how many of these it shares with the start of the
    previous request), `prompt`, `cached`, `completion`, `reasoning` (tokens reported). A torn last line
    and sessions without turns are left out. If several folders hold the same sessions of an
    experiment, they are separate runs: the folder becomes part of the name in `experiment`.

    Raises:
        TranscriptError: A file is not a transcript, there are no turns, or a session is named twice;
            names file and line.
    """
    files = sources(paths)
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = list(threads.map(_part, batches_of(files)))
    turns = pl.concat([part.turns for part in parts])
    if turns.is_empty():
        others = f" and neither do {len(files) - 1} other files" if len(files) > 1 else ""
        raise TranscriptError(f"{files[0]} holds no turns yet{others}")
    sessions = separate_runs(each_once(pl.concat([part.sessions for part in parts])))
    return turns.join(sessions, on="path", how="left", maintain_order="left").select(
        *("path", "experiment", "arm", "stream", "turns", "chance", "complete"),
        pl.col(turns.columns[1:]),
    )


def _part(files: Sequence[Path]) -> Part:
    if is_exported(files[0]):
        return _exported(files[0])
    lines = checked_lines(files)
    return Part(sessions_of(lines), _turns_of(lines))


def sessions_of(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the sessions among the lines that `checked_lines` returns, in order."""
    complete = lines.filter(type="end", status="complete").select("path", complete=True)
    return (
        lines.filter(type="session")
        .select("path", *SESSION_FIELDS)
        .join(complete, on="path", how="left", maintain_order="left")
        .with_columns(
            pl.col("complete").fill_null(value=False), chance=1 / pl.col("labels").list.len()
        )
        .select(*_SESSIONS)
    )


def _turns_of(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the turns among the lines, in order."""
    told_length = pl.col("told").str.len_chars().cast(pl.Int64)
    turns = lines.filter(type="turn").with_columns(told_length=told_length)
    return turns.unnest("usage").select(*_TURNS)


def _exported(path: Path) -> Part:
    """Return the sessions and turns of an export.

    Raises:
        TranscriptError: A table is missing or damaged; names it.
    """
    sessions = read_table(
        path, "sessions", {**_SESSIONS, "played": pl.Int64}, [*_SESSIONS, "played"]
    )
    turns = read_table(path, "turns", _TURNS, _TURNS.keys() - {"answer", "counted", "prefix"})
    _check_counts(path, sessions, turns)
    _check_turns(path, turns)
    return Part(sessions.drop("played"), turns)


def _check_counts(path: Path, sessions: pl.DataFrame, turns: pl.DataFrame) -> None:
    """Raise TranscriptError unless the turns are those that the table of sessions counts."""
    place = beside(path, "sessions")
    if sessions["path"].is_duplicated().any():
        raise TranscriptError(f"{place} is damaged: it holds a session twice")
    expected = sessions.filter(pl.col("played") > 0).select("path", "played")
    runs = turns["path"].rle().struct.unnest().select(path="value", played=pl.col("len").cast(int))
    if not runs.equals(expected):
        raise TranscriptError(f"{path} does not hold the turns of the sessions in {place}")


def _check_turns(path: Path, turns: pl.DataFrame) -> None:
    """Raise TranscriptError unless turns are numbered from 0 in each session, and consistent."""
    counts = turns["path"].rle().struct.field("len").to_numpy().astype(np.int64)
    numbers = np.arange(turns.height) - np.repeat(counts.cumsum() - counts, counts)
    is_sound = (
        (pl.col("turn") == pl.Series(numbers))
        & (pl.col("correct") == is_scored_right())
        & pl.col("exposure").is_between(0, pl.col("turn"))
    )
    for name, turn in turns.filter(~is_sound).select("path", "turn").head(1).iter_rows():
        raise TranscriptError(f"{path} is damaged: turn {turn} of {name} contradicts itself")


def each_once(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the sessions unchanged.

    Raises:
        TranscriptError: One of them occurs twice, for example in a transcript and an export.
    """
    places = sessions["path"].map_elements(os.path.abspath, return_dtype=pl.String)
    for path in sessions.filter(places.is_duplicated())["path"].head(1):
        raise TranscriptError(f"the session {path} was named twice: name the file or its export")
    return sessions


def separate_runs(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the sessions with experiments that were played several times named by their folders."""
    played_twice = sessions.select("experiment", "arm", "stream").is_duplicated()
    recurring = sessions.filter(played_twice)["experiment"].unique()
    if recurring.is_empty():
        return sessions
    folders = [Path(path).resolve().parent for path in sessions["path"]]
    above = os.path.commonpath(folders)
    names = [
        _run_name(folder.relative_to(above), name) if name in recurring else name
        for folder, name in zip(folders, sessions["experiment"], strict=True)
    ]
    return sessions.with_columns(experiment=pl.Series(names))


def _run_name(folder: Path, experiment: str) -> str:
    """Return a folder, which usually has the name of its experiment, as the name of a run."""
    return (folder if folder.name == experiment else folder / experiment).as_posix()


def tabulate(
    played: Mapping[tuple[str, int], Sequence[Turn]], *, chance: float, experiment: str = "played"
) -> pl.DataFrame:
    """Return turns that were not saved as a frame with the columns of `frame`.

    Args:
        played: The turns of each session, by arm and stream.
        chance: Accuracy of guessing.
        experiment: Name of the experiment.
    """
    rows = [
        {
            "path": f"{arm}-{stream}",
            "experiment": experiment,
            "arm": arm,
            "stream": stream,
            "turns": len(turns),
            "chance": chance,
            "complete": True,
            "turn": turn.index,
            "sample": turn.sample,
            "label": turn.label,
            "answer": turn.answer,
            "outcome": turn.outcome,
            "correct": turn.feedback.correct,
            "told_length": len(turn.feedback.told),
            "exposure": sum(last - first + 1 for first, last in turn.kept),
            "latency_s": turn.reply.latency_s,
            "counted": turn.counted,
            "prefix": turn.prefix,
            **{name: getattr(turn.reply.usage, name) for name in USAGE},
        }
        for (arm, stream), turns in played.items()
        for turn in turns
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
