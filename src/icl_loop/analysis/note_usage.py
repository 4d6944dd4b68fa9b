"""Notes: how many a session took, and how long they are, from saved transcripts."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import polars as pl

from icl_loop.analysis.session_settings import sessions
from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.exported_tables import Schema, is_exported, table
from icl_loop.transcripts.files import sources

_SCHEMA: Schema = {"path": pl.String, "after_turn": pl.Int64, "length": pl.Int64}


@dataclass(frozen=True, slots=True)
class Noted:
    """What the sessions of one arm noted.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        sessions: How many took notes.
        fewest: Notes of the session that took fewest.
        most: Notes of the session that took most.
        length: Characters of a note as later requests show it, a mean over all notes.
        longest: Characters of the longest.
    """

    experiment: str
    arm: str
    sessions: int
    fewest: int
    most: int
    length: float
    longest: int


def notes(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the notes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `after_turn`, `length` (in characters).
    Only sessions whose first line speaks of notes are read through.

    Raises:
        TranscriptError: A line of a note is not whole; names file and line.
    """
    found = sources(paths)
    parts = [
        pl.concat(map(_exported, files)) if exported else _saved(files)
        for exported, files in groupby(found, is_exported)
    ]
    named = sessions(found).select("path", "experiment", "arm")
    taken = pl.concat(parts).join(named, on="path", maintain_order="left")
    return taken.select("path", "experiment", "arm", "after_turn", "length")


def noted(taken: pl.DataFrame) -> list[Noted]:
    """Return what each arm noted, of what `notes` returns; arms without notes are left out."""
    per_session = taken.group_by("experiment", "arm", "path", maintain_order=True).agg(
        pl.len().alias("count"), pl.col("length").sum(), pl.col("length").max().alias("longest")
    )
    per_arm = per_session.group_by("experiment", "arm", maintain_order=True).agg(
        sessions=pl.len(),
        fewest=pl.col("count").min(),
        most=pl.col("count").max(),
        length=pl.col("length").sum() / pl.col("count").sum(),
        longest=pl.col("longest").max(),
    )
    return [Noted(**row) for row in per_arm.iter_rows(named=True)]


def _exported(path: Path) -> pl.DataFrame:
    schema: Schema = {"path": pl.String, "after_turn": pl.Int64, "text": pl.String}
    read = table(path, "notes", schema, schema)
    return read.select("path", "after_turn", length=pl.col("text").str.len_chars().cast(pl.Int64))


def _saved(files: Iterable[Path]) -> pl.DataFrame:
    rows = [row for path in files for row in _rows(path)]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _rows(path: Path) -> Iterator[tuple[str, int, int]]:
    with path.open("rb") as file:
        if b"notes" not in file.readline():
            return
        for number, line in enumerate(file, start=2):
            if line.startswith(b'{"type":"note"') and line.endswith(b"\n"):
                yield (str(path), *_note(path, number, line))


def _note(path: Path, number: int, line: bytes) -> tuple[int, int]:
    """Return after how many turns a note was taken, and its length."""
    try:
        said = json.loads(line)
        return int(said["after_turn"]), len(said["text"])
    except (ValueError, KeyError, TypeError):
        raise TranscriptError(f"{path}, line {number}: the note is not whole") from None
