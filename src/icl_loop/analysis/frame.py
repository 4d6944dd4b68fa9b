"""Saved transcripts as a polars frame, one row a turn."""

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError

from icl_loop.errors import TranscriptError

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "type": pl.String,
    "format": pl.String,
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
    "kept": pl.List(pl.List(pl.Int64)),
    "latency_s": pl.Float64,
    "usage": pl.Struct(dict.fromkeys(("prompt", "cached", "completion", "reasoning"), pl.Int64)),
    "status": pl.String,
}
_SESSION_COLUMNS = ("path", "experiment", "arm", "stream", "turns", "labels")
_TURN_COLUMNS = (
    "path",
    "turn",
    "sample",
    "label",
    "answer",
    "outcome",
    "correct",
    "kept",
    "latency_s",
    "usage",
)


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the transcripts among `paths` and below the folders among them, each once, in order.

    Raises:
        TranscriptError: A path does not exist, or there is no transcript at all.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise TranscriptError(f"{path} does not exist")
        below = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not below:
            raise TranscriptError(f"{path} holds no transcripts (*.jsonl)")
        found |= {file.resolve(): file for file in below}
    if not found:
        raise TranscriptError("no transcripts were named")
    return list(found.values())


def frame(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the turns of the transcripts at `paths`, one row each, in the order of the files.

    Columns: `path`, `experiment`, `arm`, `stream`, `turns` (planned), `chance`, `complete`,
    `turn`, `sample`, `label`, `answer`, `outcome`, `correct`, `exposure` (past turns shown),
    `latency_s`, `prompt`, `cached`, `completion`, `reasoning`. A torn last line is left out.

    Raises:
        TranscriptError: A file is not a transcript; names file and line.
    """
    lines = _lines(find(paths))
    sessions = lines.filter(pl.col("type") == "session").select(
        *_SESSION_COLUMNS, chance=1 / pl.col("labels").list.len()
    )
    ended = lines.filter(pl.col("type") == "end").select("path", complete=pl.lit(value=True))
    turns = lines.filter(pl.col("type") == "turn").select(_TURN_COLUMNS)
    return (
        sessions.drop("labels")
        .join(ended, on="path", how="left", maintain_order="left")
        .with_columns(pl.col("complete").fill_null(value=False))
        .join(turns, on="path", how="inner", maintain_order="left_right")
        .with_columns(exposure=_exposure())
        .drop("kept")
        .unnest("usage")
    )


def _exposure() -> pl.Expr:
    """Count the turns in the runs [first, last] that a request showed."""
    length = pl.element().list.get(1) - pl.element().list.get(0) + 1
    return pl.col("kept").list.eval(length).list.sum()


def _lines(paths: Sequence[Path]) -> pl.DataFrame:
    whole = [path for path in paths if not _is_torn(path)]
    torn = [path for path in paths if path not in set(whole)]
    try:
        parts = [
            pl.scan_ndjson(whole, schema=_SCHEMA, include_file_paths="path").collect()
            if whole
            else pl.DataFrame(schema={**_SCHEMA, "path": pl.String})
        ]
        parts += [
            pl.read_ndjson(BytesIO(_without_torn_line(path)), schema=_SCHEMA).with_columns(
                path=pl.lit(str(path))
            )
            for path in torn
        ]
    except ComputeError as error:
        raise _blame(paths, str(error)) from None
    lines = pl.concat(parts)
    headed = lines.filter(pl.col("format") == "icl-loop/transcript")["path"].unique()
    for path in paths:
        if str(path) not in headed:
            raise TranscriptError(
                f"{path} is not a transcript: it does not begin with a session line"
            )
    return lines


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return True
        file.seek(-1, 2)
        return file.read() != b"\n"


def _without_torn_line(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _blame(paths: Sequence[Path], said: str) -> TranscriptError:
    """Return the error that names the first line that is no JSON object."""
    for path in paths:
        for number, line in enumerate(_without_torn_line(path).splitlines(), start=1):
            try:
                sound = isinstance(json.loads(line), dict)
            except ValueError:
                sound = False
            if not sound:
                return TranscriptError(f"{path}, line {number} is not a JSON object")
    return TranscriptError(f"the transcripts cannot be read as such: {said.splitlines()[0]}")
