"""Loading saved sessions whole, from transcripts or from exports of transcripts."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from icl_loop.core.errors import TranscriptError
from icl_loop.core.messages import Served
from icl_loop.core.records import Turn
from icl_loop.core.validation_messages import first_problem
from icl_loop.transcripts.columns import LINES, USAGE, columns, is_exported, read_table, table_path
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import Transcript, read, read_header
from icl_loop.transcripts.schema import End, Entry, check_place, entry_of, turns_before

_COUNTS = {"probes": "probes", "notes": "notes", "choices": "choices", "turns": "played"}
"""The column of sessions that counts the rows of each table."""


def saved_sessions(paths: Iterable[Path]) -> dict[str, "SavedSession"]:
    """Return the sessions among `paths` and below folders, in order, by the path of their transcript.

    Raises:
        TranscriptError: A path does not exist, there is no transcript, or an export is damaged.
    """
    found: dict[str, SavedSession] = {}
    for source in sources(paths):
        if not is_exported(source):
            found[str(source)] = SavedTranscript(source)
            continue
        names = ("path", "header", "status", "ended", *_COUNTS.values())
        rows = read_table(source, "sessions", names).with_columns(
            (pl.col(count).cum_sum() - pl.col(count)).alias(f"first_{table}")
            for table, count in _COUNTS.items()
        )
        found |= {row["path"]: ExportedSession(source, row) for row in rows.iter_rows(named=True)}
    return found


@dataclass(frozen=True, slots=True)
class SavedTranscript:
    """A session in a transcript."""

    path: Path

    def header(self) -> Header:
        """Return the first line; raise TranscriptError if it is missing or wrong."""
        return read_header(self.path)

    def read(self) -> Transcript:
        """Return the session; raise TranscriptError if it is damaged."""
        return read(self.path)


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A session in an export, rebuilt when it is asked for, so that memory holds one at a time.

    Attributes:
        export: The export.
        row: Its row in the table of sessions, and the first row of its turns, probes and notes.
    """

    export: Path
    row: Mapping[str, Any]

    def header(self) -> Header:
        """Return the first line; raise TranscriptError if it is wrong."""
        try:
            return Header.model_validate_json(self.row["header"])
        except ValidationError as error:
            raise TranscriptError(
                f"{table_path(self.export, 'sessions')} is damaged: the header of"
                f" {self.row['path']}: {first_problem(error)}"
            ) from None

    def read(self) -> Transcript:
        """Return the session, with 0 `sound_bytes`; raise TranscriptError if it is damaged."""
        path, entries, header = self.row["path"], list[Entry](), self.header()
        try:
            for table in LINES:
                entries += self._entries(table, imported=header.imported is not None)
            entries.sort(key=lambda entry: (turns_before(entry), isinstance(entry, Turn)))
            played = 0
            for entry in entries:
                check_place(entry, played)
                played += isinstance(entry, Turn)
            end = self.row["status"] and End.model_validate(
                {"status": self.row["status"], "turns": played, "at": self.row["ended"]}
            )
        except (ValueError, TypeError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise TranscriptError(f"{self.export} is damaged: {path}, {reason}") from None
        return Transcript.of(Path(path), header, entries, end)

    def _entries(self, table: str, *, imported: bool) -> Iterator[Entry]:
        """Yield the turns, probes, notes or choices."""
        first, count = self.row[f"first_{table}"], self.row[_COUNTS[table]]
        if not count:
            return
        model = LINES[table]
        rows = read_table(self.export, table, ("path", *columns(model)), (first, count))
        if rows.height < count or (rows["path"] != self.row["path"]).any():
            raise TranscriptError(
                f"{self.export} is damaged: its {table} are not those that"
                f" {table_path(self.export, 'sessions')} counts"
            )
        for row in rows.iter_rows(named=True):
            fields = {"type": table.removesuffix("s"), **_line_fields(row)}
            yield entry_of(model.model_validate(fields, strict=False), imported=imported)


_SERVED = [each.name for each in fields(Served)[1:]]


def _line_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the line from which a row was made."""
    picture, logprobs = row.get("picture"), row["label_logprobs"]
    return {
        **row,
        "usage": None if row["prompt"] is None else {name: row[name] for name in USAGE},
        "served": Served(row["served_model"], *(row[name] for name in _SERVED))
        if row["served"]
        else None,
        "label_logprobs": None if logprobs is None else json.loads(logprobs),
        "picture": None if picture is None else base64.b64encode(picture),
    }


SavedSession = SavedTranscript | ExportedSession
"""A session that can be read without knowing where it is saved."""
