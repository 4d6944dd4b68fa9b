"""The sessions to be exported: their headers, and what is known of their files before reading on."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis import find, sessions
from icl_loop.analysis.frame import READ_AT_ONCE
from icl_loop.core.errors import TranscriptError

Went = Callable[[int], None]
"""Is told how many more sessions are written."""


def _silent(_: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Saved:
    """The transcripts to be exported.

    Attributes:
        files: Where they are, in order.
        went: Is told how many more sessions are written.
        at_once: Bytes of transcripts that are read together, where they are read together.
    """

    files: tuple[Path, ...]
    went: Went = _silent
    at_once: int = READ_AT_ONCE

    @classmethod
    def at(cls, paths: Iterable[Path], went: Went = _silent) -> "Saved":
        """Return the transcripts among `paths` and below the folders among them."""
        return cls(tuple(find(paths)), went)

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """What they were set to, one row each, in order; see `analysis.sessions`."""
        return sessions(self.files)

    @cached_property
    def glimpses(self) -> tuple["Glimpse", ...]:
        """What is seen of the files without reading them through."""
        return tuple(map(Glimpse.of, self.files))


@dataclass(frozen=True, slots=True)
class Glimpse:
    """The edges of a transcript.

    Attributes:
        header: The line of the session, as it stands.
        fields: Names of the fields of the first turn, none if there is none.
        torn: Whether the file ends within a line.
        ended: Whether the last whole line says how the session ended.
    """

    header: str
    fields: frozenset[str]
    torn: bool
    ended: bool

    @classmethod
    def of(cls, path: Path) -> "Glimpse":
        """Return what is seen of the file at `path`."""
        try:
            with path.open("rb") as file:
                header, second = file.readline(), file.readline()
                file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
                *lines, rest = file.read().split(b"\n")
        except OSError as error:
            raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
        return cls(
            header=header.decode(errors="replace").rstrip("\n"),
            fields=frozenset(_fields(second, "turn")),
            torn=bool(rest),
            ended=bool(lines and _fields(lines[-1], "end")),
        )


_TAIL = 1_024
"""More bytes than the line of an end takes."""


def _fields(line: bytes, kind: str) -> Mapping[str, Any]:
    """Return the fields of a line of this kind, none of any other."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("type") == kind else {}
