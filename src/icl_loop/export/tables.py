"""Transcripts as four tables: turns, sessions, probes and notes, read in groups of bounded size.

Everything that a transcript says of a turn, a probe or a note is in a row of its own; what it says of
the session stands once, in the table of sessions, and is found by `path`. Seals are left out: they
are of bytes that are not exported.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from icl_loop.analysis.frame import checked, groups, part_of
from icl_loop.export.selection import Saved
from icl_loop.transcripts.checksum import SEAL
from icl_loop.transcripts.exported_tables import Schema

_SERVED = ("model", "system_fingerprint")
_TEXTS: Schema = {
    "question": pl.String,
    "picture": pl.String,
    "request": pl.String,
    "reply": pl.String,
    "finish": pl.String,
    "echo": pl.String,
    "overflows": pl.Int64,
    "limit": pl.Int64,
    "calibration": pl.Float64,
    "served": pl.Struct(dict.fromkeys(_SERVED, pl.String)),
    "label_logprobs": pl.String,
    "attempts": pl.Int64,
    "at": pl.String,
}
"""Fields that are not analysed; of the label's probabilities it is JSON text."""
_BESIDE: Schema = {"after_turn": pl.Int64, "text": pl.String}
"""Fields of probes and notes that turns do not have."""
_LEFT_OUT: Mapping[str, object] = {"overflows": 0, "calibration": 1.0, "finish": "stop"}
"""What fields mean that older transcripts do not have."""
_KNOWN = frozenset(
    {"type", "turn", "sample", "label", "kept", "answer", "outcome", "correct", "told"}
    | {"usage", "latency_s", "counted", "prefix", SEAL, *_TEXTS}
)
_USAGE = ("prompt", "cached", "completion", "reasoning")
_NAMES = ("path", "id", "experiment", "arm", "stream", "seed", "model", "dataset")
"""What every turn says of its session."""
_PLAYED = ("turns", "chance", "complete")
_ANALYSED = ("turn", "sample", "label", "answer", "outcome", "correct", "told_length", "exposure")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some sessions, whole: their turns, probes and notes, and a row each."""

    turns: pl.DataFrame
    probes: pl.DataFrame
    notes: pl.DataFrame
    sessions: pl.DataFrame


def batches(saved: Saved) -> Iterator[Batch]:
    """Yield the tables of the transcripts, some sessions at a time.

    Raises:
        TranscriptError: A file is not a transcript; names file and line.
    """
    more = sorted(frozenset[str]().union(*(each.fields for each in saved.glimpses)) - _KNOWN)
    headers = pl.DataFrame(
        {
            "path": [str(file) for file in saved.files],
            "torn": [each.torn for each in saved.glimpses],
            "header": [each.header for each in saved.glimpses],
        },
        schema={"path": pl.String, "torn": pl.Boolean, "header": pl.String},
    )
    named = saved.sessions.join(headers, on="path", maintain_order="left")
    for group in groups(saved.files, saved.at_once):
        lines = checked(group, {**_TEXTS, **_BESIDE}).with_columns(
            pl.col("kept").str.json_decode(pl.List(pl.List(pl.Int64)))
        )
        yield _batch(_with_json(lines, group, more), named, more)
        saved.went(len(group))


def _with_json(lines: pl.DataFrame, files: Iterable[Path], more: Iterable[str]) -> pl.DataFrame:
    """Return the lines with fields that may hold anything as JSON text.

    They are read again for that, one by one: polars does not escape what it writes of an object.
    """
    anything = [*more, *(["label_logprobs"] if lines["label_logprobs"].count() else [])]
    if not anything:
        return lines
    columns: dict[str, list[str | None]] = {name: [] for name in anything}
    for file in files:
        for line in file.read_bytes().split(b"\n")[:-1]:
            said = json.loads(line)
            for name, values in columns.items():
                found = said.get(name)
                values.append(None if found is None else json.dumps(found, ensure_ascii=False))
    return lines.with_columns(pl.DataFrame(columns, schema=dict.fromkeys(anything, pl.String)))


def _batch(lines: pl.DataFrame, named: pl.DataFrame, more: list[str]) -> Batch:
    part = part_of(lines)
    names = named.select(_NAMES)
    ends = lines.filter(type="end").select("path", "status", ended="at")
    played = part.sessions.select("path", *_PLAYED).join(
        ends, on="path", how="left", maintain_order="left"
    )
    texts = lines.filter(type="turn").select("told", "kept", *_fields(), *more)
    turns = names.join(
        played.join(part.turns.hstack(texts), on="path", maintain_order="left_right"),
        on="path",
        maintain_order="right",
    )
    return Batch(
        turns=turns.select(
            *(*_NAMES, *_PLAYED, "status", *_ANALYSED, "latency_s", "counted", "prefix", *_USAGE),
            *texts.columns,
        ),
        probes=_beside(lines.filter(type="probe").select(*_of_probe()), names),
        notes=_beside(lines.filter(type="note").select(*_of_note()), names),
        sessions=played.join(_counts(lines), on="path", how="left", maintain_order="left").join(
            named, on="path", maintain_order="left"
        ),
    )


def _beside(asked: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Return probes or notes behind the names of their sessions."""
    named = names.join(asked, on="path", maintain_order="right")
    return named.select(*_NAMES, pl.exclude(_NAMES))


def _fields() -> list[pl.Expr]:
    """Return the columns of what is not analysed."""
    return [
        pl.col(name).fill_null(_LEFT_OUT[name]) if name in _LEFT_OUT else pl.col(name)
        for name in _TEXTS
        if name not in ("picture", "served")
    ] + [
        pl.col("picture").str.decode("base64"),
        pl.col("served").is_not_null(),
        pl.col("served").struct.field("model").alias("served_model"),
        pl.col("served").struct.field("system_fingerprint"),
    ]


def _of_probe() -> list[pl.Expr]:
    """Return the columns of a probe."""
    plain = ("path", "after_turn", "sample", "label", "answer", "outcome", "correct", "latency_s")
    return [*map(pl.col, plain), *_of_request()]


def _of_note() -> list[pl.Expr]:
    """Return the columns of a note."""
    plain = ("path", "after_turn", "text", "latency_s", "counted", "prefix")
    return [*map(pl.col, plain), *_of_request()]


def _of_request() -> list[pl.Expr]:
    """Return the columns of a request that is no turn's, and its reply."""
    of_turns = {"question", "picture", "echo", "calibration"}
    return [
        pl.col("usage").struct.unnest(),
        pl.col("kept"),
        *(each for each in _fields() if each.meta.output_name() not in of_turns),
    ]


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
