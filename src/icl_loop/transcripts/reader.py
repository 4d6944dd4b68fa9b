"""Reading a transcript, whole or line by line."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from icl_loop.core.errors import TranscriptError, reason_of
from icl_loop.core.records import Choice, Event, Note, Probe, Turn
from icl_loop.core.regular_files import open_regular
from icl_loop.core.validation_messages import key_path, requirement, shown_value
from icl_loop.transcripts.checksum import verified
from icl_loop.transcripts.files import MAX_BYTES, MAX_LINE, check_uncompressed
from icl_loop.transcripts.header import HEADER, Header
from icl_loop.transcripts.schema import LINE, End, Entry, check_place, entry_of, turns_before

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Transcript:
    """A saved session.

    Attributes:
        path: The file.
        header: Its first line.
        turns: The turns, in order.
        end: How the session ended, or None if it can be resumed.
        sound_bytes: Length of the file without a torn last line.
        probes: The probes, in order.
        notes: The notes, in order.
        choices: The model's choices of samples, in order.
    """

    path: Path
    header: Header
    turns: tuple[Turn, ...]
    end: End | None
    sound_bytes: int
    probes: tuple[Probe, ...] = ()
    notes: tuple[Note, ...] = ()
    choices: tuple[Choice, ...] = ()

    @classmethod
    def of(
        cls, path: Path, header: Header, entries: Iterable[Entry], end: End | None, sound: int = 0
    ) -> "Transcript":
        """Return the session that consists of these turns, probes, notes and choices."""
        kinds: dict[type, list[Any]] = {Turn: [], Probe: [], Note: [], Choice: []}
        for entry in entries:
            kinds[type(entry)].append(entry)
        turns, probes, notes, choices = map(tuple, kinds.values())
        return cls(path, header, turns, end, sound, probes, notes, choices)

    def __repr__(self) -> str:
        state = self.end.status if self.end else "unfinished"
        return f"<Transcript {self.path}: {len(self.turns)} turns, {state}>"

    @property
    def events(self) -> tuple[Event, ...]:
        """Turns, notes and choices in the order in which they were played."""
        return tuple(sorted((*self.notes, *self.choices, *self.turns), key=turns_before))

    @property
    def conversation(self) -> tuple[Turn | Note, ...]:
        """Turns and notes, which later requests can show, in the order in which they were played."""
        return tuple(event for event in self.events if not isinstance(event, Choice))


def read(path: Path | str) -> Transcript:
    """Return the session saved at `path`, without a torn last line.

    Raises:
        TranscriptError: The file is not a transcript; names file and line.
    """
    path = Path(path)
    lines = sound_lines(path)
    first = next(lines)
    header, sound = parse(path, 1, first, HEADER), len(first) + 1
    entries: list[Entry] = []
    end, played = None, 0
    for number, line in enumerate(lines, start=2):
        sound += len(line) + 1
        if end is not None:
            raise TranscriptError(f"{path}, line {number}: the session has already ended")
        parsed = parse(path, number, line, LINE)
        if isinstance(parsed, End):
            end = parsed
            continue
        try:
            entry = entry_of(parsed, imported=header.imported is not None)
            check_place(entry, played)
        except ValueError as error:
            raise TranscriptError(f"{path}, line {number}: {error}") from None
        played += isinstance(entry, Turn)
        entries.append(entry)
    return Transcript.of(path, header, entries, end, sound)


def read_header(path: Path) -> Header:
    """Return the first line of the transcript at `path`.

    Raises:
        TranscriptError: It is missing or wrong.
    """
    if not (line := first_line(path)).endswith(b"\n"):
        raise _no_lines(path)
    return parse(path, 1, line, HEADER)


def parse(path: Path, number: int, line: bytes, kind: TypeAdapter[L]) -> L:
    """Return a parsed line.

    Raises:
        TranscriptError: It does not fit the schema; names file, line and key.
    """
    try:
        return kind.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_path(first["loc"])
        if number == 1 and first["type"] == "json_invalid":
            raise _no_transcript(path) from None
        value = (
            f"{key} = {shown_value(first['input'])}" if key and first["type"] != "missing" else key
        )
        raise TranscriptError(
            f"{path}, line {number}, {value or 'the whole line'}: {requirement(first)}"
        ) from None


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of the file at `path` with their newlines, without a torn last one.

    Raises:
        TranscriptError: The file cannot be read, or has no complete line.
    """
    lines = [line for line in lines_of(path) if line.endswith(b"\n")]
    if not lines:
        raise _no_lines(path)
    return lines


def sound_lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines of a transcript, at least one, without newlines.

    Raises:
        TranscriptError: The file cannot be read, or has no complete line.
        ChecksumMismatch: A line does not match its checksum.
    """
    lines = verified(path, lines_of(path))
    if (first := next(lines, None)) is None:
        raise _no_lines(path)
    yield first
    yield from lines


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a transcript with their newlines, which a torn last one lacks.

    What cannot be a transcript is refused without reading it whole.

    Raises:
        TranscriptError: The file cannot be read, is too large or compressed, or a line is empty or too
            long.
    """
    try:
        with open_regular(path, MAX_BYTES) as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if number == 1:
                    check_uncompressed(path, line)
                    if not line.startswith(b"{"):
                        raise _no_transcript(path)
                if len(line) > MAX_LINE:
                    raise TranscriptError(
                        f"{path}, line {number} is longer than {MAX_LINE // 2**20} MiB"
                    )
                if line.isspace():
                    raise TranscriptError(f"{path}, line {number} is empty; remove empty lines")
                yield line
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {reason_of(error)}") from None


def _no_transcript(path: Path) -> TranscriptError:
    return TranscriptError(
        f"{path}, line 1: not valid JSON, so this is no transcript; files of other programs become"
        " transcripts with icl-loop import"
    )


def _no_lines(path: Path) -> TranscriptError:
    return TranscriptError(f"{path} is not a transcript: it has no complete line")


def has_whole_line(path: Path) -> bool:
    """Return whether the file at `path` exists and has a complete line."""
    return path.exists() and first_line(path).endswith(b"\n")


def has_entry(path: Path) -> bool:
    """Return whether there is a transcript at `path` with a complete turn, note or probe."""
    if not path.exists():
        return False
    _, second, *_ = *islice(lines_of(path), 2), b"", b""
    return second.endswith(b"\n") and not second.startswith(b'{"type":"end"')


def first_line(path: Path) -> bytes:
    """Return the first line of the file at `path`, with its newline unless it is torn."""
    return next(lines_of(path), b"")


def shared_lines(lines: Sequence[bytes], at: int) -> tuple[bytes, ...]:
    """Return the lines that a branch after `at` turns shares with its parent, without the first."""
    return tuple(takewhile(lambda line: _turns_in(line) < at, lines[1:]))


def _turns_in(line: bytes) -> float:
    """Return how many turns precede a line; infinity for the end."""
    fields = json.loads(line)
    before: float = fields.get("turn", fields.get("after_turn", math.inf))
    return before
