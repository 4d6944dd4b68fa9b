"""The lines of many transcripts as one polars frame, checked."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError
from pydantic import TypeAdapter, ValidationError

from icl_loop.core.errors import TranscriptError, reason_of
from icl_loop.transcripts.checksum import verify_checksums
from icl_loop.transcripts.columns import OPTIONAL, USAGE, Schema, is_exported, json_column
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import complete_lines, read
from icl_loop.transcripts.schema import FORMAT, FORMAT_VERSION, UNKNOWN, End, TurnLine

BATCH_BYTES = 32 * 2**20
"""Bytes of transcripts that are read together."""
SESSION_FIELDS = ("experiment", "arm", "stream", "repeat", "turns", "labels")
SCORED_FIELDS = ("turn", "sample", "label", "answer", "outcome", "correct")
_TURN_FIELDS = (*SCORED_FIELDS, "told", "kept", "latency_s", "counted", "prefix", "usage")
_SCHEMA: Schema = {
    **{name: json_column(Header, name) for name in ("type", "format", "version", *SESSION_FIELDS)},
    **{name: json_column(TurnLine, name) for name in _TURN_FIELDS},
    "settings": pl.Struct({"model": pl.Struct({"name": pl.String})}),
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
    schema, texts = {**_SCHEMA, **(more or {})}, []
    for path in files:
        text, torn = complete_lines(path)
        verify_checksums(path, text, torn)
        texts.append(text)
    parsed = _parse(b"\n".join(chain.from_iterable(texts)), schema)
    if parsed is None or parsed.height != sum(map(len, texts)):
        for path in files:
            read(path)  # raises an error that names the line
        raise TranscriptError(f"{files[0]} or a file after it is not a transcript")
    places = pl.DataFrame(
        {"path": [str(file) for file in files], "line": [range(1, len(t) + 1) for t in texts]},
        schema={"path": pl.String, "line": pl.List(pl.Int64)},
    ).explode("line")
    placed = pl.concat([places, parsed], how="horizontal")
    lines = placed.join(_exposures(parsed["kept"]), on="kept", how="left", maintain_order="left")
    _check_lines(lines)
    return lines


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
    """Raise TranscriptError, naming the first one, if a line is wrong or in the wrong place."""
    kind = pl.col("type")
    is_sound = (
        pl.when(pl.col("line") == 1)
        .then(_is_header())
        .when(kind == "turn")
        .then(_is_sound_turn())
        .when(kind == "end")
        .then(pl.col("status").is_not_null() & (pl.col("line") == pl.len().over("path")))
        .otherwise(kind.is_in(["note", "choice", "probe"]))
        .fill_null(value=False)
    )
    for path, line in lines.filter(~is_sound).select("path", "line").head(1).iter_rows():
        read(Path(path))  # raises an error that says what is wrong
        what = "it has no labels" if line == 1 else "its answer, label and correct do not agree"
        raise TranscriptError(f"{path}, line {line} is wrong: {what}")


def _is_header() -> pl.Expr:
    return pl.all_horizontal(
        pl.col("type") == "session",
        pl.col("format") == FORMAT,
        pl.col("version").is_between(1, FORMAT_VERSION),
        pl.col(SESSION_FIELDS).is_not_null(),
        pl.col("labels").list.len() > 0,
    )


def _is_sound_turn() -> pl.Expr:
    usage = (pl.col("usage").struct.field(name).is_not_null() for name in USAGE)
    imported = pl.col("imported").first().over("path").is_not_null()
    return pl.all_horizontal(
        pl.col(_REQUIRED).is_not_null(),
        imported | pl.all_horizontal(pl.col(_UNKNOWN).is_not_null()),
        pl.col("usage").is_null() | pl.all_horizontal(usage),
        pl.col("kept").is_null() | (pl.col("latest") < pl.col("turn")),
        pl.col("correct") == is_scored_right(),
        pl.col("turn") == (pl.col("type") == "turn").cum_sum().over("path") - 1,
    )
