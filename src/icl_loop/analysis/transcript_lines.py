"""The lines of many transcripts as one polars frame, checked."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError
from pydantic import TypeAdapter, ValidationError

from icl_loop.core.errors import TranscriptError, reason_of
from icl_loop.core.messages import MAX_SECONDS, MOST_TOKENS
from icl_loop.transcripts.columns import OPTIONAL, USAGE, Schema, is_exported, json_column
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import read, sound_lines
from icl_loop.transcripts.schema import (
    FORMAT,
    FORMAT_VERSION,
    MAX_RATIO,
    UNKNOWN,
    End,
    ProbeLine,
    TurnLine,
)

BATCH_BYTES = 32 * 2**20
"""Bytes of transcripts that are read together."""
_LINE_COST = 200
"""Bytes that a line takes in memory beside its text, about."""
SESSION_FIELDS = ("experiment", "arm", "stream", "repeat", "turns", "labels")
SCORED_FIELDS = ("turn", "sample", "label", "answer", "outcome", "correct")
_TURN_FIELDS = (*SCORED_FIELDS, "told", "kept", "latency_s", "counted", "prefix", "usage")
_SCHEMA: Schema = {
    **{name: json_column(Header, name) for name in ("type", "format", "version", *SESSION_FIELDS)},
    **{name: json_column(TurnLine, name) for name in _TURN_FIELDS},
    "settings": pl.Struct({"model": pl.Struct({"name": pl.String})}),
    "after_turn": json_column(ProbeLine, "after_turn"),
    "status": json_column(End, "status"),
    "imported": json_column(Header, "imported"),
}
_REQUIRED = tuple(name for name in _TURN_FIELDS if name not in OPTIONAL)
_UNKNOWN = tuple(name for name in _TURN_FIELDS if name in UNKNOWN)
_SPANS = TypeAdapter(list[tuple[int, int]])
_MAX_TURN = 2**31


def batches_of(files: Sequence[Path], size: int = BATCH_BYTES) -> Iterator[list[Path]]:
    """Yield the files in batches of about `size` bytes, which bounds the memory used.

    An export is a batch of its own.
    """
    batch: list[Path] = []
    total = 0
    for file in files:
        if batch and (total >= size or is_exported(file)):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += size if is_exported(file) else _size(file)
    if batch:
        yield batch


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise TranscriptError(f"{file} cannot be read: {reason_of(error)}") from None


def checked_lines(files: Sequence[Path], more: Schema | None = None) -> pl.DataFrame:
    """Return the complete lines of transcripts, with the fields that are analysed and `more`.

    Beside the fields there are `path`, the number of the `line`, `exposure` (past turns shown) and the
    `latest` turn shown; `kept` is JSON text.

    Raises:
        TranscriptError: A line is not of the format, or in the wrong place; names file and line.
    """
    schema = {**_SCHEMA, **(more or {})}
    parts = [_parsed(places, lines, schema) for places, lines in _parts(files)]
    lines = pl.concat(parts)
    _check_lines(lines)
    return lines


_Places = list[tuple[str, int]]


def _parts(files: Sequence[Path]) -> Iterator[tuple[_Places, list[bytes]]]:
    """Yield about `BATCH_BYTES` of lines at a time, with the path and number of each."""
    places, lines, size = _Places(), list[bytes](), 0
    for path in files:
        for number, line in enumerate(sound_lines(path), start=1):
            places.append((str(path), number))
            lines.append(line)
            size += len(line) + _LINE_COST
            if size >= BATCH_BYTES:
                yield places, lines
                places, lines, size = [], [], 0
    if lines:
        yield places, lines


def _parsed(places: _Places, lines: Sequence[bytes], schema: Schema) -> pl.DataFrame:
    """Return the fields of lines; raise TranscriptError if one is not of the format on its own."""
    parsed = _parse(b"\n".join(lines), schema)
    if parsed is None or parsed.height != len(lines):
        for path in dict(places):
            read(Path(path))  # raises an error that names the line
        raise _unreadable(places, lines, schema)
    paths, numbers = zip(*places, strict=True)
    numbered = pl.DataFrame({"path": paths, "line": numbers})
    placed = pl.concat([numbered, parsed], how="horizontal")
    placed = placed.join(_exposures(parsed["kept"]), on="kept", how="left", maintain_order="left")
    _raise_for(placed.filter(~(_is_sound_alone() & _has_sound_numbers(placed))))
    return placed


def _unreadable(places: _Places, lines: Sequence[bytes], schema: Schema) -> TranscriptError:
    """Return an error that names the first line that polars does not read, although it fits the schema."""
    for (path, number), line in zip(places, lines, strict=True):
        parsed = _parse(line, schema)
        if parsed is None or parsed.height != 1:
            return TranscriptError(f"{path}, line {number}: a number in it is out of range")
    return TranscriptError(f"{places[0][0]} or a file after it is not a transcript")


def is_scored_right() -> pl.Expr:
    """Return whether the answer of a turn is its label."""
    return (pl.col("answer") == pl.col("label")).fill_null(value=False)


def _parse(data: bytes, schema: Schema) -> pl.DataFrame | None:
    try:
        lines = pl.read_ndjson(BytesIO(data), schema=schema)
    except PolarsError:
        return None
    discarded = (name for name in USAGE if name.startswith("discarded"))
    whole = pl.col("usage").struct.with_fields(*(pl.field(each).fill_null(0) for each in discarded))
    usage = pl.when(pl.col("usage").is_not_null()).then(whole)
    return lines.with_columns(usage.alias("usage"), pl.col("repeat").fill_null(0))


def _exposures(kept: pl.Series) -> pl.DataFrame:
    """Return `exposure` and `latest` for each distinct text of `kept`; null if it is invalid."""
    texts = kept.drop_nulls().unique()
    schema = {"kept": pl.String, "exposure": pl.Int64, "latest": pl.Int64}
    return pl.DataFrame([(text, *_exposure(text)) for text in texts], schema, orient="row")


def _exposure(text: str) -> tuple[int | None, int | None]:
    exposure, latest = 0, -1
    try:
        spans = _SPANS.validate_json(text, strict=True)
    except ValidationError:
        return None, None
    for first, last in sorted(spans):
        if not latest < first <= last <= _MAX_TURN:
            return None, None
        exposure, latest = exposure + last - first + 1, last
    return exposure, latest


def _check_lines(lines: pl.DataFrame) -> None:
    """Raise TranscriptError, naming the first one, if a line is not where it may be."""
    kind = pl.col("type")
    imported = pl.col("imported").first().over("path").is_not_null()
    is_sound = (
        pl.when(kind == "turn")
        .then(
            (pl.col("turn") == (kind == "turn").cum_sum().over("path") - 1)
            & (imported | pl.all_horizontal(pl.col(_UNKNOWN).is_not_null()))
        )
        .when(kind == "end")
        .then(pl.col("line") == pl.len().over("path"))
        .when(kind != "session")
        .then(pl.col("after_turn") == (kind == "turn").cum_sum().over("path"))
        .otherwise(statement=True)
    )
    _raise_for(lines.filter(~is_sound))


def _raise_for(wrong: pl.DataFrame) -> None:
    """Raise TranscriptError, naming the first one, if there are wrong lines."""
    for path, line in wrong.select("path", "line").head(1).iter_rows():
        read(Path(path))  # raises an error that says what is wrong
        what = "it has no labels" if line == 1 else "its answer, label and correct do not agree"
        raise TranscriptError(f"{path}, line {line} is wrong: {what}")


def _is_sound_alone() -> pl.Expr:
    """Return whether a line can be one of a transcript, whatever the lines before it."""
    kind = pl.col("type")
    return (
        pl.when(pl.col("line") == 1)
        .then(_is_header())
        .when(kind == "turn")
        .then(_is_sound_turn())
        .when(kind == "end")
        .then(pl.col("status").is_not_null())
        .otherwise(
            kind.is_in(["note", "choice", "probe"])
            & _has_whole_usage()
            & (pl.col("kept").is_null() | pl.col("exposure").is_not_null())
        )
        .fill_null(value=False)
    )


def _is_header() -> pl.Expr:
    return pl.all_horizontal(
        pl.col("type") == "session",
        pl.col("format") == FORMAT,
        pl.col("version").is_between(1, FORMAT_VERSION),
        pl.col(SESSION_FIELDS).is_not_null(),
        pl.col("labels").list.len() > 0,
    )


def _has_sound_numbers(lines: pl.DataFrame) -> pl.Expr:
    """Return whether no number of a line is out of the range that the schema allows."""
    counts = [
        name
        for name, kind in lines.schema.items()
        if kind == pl.Int64 and name not in ("latest", "seed", "number")
    ]
    usage = (pl.col("usage").struct.field(name).is_between(0, MOST_TOKENS) for name in USAGE)
    ranges = (*(pl.col(name) >= 0 for name in counts), *usage)
    seconds = pl.col("latency_s").is_between(0, MAX_SECONDS)
    ratio = [pl.col("calibration").is_between(0, MAX_RATIO)] * ("calibration" in lines.columns)
    return pl.all_horizontal(each.fill_null(value=True) for each in (*ranges, seconds, *ratio))


def _has_whole_usage() -> pl.Expr:
    known = (pl.col("usage").struct.field(name).is_not_null() for name in USAGE)
    return pl.col("usage").is_null() | pl.all_horizontal(known)


def _is_sound_turn() -> pl.Expr:
    return pl.all_horizontal(
        pl.col(_REQUIRED).is_not_null(),
        _has_whole_usage(),
        pl.col("kept").is_null() | (pl.col("latest") < pl.col("turn")),
        pl.col("correct") == is_scored_right(),
    )
