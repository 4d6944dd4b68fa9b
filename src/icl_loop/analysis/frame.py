"""Saved transcripts as a polars frame, one row per turn."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from icl_loop.analysis import told
from icl_loop.analysis.transcript_lines import (
    SCORED_FIELDS,
    SESSION_FIELDS,
    batches_of,
    checked_lines,
    is_scored_right,
)
from icl_loop.core.errors import TranscriptError
from icl_loop.core.messages import Served
from icl_loop.core.records import Turn
from icl_loop.transcripts.columns import TABLES, USAGE, Schema, is_exported, read_table, table_path
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.reader import first_line
from icl_loop.transcripts.schema import line_fields

_THREADS = 2  # one parses while the other reads and verifies
_SESSION = (
    *("path", "experiment", "arm", "stream", "repeat"),
    *("turns", "chance", "complete", "status", "model"),
)
_TURN = (
    *SCORED_FIELDS,
    *("told_length", "exposure", "latency_s", "counted", "prefix"),
    *USAGE,
    *("finish_reason", "served_model"),
)
_KNOWN = ("sample", "told", "told_length", "exposure", "latency_s", *USAGE)
"""Columns without nulls in sessions that were not imported."""
_COLUMNS = (*_SESSION, *SCORED_FIELDS, *told.COLUMNS, *_TURN[len(SCORED_FIELDS) :])
_SERVED: Schema = {"served": pl.Struct({"finish_reason": pl.String, "model": pl.String})}


def frame(paths: Path | str | Iterable[Path | str]) -> pl.DataFrame:
    """Return the turns of the transcripts or exports at `paths`, or of one path, one row each, in order.

    Columns: `path`, `experiment`, `arm`, `stream`, `repeat`, `turns` (planned), `chance`, `complete`
    (whether all were played), `status` (why the session ended; null if it has not), `model`, `turn`,
    `sample`, `label`, `answer`, `outcome`, `correct` (null if the sample was chosen: such turns do not count),
    `told_right`, `told_label` and `told_after` (what the model was told about the answer, see
    `analysis.told`), `told_length` (characters of feedback), `exposure` (past turns shown), `latency_s`, `counted`
    (tokens of the request, counted locally), `prefix` (how many of these it shares with the start of the
    previous request), `prompt`, `cached`, `completion`, `reasoning` (tokens reported),
    `discarded_prompt`, `discarded_completion` (those of attempts without a usable reply), `finish_reason`
    (the endpoint's, if its meaning is not known), `served_model` (as the endpoint named it). A torn last line
    and sessions without turns are left out. If several folders hold the same sessions of an
    experiment, they are separate runs: the folder becomes part of the name in `experiment`.

    Raises:
        TranscriptError: A file is not a transcript, there are no turns, or a session is named twice;
            names file and line.
    """
    files = sources([paths] if isinstance(paths, Path | str) else paths)
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = list(threads.map(_sessions_and_turns, batches_of(files)))
    turns = pl.concat([part for _, part in parts])
    if turns.is_empty():
        others = f" and neither do {len(files) - 1} other files" if len(files) > 1 else ""
        raise TranscriptError(f"{files[0]} holds no turns yet{others}")
    sessions = separate_runs(each_once(pl.concat([part for part, _ in parts])))
    return turns.join(sessions, on="path", how="left", maintain_order="left").select(_COLUMNS)


def _sessions_and_turns(files: Sequence[Path]) -> tuple[pl.DataFrame, pl.DataFrame]:
    if is_exported(files[0]):
        return _exported(files[0])
    lines = checked_lines(files, _SERVED)
    turns = lines.filter(type="turn").with_columns(
        told_length=told_length(),
        finish_reason=pl.col("served").struct.field("finish_reason"),
        served_model=pl.col("served").struct.field("model"),
    )
    heard = turns.unnest("usage").select("path", *_TURN, "told")
    known = dict(map(_recorded, files))
    return sessions_of(lines), told.only_counted(told.with_verdicts(heard, known), known)


def _recorded(file: Path) -> tuple[str, told.Recorded]:
    return str(file), told.recorded(first_line(file))


def told_length() -> pl.Expr:
    """Return the number of characters of feedback."""
    return pl.col("told").str.len_chars().cast(pl.Int64)


def sessions_of(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the sessions among the lines that `checked_lines` returns, in order."""
    ends = lines.filter(type="end").select("path", "status")
    return (
        lines.filter(type="session")
        .select("path", *SESSION_FIELDS, "settings")
        .join(ends, on="path", how="left", maintain_order="left")
        .with_columns(
            complete=pl.col("status").eq_missing("complete"),
            chance=1 / pl.col("labels").list.len(),
            model=pl.col("settings").struct.field("model").struct.field("name"),
        )
        .select(_SESSION)
    )


def _exported(export: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the sessions and turns of an export.

    Raises:
        TranscriptError: A table is missing or damaged; names it.
    """
    sessions = read_table(export, "sessions", (*_SESSION, "played", "header", "imported"))
    turns = read_table(export, "turns", ("path", *_TURN, "told"))
    place = table_path(export, "sessions")
    if sessions["path"].is_duplicated().any():
        raise TranscriptError(f"{place} is damaged: it holds a session twice")
    runs = turns["path"].rle().struct.unnest().select(path="value", played=pl.col("len").cast(int))
    if not runs.equals(sessions.filter(pl.col("played") > 0).select("path", "played")):
        raise TranscriptError(f"{export} does not hold the turns of the sessions in {place}")
    counts = runs["played"].to_numpy()
    numbers = np.arange(turns.height) - np.repeat(counts.cumsum() - counts, counts)
    imported = sessions.drop_nulls("imported")["path"].to_list()
    is_sound = (
        (pl.col("turn") == pl.Series(numbers))
        & (pl.col("correct") == is_scored_right())
        & pl.col("exposure").is_between(0, pl.col("turn")).fill_null(value=True)
        & (pl.all_horizontal(pl.col(_KNOWN).is_not_null()) | pl.col("path").is_in(imported))
    )
    for name, turn in turns.filter(~is_sound).select("path", "turn").head(1).iter_rows():
        raise TranscriptError(f"{export} is damaged: turn {turn} of {name} contradicts itself")
    headers = sessions.select("path", "header").iter_rows()
    known = {path: told.recorded(header) for path, header in headers}
    return sessions.select(_SESSION), told.only_counted(told.with_verdicts(turns, known), known)


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
    played_twice = sessions.select("experiment", "arm", "stream", "repeat").is_duplicated()
    recurring = sessions.filter(played_twice)["experiment"].unique()
    if recurring.is_empty():
        return sessions
    folders = [Path(path).resolve().parent for path in sessions["path"]]
    above = os.path.commonpath(folders)
    names = []
    for folder, name in zip(folders, sessions["experiment"], strict=True):
        run = folder.relative_to(above)
        run = run if run.name == name else run / name  # folders usually have the experiment's name
        names.append(run.as_posix() if name in recurring else name)
    return sessions.with_columns(experiment=pl.Series(names))


def tabulate(
    played: Mapping[tuple[str, int], Sequence[Turn]], *, chance: float, experiment: str = "played"
) -> pl.DataFrame:
    """Return turns that were not saved as a frame with the columns of `frame`.

    Args:
        played: The turns of each session, by arm and stream.
        chance: Accuracy of guessing.
        experiment: Name of the experiment.
    """
    names = (*_TURN, "told")
    schema = {name: (TABLES["sessions"] | TABLES["turns"])[name] for name in (*_SESSION, *names)}
    rows = []
    for (arm, stream), turns in played.items():
        place = (f"{arm}-{stream}", experiment, arm, stream, 0)
        session = (*place, len(turns), chance, True, "complete", None)
        for turn in turns:
            fields = line_fields(turn) | {
                "told_length": len(turn.feedback.told),
                "exposure": sum(last - first + 1 for first, last in turn.kept),
            }
            served = turn.reply.served or Served()
            fields |= {"finish_reason": served.finish_reason, "served_model": served.model}
            values = fields | asdict(turn.reply.usage)
            rows.append((*session, *(values[name] for name in names)))
    heard = told.with_verdicts(pl.DataFrame(rows, schema=schema, orient="row"), {})
    return heard.select(_COLUMNS)
