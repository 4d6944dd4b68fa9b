"""Probes: accuracy on held-out samples at checkpoints, from saved transcripts."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.curves import Estimate
from icl_loop.analysis.session_settings import sessions, text_in, whole_in
from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.exported_tables import is_exported, table
from icl_loop.transcripts.files import sources

_SCHEMA = {
    "path": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "after_turn": pl.Int64,
    "sample": pl.String,
    "label": pl.String,
    "answer": pl.String,
    "correct": pl.Boolean,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How an arm did on its probes at one checkpoint.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        after_turn: Turns played before.
        accuracy: Over the sessions that were asked there.
        asked: Probes behind it.
        right: How many of them were answered right.
    """

    experiment: str
    arm: str
    after_turn: int
    accuracy: Estimate
    asked: int
    right: int


def probes(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `after_turn`, `sample`,
    `label`, `answer`, `correct`. Only sessions whose settings ask for probes are read through.

    Raises:
        TranscriptError: A line of a probe is not whole; names file and line.
    """
    found = sources(paths)
    parts = [
        _exported(files) if exported else _saved(files)
        for exported, files in groupby(found, is_exported)
    ]
    asked = pl.concat(parts)
    if asked.is_empty():
        return asked
    named = sessions(found).select("path", "experiment")
    return asked.drop("experiment").join(named, on="path", maintain_order="left").select(*_SCHEMA)


def _exported(files: Iterable[Path]) -> pl.DataFrame:
    whole = _SCHEMA.keys() - {"answer"}
    return pl.concat([table(file, "probes", _SCHEMA, whole) for file in files])


def _saved(files: Iterable[Path]) -> pl.DataFrame:
    return pl.DataFrame([row for path in files for row in _rows(path)], schema=_SCHEMA)


def checkpoints(asked: pl.DataFrame) -> list[Checkpoint]:
    """Return accuracy arm by arm and checkpoint by checkpoint, of what `probes` returns.

    A session counts once, whatever the number of its probes.
    """
    arm = ("experiment", "arm", "after_turn")
    share = pl.col("correct").mean().alias("share")
    per_session = asked.group_by(*arm, "path", maintain_order=True).agg(
        share, pl.len().alias("asked"), pl.col("correct").sum().alias("right")
    )
    return [
        Checkpoint(
            str(experiment),
            str(name),
            int(after),
            Estimate.of(part["share"].to_numpy()),
            asked=int(part["asked"].sum()),
            right=int(part["right"].sum()),
        )
        for (experiment, name, after), part in per_session.group_by(*arm, maintain_order=True)
    ]


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as the stable JSON of `analyze --json`."""
    accuracy = checkpoint.accuracy
    return {
        "after_turn": checkpoint.after_turn,
        "accuracy": accuracy.mean,
        "accuracy_ci": accuracy.interval and list(accuracy.interval),
        "sessions": accuracy.sessions,
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        header = _parsed(path, 1, file.readline())
        if not _asks_probes(header):
            return
        session = {key: text_in(header, key) for key in ("experiment", "arm")}
        stream = whole_in(header, "stream")
        for number, line in enumerate(file, start=2):
            if line.startswith(b'{"type":"probe"') and line.endswith(b"\n"):
                yield {"path": str(path), **session, "stream": stream, **_probe(path, number, line)}


def _asks_probes(header: Mapping[str, Any]) -> bool:
    """Whether the settings ask for probes, or those of a parent that lines are shared with."""
    parent = _table(_table(header, "branch"), "parent")
    asks = bool(_table(_table(header, "settings"), "probes").get("at"))
    return asks or (bool(parent) and _asks_probes(parent))


def _table(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def _probe(path: Path, number: int, line: bytes) -> dict[str, Any]:
    said = _parsed(path, number, line)
    correct = said.get("correct")
    probe = {
        "after_turn": whole_in(said, "after_turn"),
        **{key: text_in(said, key) for key in ("sample", "label", "answer")},
        "correct": correct if isinstance(correct, bool) else None,
    }
    for key, value in probe.items():
        if key not in said:
            raise TranscriptError(f"{path}, line {number}: the probe has no {key!r}")
        if value is None and not (key == "answer" and said[key] is None):
            raise TranscriptError(f"{path}, line {number}: the probe's {key} is {said[key]!r}")
    return probe


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise TranscriptError(f"{path}, line {number} is not a line of a transcript")
    return said
