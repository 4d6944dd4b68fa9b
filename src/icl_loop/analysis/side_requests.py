"""Requests of saved sessions beside their turns: probes, and notes."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.exported_tables import Schema, is_exported, table
from icl_loop.transcripts.files import sources

_COUNTED = ("counted", "prefix")
_USAGE = ("prompt", "cached", "completion", "reasoning")
_SCHEMA: Schema = {
    "path": pl.String,
    "kind": pl.String,
    "after_turn": pl.Int64,
    "counted": pl.Int64,
    "prefix": pl.Int64,
    **dict.fromkeys(_USAGE, pl.Int64),
}


def side_requests(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes and notes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `kind`, `after_turn`, `counted`, `prefix` (null for probes), `prompt`, `cached`,
    `completion`, `reasoning`. Only sessions whose settings ask for them are read through.

    Raises:
        TranscriptError: A line is not whole; names file and line.
    """
    return pl.concat(
        [
            pl.concat(map(_exported, files)) if exported else _saved(files)
            for exported, files in groupby(sources(paths), is_exported)
        ]
    )


def _exported(path: Path) -> pl.DataFrame:
    """Return the probes and notes of an export, each kind by itself."""
    of_notes = {name: kind for name, kind in _SCHEMA.items() if name != "kind"}
    of_probes = {name: kind for name, kind in of_notes.items() if name not in _COUNTED}
    probes = table(path, "probes", of_probes, of_probes).with_columns(kind=pl.lit("probe"))
    notes = table(path, "notes", of_notes, of_probes).with_columns(kind=pl.lit("note"))
    return pl.concat([probes, notes], how="diagonal").select(*_SCHEMA)


def _saved(files: Iterable[Path]) -> pl.DataFrame:
    return pl.DataFrame([row for path in files for row in _rows(path)], schema=_SCHEMA)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        if not _asks_beside(_parsed(path, 1, file.readline())):
            return
        for number, line in enumerate(file, start=2):
            if line.startswith((b'{"type":"probe"', b'{"type":"note"')) and line.endswith(b"\n"):
                yield {"path": str(path), **_row(path, number, line)}


def _asks_beside(header: Mapping[str, Any]) -> bool:
    """Whether the settings ask for probes or notes, or those of a parent that lines are shared with."""
    settings = _table(header, "settings")
    probed = bool(_table(settings, "probes").get("at"))
    noted = "notes" in str(_table(settings, "context").get("policy"))
    parent = _table(_table(header, "branch"), "parent")
    return probed or noted or (bool(parent) and _asks_beside(parent))


def _table(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    said = _parsed(path, number, line)
    try:
        usage = {name: int(said["usage"][name]) for name in _USAGE}
        kind, after = str(said["type"]), int(said["after_turn"])
    except (KeyError, TypeError, ValueError):
        raise TranscriptError(f"{path}, line {number}: its turn or usage is not whole") from None
    found = {name: said.get(name) for name in _COUNTED}
    return {"kind": kind, "after_turn": after, **found, **usage}


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise TranscriptError(f"{path}, line {number} is not a line of a transcript")
    return said
