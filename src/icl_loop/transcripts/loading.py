"""Loading saved sessions whole, from transcripts or from exports of transcripts.

A session of an export is rebuilt when it is asked for, so that memory holds one at a time.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from icl_loop.core.errors import TranscriptError
from icl_loop.core.messages import Served, Usage
from icl_loop.core.records import Note, Probe, Turn
from icl_loop.core.validation_messages import first_problem
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import Transcript, read, read_header
from icl_loop.transcripts.schema import End, Entry, check_kept, entry_of, turns_before
from icl_loop.transcripts.tables import (
    LINES,
    USAGE,
    Schema,
    beside,
    columns,
    is_exported,
    nullable,
    read_table,
)

_COUNTS = {"turns": "played", "probes": "probes", "notes": "notes"}
"""The column of sessions that counts the rows of each table."""
_SESSION: Schema = {
    **dict.fromkeys(("path", "header", "status", "ended"), pl.String),
    **dict.fromkeys(_COUNTS.values(), pl.Int64),
}


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A session in an export.

    Attributes:
        export: The export.
        path: The transcript that was exported.
        header: Its first line.
        end: Status and time of its end, or None if it has not ended.
        places: First row and number of rows in each table.
    """

    export: Path
    path: str
    header: str
    end: tuple[str, str] | None
    places: Mapping[str, tuple[int, int]]

    def entries(self, name: str) -> Iterator[Entry]:
        """Yield the entries of a table."""
        if not self.places[name][1]:
            return
        model = LINES[name]
        schema: Schema = {"path": pl.String, **columns(model)}
        required = schema.keys() - nullable(model)
        table = read_table(self.export, name, schema, required, self.places[name])
        if table.height < self.places[name][1] or (table["path"] != self.path).any():
            raise TranscriptError(
                f"{self.export} is damaged: its {name} are not those that"
                f" {beside(self.export, 'sessions')} counts"
            )
        kind = name.removesuffix("s")
        for row in table.iter_rows(named=True):
            entry = entry_of(model.model_validate({"type": kind, **_fields(row)}))
            check_kept(entry)
            yield entry


@dataclass(frozen=True, slots=True)
class SavedSessions:
    """Saved sessions by the path of their transcript, in order.

    Attributes:
        places: The transcript of each, or its rows in an export.
    """

    places: Mapping[str, Path | ExportedSession]

    @classmethod
    def at(cls, paths: Iterable[Path]) -> "SavedSessions":
        """Return the sessions of the transcripts and exports among `paths` and below folders.

        Raises:
            TranscriptError: A path does not exist, there is no transcript, or an export is damaged.
        """
        places: dict[str, Path | ExportedSession] = {}
        for source in sources(paths):
            places |= _exported(source) if is_exported(source) else {str(source): source}
        return cls(places)

    def header(self, path: str) -> Header:
        """Return the first line of a session.

        Raises:
            TranscriptError: It is missing or wrong.
        """
        place = self.places[path]
        return read_header(place) if isinstance(place, Path) else _header(place)

    def read(self, path: str) -> Transcript:
        """Return a session.

        Raises:
            TranscriptError: It is damaged; names the file.
        """
        place = self.places[path]
        return read(place) if isinstance(place, Path) else rebuilt(place)

    def __iter__(self) -> Iterator[Transcript]:
        """Yield all sessions, one at a time."""
        return map(self.read, self.places)


def _exported(export: Path) -> dict[str, Path | ExportedSession]:
    """Return the sessions of an export by the paths of their transcripts."""
    counts = list(_COUNTS.values())
    table = read_table(export, "sessions", _SESSION, _SESSION.keys() - {"status", "ended"})
    first = table.select(pl.col(counts).cum_sum() - pl.col(counts))
    return {
        row["path"]: ExportedSession(
            export=export,
            path=row["path"],
            header=row["header"],
            end=None if row["status"] is None else (row["status"], row["ended"]),
            places={name: (before[count], row[count]) for name, count in _COUNTS.items()},
        )
        for row, before in zip(table.to_dicts(), first.to_dicts(), strict=True)
    }


def _header(saved: ExportedSession) -> Header:
    try:
        return Header.model_validate_json(saved.header)
    except ValidationError as error:
        raise TranscriptError(
            f"{beside(saved.export, 'sessions')} is damaged: the header of {saved.path}:"
            f" {first_problem(error)}"
        ) from None


def rebuilt(saved: ExportedSession) -> Transcript:
    """Return an exported session as `read` returns it from its transcript, with 0 `sound_bytes`.

    Raises:
        TranscriptError: The export is damaged; names it.
    """
    header = _header(saved)
    try:
        turns = [each for each in saved.entries("turns") if isinstance(each, Turn)]
        probes = [each for each in saved.entries("probes") if isinstance(each, Probe)]
        notes = [each for each in saved.entries("notes") if isinstance(each, Note)]
        _check_order(turns, [*probes, *notes])
        end = saved.end and End.model_validate(
            {"status": saved.end[0], "turns": len(turns), "at": saved.end[1]}
        )
    except (ValueError, TypeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise TranscriptError(f"{saved.export} is damaged: {saved.path}, {reason}") from None
    return Transcript(Path(saved.path), header, tuple(turns), end, 0, tuple(probes), tuple(notes))


def _check_order(turns: list[Turn], others: list[Probe | Note]) -> None:
    """Raise ValueError unless turns are numbered from 0 and the other entries are between them."""
    for number, turn in enumerate(turns):
        if turn.index != number:
            raise ValueError(f"turn {number} is numbered {turn.index}")
    for other in others:
        if not 0 <= turns_before(other) <= len(turns):
            raise ValueError(f"after_turn is {turns_before(other)} of {len(turns)} turns")


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the line from which a row was made."""
    picture, logprobs = row.get("picture"), row["label_logprobs"]
    return {
        **row,
        "kept": tuple(tuple(run) for run in row["kept"]),
        "usage": Usage(**{name: row[name] for name in USAGE}),
        "served": Served(row["served_model"], row["system_fingerprint"]) if row["served"] else None,
        "label_logprobs": None if logprobs is None else json.loads(logprobs),
        "picture": None if picture is None else base64.b64encode(picture),
    }
