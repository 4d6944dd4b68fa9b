"""Saved transcripts as a polars frame, one row a turn."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from pydantic import TypeAdapter, ValidationError

from icl_loop.core.errors import TranscriptError
from icl_loop.core.records import Turn
from icl_loop.transcripts.checksum import verify_checksums
from icl_loop.transcripts.exported_tables import Schema, beside, is_exported, table
from icl_loop.transcripts.files import sources

READ_AT_ONCE, AT_ONCE = 32 * 2**20, 2
"""Bytes of transcripts that are read together, and how often at one time."""
_FORMAT, _VERSION = "icl-loop/transcript", 1
_USAGE = ("prompt", "cached", "completion", "reasoning")
_SCHEMA: Schema = {
    "type": pl.String,
    "format": pl.String,
    "version": pl.Int64,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "turns": pl.Int64,
    "labels": pl.List(pl.String),
    "turn": pl.Int64,
    "sample": pl.String,
    "label": pl.String,
    "answer": pl.String,
    "outcome": pl.String,
    "correct": pl.Boolean,
    "told": pl.String,
    "kept": pl.String,  # as JSON: the same runs of turns come again in every session
    "latency_s": pl.Float64,
    "counted": pl.Int64,
    "prefix": pl.Int64,
    "usage": pl.Struct(dict.fromkeys(_USAGE, pl.Int64)),
    "status": pl.String,
}
_RUNS = TypeAdapter(list[tuple[int, int]])
_LATEST = 2**31
"""A turn that no session has."""
_SESSION_COLUMNS = ("experiment", "arm", "stream", "turns", "labels")
_TURN_COLUMNS = ("turn", "sample", "label", "outcome", "correct", "kept", "latency_s", "usage")


def frame(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the turns of the transcripts or exports at `paths`, one row each, in their order.

    Columns: `path`, `experiment`, `arm`, `stream`, `turns` (planned), `chance`, `complete`
    (played to its end), `turn`, `sample`, `label`, `answer`, `outcome`, `correct`,
    `told_length` (characters told), `exposure` (past turns shown), `latency_s`, `counted` (tokens of
    the request as counted here) and `prefix` (how many of them began the request before; both null in
    sessions saved without them), `prompt`, `cached`, `completion`, `reasoning`. A torn last line and a session without turns are left out. Where
    several folders hold the same sessions of an experiment, they are several runs of it:
    `experiment` then names each by its folder.

    Raises:
        TranscriptError: A file is not a transcript, no file holds a turn, or two hold the same
            session; names file and line.
    """
    files = sources(paths)
    with ThreadPoolExecutor(AT_ONCE) as threads:  # while one is parsed, another is read and checked
        parts = list(threads.map(_part, groups(files)))
    turns = pl.concat([part.turns for part in parts])
    if turns.is_empty():
        others = f", nor do the {len(files) - 1} others" if len(files) > 1 else ""
        raise TranscriptError(f"{files[0]} holds no turns yet{others}")
    known = runs_apart(each_once(pl.concat([part.sessions for part in parts])))
    return turns.join(known, on="path", how="left", maintain_order="left").select(
        *("path", "experiment", "arm", "stream", "turns", "chance", "complete"),
        pl.col(turns.columns[1:]),
    )


@dataclass(frozen=True, slots=True)
class Part:
    """The sessions and the turns of some transcripts, without the texts that are not analysed."""

    sessions: pl.DataFrame
    turns: pl.DataFrame


def groups(files: Sequence[Path], at_once: int = READ_AT_ONCE) -> Iterator[list[Path]]:
    """Yield the files in groups of about `at_once` bytes, which bounds the memory taken.

    An export is a group of its own.
    """
    group: list[Path] = []
    size = 0
    for file in files:
        if is_exported(file):
            yield from ([group, [file]] if group else [[file]])
            group, size = [], 0
            continue
        size += _size(file)
        group.append(file)
        if size >= at_once:
            yield group
            group, size = [], 0
    if group:
        yield group


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise TranscriptError(f"{file} cannot be read: {error.strerror}") from None


def _part(files: Sequence[Path]) -> Part:
    return exported_part(files[0]) if is_exported(files[0]) else part_of(checked(files))


_EXPORTED_SESSIONS: Schema = {
    "path": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "turns": pl.Int64,
    "complete": pl.Boolean,
    "chance": pl.Float64,
    "played": pl.Int64,
}
_EXPORTED_TURNS: Schema = {
    "path": pl.String,
    **{name: _SCHEMA[name] for name in ("turn", "sample", "label", "answer", "outcome", "correct")},
    "told_length": pl.Int64,
    "exposure": pl.Int64,
    **{name: _SCHEMA[name] for name in ("latency_s", "counted", "prefix")},
    **dict.fromkeys(_USAGE, pl.Int64),
}


