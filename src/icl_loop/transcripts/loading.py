"""Saved sessions, whole, wherever they are held: in transcripts, or in exports of transcripts.

From an export they are rebuilt one at a time, so that no more than one is in memory.
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
from icl_loop.core.records import Note, Probe, Turn
from icl_loop.transcripts import End, Header, Transcript, read
from icl_loop.transcripts.exported_tables import Schema, beside, is_exported, table
from icl_loop.transcripts.fields import note_of, probe_of, turn_of
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.lines import NoteLine, ProbeLine, TurnLine, check_kept
from icl_loop.transcripts.reader import first_line

_COUNTED = ("played", "probes", "notes")
"""How many rows each table but that of sessions has of a session."""
_SESSION: Schema = {
    "path": pl.String,
    "header": pl.String,
    "status": pl.String,
    "ended": pl.String,
    **dict.fromkeys(_COUNTED, pl.Int64),
}
_USAGE = ("prompt", "cached", "completion", "reasoning")
_REQUEST: Schema = {
    "path": pl.String,
    "kept": pl.List(pl.List(pl.Int64)),
    "request": pl.String,
    "reply": pl.String,
    "finish": pl.String,
    "overflows": pl.Int64,
    **dict.fromkeys(_USAGE, pl.Int64),
    "served": pl.Boolean,
    "served_model": pl.String,
    "system_fingerprint": pl.String,
    "label_logprobs": pl.String,
    "latency_s": pl.Float64,
    "attempts": pl.Int64,
    "at": pl.String,
}
_JUDGED: Schema = {
    "sample": pl.String,
    "label": pl.String,
    "answer": pl.String,
    "outcome": pl.String,
    "correct": pl.Boolean,
}
_MEASURED: Schema = {"limit": pl.Int64, "counted": pl.Int64, "prefix": pl.Int64}
_TABLES: Mapping[str, Schema] = {
    "turns": {
        "turn": pl.Int64,
        **_REQUEST,
        **_JUDGED,
        **_MEASURED,
        "question": pl.String,
        "picture": pl.Binary,
        "told": pl.String,
        "echo": pl.String,
        "calibration": pl.Float64,
    },
    "probes": {"after_turn": pl.Int64, **_REQUEST, **_JUDGED},
    "notes": {"after_turn": pl.Int64, **_REQUEST, **_MEASURED, "text": pl.String},
}
_MAY_MISS = frozenset(
    {"served_model", "system_fingerprint", "label_logprobs", "answer", "picture", "echo"}
) | frozenset(_MEASURED)
"""Columns in which something may be missing."""


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """The session of one transcript in an export.

    Attributes:
        export: Where its turns are; the other tables are beside it.
        path: The transcript that was exported.
        header: Its first line.
        end: How and when it ended, None if it can go on.
        places: The first row and the number of rows, by table.
    """

    export: Path
    path: str
    header: str
    end: tuple[str, str] | None
    places: Mapping[str, tuple[int, int]]

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a table."""
        if not self.places[name][1]:
            return []
        schema = _TABLES[name]
        whole = schema.keys() - _MAY_MISS
        found = table(self.export, name, schema, whole, self.places[name])
        if found.height < self.places[name][1] or (found["path"] != self.path).any():
            raise TranscriptError(
                f"{self.export} is not whole: its {name} are not those that"
                f" {beside(self.export, 'sessions')} counts"
            )
        return found.to_dicts()


@dataclass(frozen=True, slots=True)
class SavedSessions:
    """Saved sessions by the path of their transcript, in their order.

    Attributes:
        places: The transcript of each, or its rows in an export.
    """

    places: Mapping[str, Path | ExportedSession]

    @classmethod
    def at(cls, paths: Iterable[Path]) -> "SavedSessions":
        """Return the sessions of the transcripts or exports among `paths` and below folders.

        Raises:
            TranscriptError: A path does not exist, there is nothing saved, or an export is damaged.
        """
        places: dict[str, Path | ExportedSession] = {}
        for source in sources(paths):
            places |= _exported(source) if is_exported(source) else {str(source): source}
        return cls(places)

    def header(self, path: str) -> Header:
        """Return what a session is, without its turns.

        Raises:
            TranscriptError: It is not said.
        """
        place = self.places[path]
        return header_of(place) if isinstance(place, Path) else _header(place)

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


