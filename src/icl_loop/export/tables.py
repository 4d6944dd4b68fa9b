"""Transcripts as four tables: turns, sessions, probes and notes.

Every field of a turn, probe or note is a column of its table, as `transcripts.schema` declares it.
Checksums are left out. Sessions are joined to the other tables by `path`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic_core import PydanticUndefined

from icl_loop.analysis.frame import sessions_of
from icl_loop.analysis.transcript_lines import batches_of, checked_lines
from icl_loop.export.selection import Selection
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.schema import TurnLine
from icl_loop.transcripts.tables import LINES, Schema, columns, json_column

_JSON: Schema = {
    name: json_column(model, name) for model in LINES.values() for name in model.model_fields
}
_SESSION = ("path", "id", "experiment", "arm", "stream", "seed", "model", "dataset")
"""Columns of the session that each row of the other tables repeats."""
_PLAYED = ("turns", "chance", "complete", "status")
"""Further columns of the session that each turn repeats."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The tables of some sessions."""

    turns: pl.DataFrame
    probes: pl.DataFrame
    notes: pl.DataFrame
    sessions: pl.DataFrame


def batches(selection: Selection) -> Iterator[Batch]:
    """Yield the tables of the transcripts, some sessions at a time.

    Raises:
        TranscriptError: A file is not a transcript; names file and line.
    """
    fields = frozenset[str]().union(*(edges.fields for edges in selection.edges))
    unknown = sorted(fields - TurnLine.model_fields.keys() - {CHECKSUM_KEY})
    headers = pl.DataFrame(
        {
            "path": [str(file) for file in selection.files],
            "torn": [edges.torn for edges in selection.edges],
            "header": [edges.header for edges in selection.edges],
        },
        schema={"path": pl.String, "torn": pl.Boolean, "header": pl.String},
    )
    sessions = selection.sessions.join(headers, on="path", maintain_order="left")
    for files in batches_of(selection.files, selection.batch_bytes):
        lines = _with_json_text(checked_lines(files, _JSON), files, unknown)
        yield _batch(_decoded(lines), sessions, unknown)
        selection.on_sessions(len(files))


def _with_json_text(
    lines: pl.DataFrame, files: Iterable[Path], unknown: Iterable[str]
) -> pl.DataFrame:
    """Return the lines with the fields that hold arbitrary objects as JSON text.

    They are parsed again line by line, because polars does not escape the text of objects.
    """
    names = [*unknown, *(["label_logprobs"] if lines["label_logprobs"].count() else [])]
    if not names:
        return lines
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    for file in files:
        for line in file.read_bytes().split(b"\n")[:-1]:
            fields = json.loads(line)
            for name, values in texts.items():
                value = fields.get(name)
                values.append(None if value is None else json.dumps(value, ensure_ascii=False))
    return lines.with_columns(pl.DataFrame(texts, schema=dict.fromkeys(names, pl.String)))


def _decoded(lines: pl.DataFrame) -> pl.DataFrame:
    """Return the lines with nested fields as columns, and defaults in place of missing fields."""
    served = pl.col("served").struct
    defaults = {
        name: field.default
        for name, field in TurnLine.model_fields.items()
        if field.default not in (None, PydanticUndefined)
    }
    return lines.with_columns(
        pl.col("kept").str.json_decode(pl.List(pl.List(pl.Int64))),
        pl.col("picture").str.decode("base64"),
        pl.col("usage").struct.unnest(),
        pl.col("served").is_not_null(),
        served.field("model").alias("served_model"),
        served.field("system_fingerprint"),
        *(pl.col(name).fill_null(value) for name, value in defaults.items()),
        told_length=pl.col("told").str.len_chars().cast(pl.Int64),
    )


def _batch(lines: pl.DataFrame, sessions: pl.DataFrame, unknown: list[str]) -> Batch:
    ends = lines.filter(type="end").select("path", "status", ended="at")
    played = (
        sessions_of(lines)
        .select("path", *_PLAYED[:-1])
        .join(ends, on="path", how="left", maintain_order="left")
    )
    names = sessions.select(_SESSION)
    turns = names.join(played.drop("ended"), on="path", maintain_order="left")
    return Batch(
        turns=_table(lines, "turns", turns, ["told_length", "exposure", *unknown]),
        probes=_table(lines, "probes", names),
        notes=_table(lines, "notes", names),
        sessions=played.join(_counts(lines), on="path", how="left", maintain_order="left").join(
            sessions, on="path", maintain_order="left"
        ),
    )


def _table(
    lines: pl.DataFrame, name: str, sessions: pl.DataFrame, more: Iterable[str] = ()
) -> pl.DataFrame:
    """Return the rows of a table: columns of the session, then the fields of the line and `more`."""
    rows = lines.filter(type=name.removesuffix("s")).select("path", *columns(LINES[name]), *more)
    return rows.join(sessions, on="path", how="left", maintain_order="left").select(
        *sessions.columns, *rows.columns[1:]
    )


def _counts(lines: pl.DataFrame) -> pl.DataFrame:
    kinds = {"played": "turn", "probes": "probe", "notes": "note"}
    return lines.group_by("path").agg(
        (pl.col("type") == kind).sum().cast(pl.Int64).alias(name) for name, kind in kinds.items()
    )


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table without nested columns: runs as "0-4 7-9", lists with commas, base64."""
    return table.with_columns(
        *(
            _runs(name) if name == "kept" else pl.col(name).list.join(",")
            for name, kind in table.schema.items()
            if isinstance(kind, pl.List)
        ),
        pl.selectors.binary().bin.encode("base64"),
    )


def _runs(name: str) -> pl.Expr:
    first, last = pl.element().list.get(0), pl.element().list.get(1)
    return pl.col(name).list.eval(pl.format("{}-{}", first, last)).list.join(" ")