def exported_part(path: Path) -> Part:
    """Return the sessions and the turns of an export, in their order.

    Raises:
        TranscriptError: A table is not there, not of an export, or not whole; names it.
    """
    known = table(path, "sessions", _EXPORTED_SESSIONS, _EXPORTED_SESSIONS)
    sound = _EXPORTED_TURNS.keys() - {"answer", "counted", "prefix"}
    turns = table(path, "turns", _EXPORTED_TURNS, sound)
    _refuse_unlike(path, known, turns)
    return Part(sessions=known.drop("played"), turns=turns)


def _refuse_unlike(path: Path, known: pl.DataFrame, turns: pl.DataFrame) -> None:
    """Raise TranscriptError unless the turns are those that the sessions beside them played."""
    sessions = beside(path, "sessions")
    if known["path"].is_duplicated().any():
        raise TranscriptError(f"{sessions} is not whole: a session is in it twice")
    played = known.filter(pl.col("played") > 0).select("path", "played")
    runs = turns["path"].rle().struct.unnest().select(path="value", played=pl.col("len").cast(int))
    if not runs.equals(played):
        raise TranscriptError(f"{path} does not hold the turns of the sessions in {sessions}")
    counts = played["played"].to_numpy()
    expected = np.arange(turns.height) - np.repeat(counts.cumsum() - counts, counts)
    is_sound = (
        (pl.col("turn") == pl.Series(expected))
        & (pl.col("correct") == _is_right())
        & pl.col("exposure").is_between(0, pl.col("turn"))
    )
    for name, turn in turns.filter(~is_sound).select("path", "turn").head(1).iter_rows():
        raise TranscriptError(f"{path} is not whole: turn {turn} of {name} cannot be as it says")


def each_once(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the sessions of several sources.

    Raises:
        TranscriptError: One of them is in two sources, as a transcript and its export are.
    """
    places = sessions["path"].map_elements(os.path.abspath, return_dtype=pl.String)
    for path in sessions.filter(places.is_duplicated())["path"].head(1):
        raise TranscriptError(f"the session {path} was named twice: name its export or itself")
    return sessions


def checked(files: Sequence[Path], more: Schema | None = None) -> pl.DataFrame:
    """Return the whole lines of transcripts, each in its place, with `more` fields of them.

    `kept` is the JSON text of it, beside which are `exposure` and the `latest` turn shown.

    Raises:
        TranscriptError: A line is not what its place asks for; names file and line.
    """
    lines = _lines(files, {**_SCHEMA, **(more or {})})
    _refuse_misplaced(lines)
    return lines


def part_of(lines: pl.DataFrame) -> Part:
    """Return the sessions and the turns among the lines that `checked` returns, in their order."""
    complete = lines.filter(type="end", status="complete").select("path", complete=True)
    return Part(
        sessions=lines.filter(type="session")
        .select("path", *_SESSION_COLUMNS)
        .join(complete, on="path", how="left", maintain_order="left")
        .with_columns(
            pl.col("complete").fill_null(value=False),
            chance=1 / pl.col("labels").list.len(),
        )
        .drop("labels"),
        turns=lines.filter(type="turn").select(
            *("path", "turn", "sample", "label", "answer", "outcome", "correct"),
            _told_length(),
            "exposure",
            *("latency_s", "counted", "prefix"),
            pl.col("usage").struct.unnest(),
        ),
    )


def tabulate(
    played: Mapping[tuple[str, int], Sequence[Turn]], *, chance: float, experiment: str = "played"
) -> pl.DataFrame:
    """Return turns that were played and not saved as a frame with the columns of `frame`.

    Args:
        played: The turns of each session, by arm and stream.
        chance: Accuracy of guessing.
        experiment: A name for the whole.
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
            **{name: getattr(turn.reply.usage, name) for name in _USAGE},
        }
        for (arm, stream), turns in played.items()
        for turn in turns
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _told_length() -> pl.Expr:
    return pl.col("told").str.len_chars().cast(pl.Int64).alias("told_length")


def _exposures(kept: pl.Series) -> pl.DataFrame:
    """Return how many turns are in each different list of runs, and which of them is the latest.

    Columns: `kept`, `exposure` and `latest`, both null where that is no list of runs of different turns.
    """
    different = kept.drop_nulls().unique()
    rows = [_exposure(text) for text in different]
    shown = pl.DataFrame(rows, schema={"exposure": pl.Int64, "latest": pl.Int64}, orient="row")
    return shown.insert_column(0, different)


def _exposure(text: str) -> tuple[int | None, int | None]:
    try:
        runs = _RUNS.validate_json(text, strict=True)
    except ValidationError:
        return None, None
    exposure, latest = 0, -1
    for first, last in sorted(runs):
        if not latest < first <= last <= _LATEST:
            return None, None
        exposure, latest = exposure + last - first + 1, last
    return exposure, latest


