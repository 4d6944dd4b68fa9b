"""The transcripts to export."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from icl_loop.core.errors import TranscriptError, reason_of
from icl_loop.core.regular_files import open_regular
from icl_loop.transcripts.files import MAX_BYTES
from icl_loop.transcripts.reader import lines_of

OnSessions = Callable[[int], object]
"""Called with the number of further sessions that were written."""
_END_BYTES = 1_024
"""More than the length of a last line."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A transcript to export, with what its first two lines and its end show.

    Attributes:
        path: The file.
        header: The first line.
        fields: The fields of the first turn; empty if there is none.
        torn: Whether the last line is torn.
        ended: Whether the last complete line is the end of the session.
    """

    path: Path
    header: str
    fields: frozenset[str]
    torn: bool
    ended: bool

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Read the first two lines and the end of a transcript.

        Raises:
            TranscriptError: It cannot be read.
        """
        try:
            header, second, *_ = *islice(lines_of(path), 2), b"", b""
            with open_regular(path, MAX_BYTES) as file:
                file.seek(-min(_END_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
                *lines, rest = file.read().split(b"\n")
        except OSError as error:
            raise TranscriptError(f"{path} cannot be read: {reason_of(error)}") from None
        text = header.decode(errors="replace").rstrip("\n")
        ended = bool(lines and _fields(lines[-1], "end"))
        return cls(path, text, frozenset(_fields(second, "turn")), bool(rest), ended)


def _fields(line: bytes, kind: str) -> dict[str, Any]:
    """Return the fields of a line of this type; empty if it is another."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) and fields.get("type") == kind else {}
