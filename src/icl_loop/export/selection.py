"""The transcripts to export."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis import sessions
from icl_loop.analysis.transcript_lines import BATCH_BYTES
from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.files import find

OnSessions = Callable[[int], None]
"""Called with the number of further sessions that were written."""
_END_BYTES = 1_024
"""More than the length of a last line."""


def _ignore(_: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Selection:
    """The transcripts to export.

    Attributes:
        files: Their paths, in order.
        on_sessions: Called as sessions are written.
        batch_bytes: How many bytes of transcripts are read together.
    """

    files: tuple[Path, ...]
    on_sessions: OnSessions = _ignore
    batch_bytes: int = BATCH_BYTES

    @classmethod
    def at(cls, paths: Iterable[Path], on_sessions: OnSessions = _ignore) -> "Selection":
        """Return the transcripts among `paths` and below folders."""
        return cls(tuple(find(paths)), on_sessions)

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """The settings of the sessions, one row each, as `analysis.sessions` returns them."""
        return sessions(self.files)

    @cached_property
    def edges(self) -> tuple["FileEdges", ...]:
        """The first and last lines of the files."""
        return tuple(map(FileEdges.of, self.files))


@dataclass(frozen=True, slots=True)
class FileEdges:
    """What the first two lines and the end of a transcript show.

    Attributes:
        header: The first line.
        fields: The fields of the first turn; empty if there is none.
        torn: Whether the last line is torn.
        ended: Whether the last complete line is the end of the session.
    """

    header: str
    fields: frozenset[str]
    torn: bool
    ended: bool

    @classmethod
    def of(cls, path: Path) -> "FileEdges":
        """Return the edges of the file at `path`.

        Raises:
            TranscriptError: It cannot be read.
        """
        try:
            with path.open("rb") as file:
                header, second = file.readline(), file.readline()
                file.seek(-min(_END_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
                *lines, rest = file.read().split(b"\n")
        except OSError as error:
            raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
        return cls(
            header=header.decode(errors="replace").rstrip("\n"),
            fields=frozenset(_fields(second, "turn")),
            torn=bool(rest),
            ended=bool(lines and _fields(lines[-1], "end")),
        )


def _fields(line: bytes, kind: str) -> Mapping[str, Any]:
    """Return the fields of a line of this type; empty if it is another."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) and fields.get("type") == kind else {}