def runs_apart(sessions: pl.DataFrame) -> pl.DataFrame:
    """Name experiments of which a stream was played twice by the folders they are in."""
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
    """Return the folder, which as a rule is called like the experiment that it holds."""
    return (folder if folder.name == experiment else folder / experiment).as_posix()


def _lines(files: Sequence[Path], schema: Schema) -> pl.DataFrame:
    """Return the whole lines of all files, each with its `path` and the number of its `line`."""
    read = [_whole_lines(file) for file in files]
    counts = [len(each) for each in read]
    lines = _parsed(b"\n".join(chain.from_iterable(read)), schema)
    if lines is None or lines.height != sum(counts):
        raise _blame(files, read, schema)
    places = pl.DataFrame(
        {"path": [str(file) for file in files], "line": [range(1, n + 1) for n in counts]},
        schema={"path": pl.String, "line": pl.List(pl.Int64)},
    ).explode("line")
    whole = pl.concat([places, lines], how="horizontal")
    return whole.join(_exposures(lines["kept"]), on="kept", how="left", maintain_order="left")


def _whole_lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    *whole, torn = data.split(b"\n")
    if not whole:
        raise TranscriptError(f"{path} holds no whole line; it is not a transcript")
    verify_checksums(path, whole, torn)
    return whole


def _parsed(data: bytes, schema: Schema) -> pl.DataFrame | None:
    try:
        return pl.read_ndjson(BytesIO(data), schema=schema)
    except PolarsError:
        return None


def _blame(files: Sequence[Path], read: Sequence[list[bytes]], schema: Schema) -> TranscriptError:
    """Return the error that names the first line that cannot be read by itself."""
    for path, whole in zip(files, read, strict=True):
        for number, line in enumerate(whole, start=1):
            parsed = _parsed(line, schema)
            if parsed is None or parsed.height != 1:
                return TranscriptError(f"{path}, line {number} is not a line of a transcript")
    return TranscriptError(f"{files[0]} is not a transcript, or one of those after it is not")


def _refuse_misplaced(lines: pl.DataFrame) -> None:
    """Raise TranscriptError, naming the first one, if a line is not what its place asks for."""
    kind = pl.col("type")
    is_turn, is_end = kind == "turn", kind == "end"
    turns_before = is_turn.cum_sum().over("path") - 1
    ends_before = (is_end.cum_sum() - is_end).over("path")
    misplaced = (
        pl.when(pl.col("line") == 1)
        .then(pl.when(~_is_header()).then(pl.lit("it does not begin with a session line")))
        .when(ends_before > 0)
        .then(pl.lit("the session has already ended"))
        .when(is_turn & ~_is_whole_turn())
        .then(pl.lit("the turn is not whole"))
        .when(is_turn & (pl.col("correct") != _is_right()))
        .then(pl.format("answer {}, label {} and correct {} do not agree", *_judgement()))
        .when(is_turn & (pl.col("turn") != turns_before))
        .then(pl.format("expected turn {}, found {}", turns_before, "turn"))
        .when(is_end & pl.col("status").is_null())
        .then(pl.lit("the end has no status"))
        .when(~kind.is_in(["turn", "note", "end", "probe"]).fill_null(value=False))
        .then(pl.lit("it is neither a turn, a note, a probe nor the end"))
    )
    found = lines.select("path", "line", misplaced=misplaced).drop_nulls("misplaced")
    for path, line, what in found.head(1).iter_rows():
        raise TranscriptError(f"{path}, line {line} is not a line of a transcript: {what}")


def _is_right() -> pl.Expr:
    return (pl.col("answer") == pl.col("label")).fill_null(value=False)


def _judgement() -> list[pl.Expr]:
    return [
        pl.col(name).cast(pl.String).fill_null("null") for name in ("answer", "label", "correct")
    ]


def _is_header() -> pl.Expr:
    return pl.all_horizontal(
        (pl.col("type") == "session").fill_null(value=False),
        (pl.col("format") == _FORMAT).fill_null(value=False),
        (pl.col("version") == _VERSION).fill_null(value=False),
        pl.all_horizontal(pl.col(_SESSION_COLUMNS).is_not_null()),
        (pl.col("labels").list.len() > 0).fill_null(value=False),
    )


def _is_whole_turn() -> pl.Expr:
    usage = pl.col("usage").struct
    return pl.all_horizontal(
        pl.all_horizontal(pl.col(_TURN_COLUMNS).is_not_null()),
        *(usage.field(name).is_not_null() for name in _USAGE),
        (pl.col("latest") < pl.col("turn")).fill_null(value=False),
    )
