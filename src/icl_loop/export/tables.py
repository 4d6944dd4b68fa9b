"""Transcripts as five tables: turns, sessions, probes, notes and choices.

Every field of a turn, probe, note or choice is a column of its table, as `transcripts.schema` declares it.
Checksums are left out. Sessions are joined to the other tables by `path`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from icl_loop.analysis import sessions
from icl_loop.analysis.frame import sessions_of, told_length
from icl_loop.analysis.transcript_lines import BATCH_BYTES, batches_of, checked_lines
from icl_loop.core.messages import Served
from icl_loop.export.source_file import OnSessions, SourceFile
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.columns import LINES, TABLES, Schema, columns, json_column, table_path
from icl_loop.transcripts.reader import read, sound_lines
from icl_loop.transcripts.schema import LOGPROBS, TurnLine

_JSON: Schema = {
    name: json_column(model, name) for model in LINES.values() for name in model.model_fields
}
_DEFAULTS = {
    name: field.default
    for model in LINES.values()
    for name, field in model.model_fields.items()
    if field.default not in (None, PydanticUndefined)
}
_LOGPROBS = "label_logprobs"
_SESSION = ("path", "id", "experiment", "arm", "stream", "repeat", "seed", "model", "dataset")
"""Columns of the session that each row of the other tables repeats."""
_PLAYED = ("path", "turns", "chance", "complete", "status")
"""Further columns of the session that each turn repeats."""


def write_parquet(files: Sequence[SourceFile], place: Path, on_sessions: OnSessions) -> None:
    """Write the tables as Parquet files, in parts to bound the memory used."""
    with TemporaryDirectory(dir=place.parent) as name:
        folder = Path(name)
        for number, batch in enumerate(batches(files, on_sessions)):
            for table, rows in batch.items():
                rows.write_parquet(folder / f"{table}-{number:06}.parquet", compression="lz4")
        for table in TABLES:
            parts = pl.scan_parquet(sorted(folder.glob(f"{table}-*.parquet")))
            parts.sink_parquet(table_path(place, table), compression="zstd")


def write_csv(files: Sequence[SourceFile], place: Path, on_sessions: OnSessions) -> None:
    """Write the tables as CSV files without nested columns."""
    with ExitStack() as stack:
        out = {table: stack.enter_context(table_path(place, table).open("wb")) for table in TABLES}
        for number, batch in enumerate(batches(files, on_sessions)):
            for table, rows in batch.items():
                _flat(rows).write_csv(out[table], include_header=number == 0)


def batches(
    files: Sequence[SourceFile], on_sessions: OnSessions, batch_bytes: int = BATCH_BYTES
) -> Iterator[dict[str, pl.DataFrame]]:
    """Yield the tables of the transcripts, for about `batch_bytes` of transcripts at a time.

    Raises:
        TranscriptError: A file is not a transcript; names file and line.
    """
    fields = frozenset[str]().union(*(file.fields for file in files))
    unknown = sorted(fields - TurnLine.model_fields.keys() - {CHECKSUM_KEY})
    headers = pl.DataFrame(
        [(str(file.path), file.torn, file.header) for file in files],
        schema={"path": pl.String, "torn": pl.Boolean, "header": pl.String},
        orient="row",
    )
    paths = [file.path for file in files]
    known = sessions(paths).join(headers, on="path", maintain_order="left")
    for batch in batches_of(paths, batch_bytes):
        lines = _decoded(_with_json_text(checked_lines(batch, _JSON), batch, unknown))
        yield _tables(lines, known, unknown)
        on_sessions(len(batch))


def _with_json_text(
    lines: pl.DataFrame, files: Iterable[Path], unknown: Iterable[str]
) -> pl.DataFrame:
    """Return the lines with the fields that hold arbitrary objects as JSON text.

    They are parsed again line by line, because polars does not escape the text of objects.
    """
    names = [*unknown, *([_LOGPROBS] if lines[_LOGPROBS].count() else [])]
    if not names:
        return lines
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    for file in files:
        for line in sound_lines(file):
            fields = json.loads(line)
            for name, values in texts.items():
                value = fields.get(name)
                if name == _LOGPROBS and value is not None and not _are_sound(value):
                    read(file)  # raises an error that names the line
                values.append(None if value is None else json.dumps(value, ensure_ascii=False))
    return lines.with_columns(pl.DataFrame(texts, schema=dict.fromkeys(names, pl.String)))


def _are_sound(logprobs: object) -> bool:
    try:
        LOGPROBS.validate_python(logprobs, strict=True)
    except ValidationError:
        return False
    return True


def _decoded(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the lines with nested fields as columns, and defaults in place of missing fields."""
    served = pl.col("served").struct
    return lines.with_columns(
        pl.col("kept").str.json_decode(pl.List(pl.List(pl.Int64))),
        pl.col("picture").str.decode("base64"),
        pl.col("usage").struct.unnest(),
        pl.col("served").is_not_null(),
        served.field("model").alias("served_model"),
        *(served.field(each.name) for each in fields(Served)[1:]),
        *(pl.col(name).fill_null(value) for name, value in _DEFAULTS.items()),
        told_length=told_length(),
    )


def _tables(
    lines: pl.DataFrame, sessions: pl.DataFrame, unknown: Iterable[str]
) -> dict[str, pl.DataFrame]:
    """Return the tables of the sessions among the lines."""
    ends = lines.filter(type="end").select("path", "status", ended="at")
    kinds = {"played": "turn", "probes": "probe", "notes": "note", "choices": "choice"}
    counts = lines.group_by("path").agg(
        (pl.col("type") == kind).sum().cast(pl.Int64).alias(name) for name, kind in kinds.items()
    )
    played = sessions_of(lines).select(_PLAYED[:-1])
    for other in (ends, counts, sessions):
        played = played.join(other, on="path", how="left", maintain_order="left")
    tables = {"sessions": played}
    for name, model in LINES.items():
        more = ("told_length", "exposure", *unknown) if name == "turns" else ()
        repeated = played.select(*_SESSION, *(_PLAYED[1:] if name == "turns" else ()))
        rows = lines.filter(type=name.removesuffix("s")).select("path", *columns(model), *more)
        joined = rows.join(repeated, on="path", how="left", maintain_order="left")
        tables[name] = joined.select(*repeated.columns, *rows.columns[1:])
    return tables


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table without nested columns: runs as "0-4 7-9", lists with commas, base64."""
    first, last = pl.element().list.get(0), pl.element().list.get(1)
    runs = pl.col("kept").list.eval(pl.format("{}-{}", first, last)).list.join(" ")
    return table.with_columns(
        *(
            runs if name == "kept" else pl.col(name).list.join(",")
            for name, kind in table.schema.items()
            if isinstance(kind, pl.List)
        ),
        pl.selectors.binary().bin.encode("base64"),
    )