def header_of(path: Path) -> Header:
    """Return the first line of the transcript at `path`.

    Raises:
        TranscriptError: It is not the line of a session, or cannot be read.
    """
    try:
        return Header.model_validate_json(first_line(path))
    except ValueError:
        raise TranscriptError(f"{path}, line 1 is not the line of a session") from None


def _exported(export: Path) -> dict[str, Path | ExportedSession]:
    """Return the sessions of an export, by the paths of their transcripts."""
    known = table(export, "sessions", _SESSION, _SESSION.keys() - {"status", "ended"})
    first = known.select(pl.col(_COUNTED).cum_sum() - pl.col(_COUNTED))
    return {
        row["path"]: ExportedSession(
            export=export,
            path=row["path"],
            header=row["header"],
            end=None if row["status"] is None else (row["status"], row["ended"]),
            places={
                name: (before[count], row[count])
                for name, count in zip(_TABLES, _COUNTED, strict=True)
            },
        )
        for row, before in zip(known.to_dicts(), first.to_dicts(), strict=True)
    }


def _header(rows: ExportedSession) -> Header:
    try:
        return Header.model_validate_json(rows.header)
    except ValueError:
        place = beside(rows.export, "sessions")
        raise TranscriptError(
            f"{place} is not whole: the header of {rows.path} is not the line of a session"
        ) from None


def rebuilt(rows: ExportedSession) -> Transcript:
    """Return the session that was exported, as `read` returns that of its transcript.

    It has no bytes: those are of the file it was exported from.

    Raises:
        TranscriptError: The export is damaged; names it.
    """
    header = _header(rows)
    try:
        turns = tuple(_turn(row, place) for place, row in enumerate(rows.of("turns")))
        return Transcript(
            path=Path(rows.path),
            header=header,
            turns=turns,
            end=_end(rows, len(turns)),
            sound_bytes=0,
            probes=tuple(_probe(row, len(turns)) for row in rows.of("probes")),
            notes=tuple(_note(row, len(turns)) for row in rows.of("notes")),
        )
    except (ValueError, TypeError) as error:
        raise TranscriptError(f"{rows.export} is not whole: {rows.path}, {_why(error)}") from None


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _end(rows: ExportedSession, turns: int) -> End | None:
    if rows.end is None:
        return None
    status, at = rows.end
    return End.model_validate({"status": status, "turns": turns, "at": at})


def _turn(row: Mapping[str, Any], place: int) -> Turn:
    saved = TurnLine.model_validate({"type": "turn", **_fields(row)})
    if saved.turn != place:
        raise ValueError(f"turn {saved.turn} is in the place of turn {place}")
    check_kept(saved.kept, place)
    return turn_of(saved)


def _probe(row: Mapping[str, Any], turns: int) -> Probe:
    saved = ProbeLine.model_validate({"type": "probe", **_fields(row)})
    _check_after(saved, turns)
    return probe_of(saved)


def _note(row: Mapping[str, Any], turns: int) -> Note:
    saved = NoteLine.model_validate({"type": "note", **_fields(row)})
    _check_after(saved, turns)
    return note_of(saved)


def _check_after(saved: ProbeLine | NoteLine, turns: int) -> None:
    """Raise ValueError unless it was asked after turns that were played."""
    if not 0 <= saved.after_turn <= turns:
        raise ValueError(f"a {saved.type} after turn {saved.after_turn} of {turns}")
    check_kept(saved.kept, saved.after_turn)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the line that a row was made of."""
    served = {"model": row["served_model"], "system_fingerprint": row["system_fingerprint"]}
    picture, logprobs = row.get("picture"), row["label_logprobs"]
    return {
        **row,
        "kept": [tuple(run) for run in row["kept"]],
        "usage": {name: row[name] for name in _USAGE},
        "served": served if row["served"] else None,
        "label_logprobs": None if logprobs is None else json.loads(logprobs),
        "picture": None if picture is None else base64.b64encode(picture),
    }
