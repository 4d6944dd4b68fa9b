"""Reading a transcript, whole or line by line."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from icl_loop.core.errors import TranscriptError
from icl_loop.core.records import Event, Note, Probe, Span, Turn
from icl_loop.core.validation_messages import must, place, written
from icl_loop.transcripts.checksum import verify_checksums
from icl_loop.transcripts.fields import note_of, probe_of, turn_of
from icl_loop.transcripts.header import HEADER, Header
from icl_loop.transcripts.lines import EVENT, End, NoteLine, ProbeLine, TurnLine, check_kept

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Transcript:
    """A saved session.

    Attributes:
        path: The file.
        header: What the session is.
        turns: The turns that were saved whole.
        end: How it ended, or None if it can go on.
        probes: The probes that were saved whole.
        notes: The notes that were saved whole.
        sound_bytes: Length of the file up to the last whole line.
    """

    path: Path
    header: Header
    turns: tuple[Turn, ...]
    end: End | None
    sound_bytes: int
    probes: tuple[Probe, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def events(self) -> tuple[Event, ...]:
        """Turns and notes in the order in which they were played."""
        return _in_order(self.turns, self.notes)


def turns_before(event: Event | Probe) -> int:
    """Return how many turns were played before a turn, note or probe."""
    return event.index if isinstance(event, Turn) else event.after_turn


def _in_order(turns: Sequence[Turn], notes: Sequence[Note]) -> tuple[Event, ...]:
    """Return turns and notes together, each note before the turn that was asked after it."""
    events: list[Event] = []
    start = 0
    for note in notes:
        events += [*turns[start : note.after_turn], note]
        start = note.after_turn
    return (*events, *turns[start:])


def read(path: Path) -> Transcript:
    """Return the session saved in the file at `path`; a torn last line is dropped.

    Raises:
        TranscriptError: The file is not a transcript; the message names file and line.
    """
    lines, torn = _lines_in(path)
    verify_checksums(path, lines, torn)
    header = parse(path, 1, lines[0], HEADER)
    turns: list[Turn] = []
    probes: list[Probe] = []
    notes: list[Note] = []
    end: End | None = None
    for number, line in enumerate(lines[1:], start=2):
        if end is not None:
            raise TranscriptError(f"{path}, line {number}: the session has already ended")
        match parse(path, number, line, EVENT):
            case TurnLine() as saved:
                _expect(path, number, f"turn {len(turns)}", f"turn {saved.turn}")
                _check_kept(path, number, saved.kept, len(turns))
                turns.append(turn_of(saved))
            case NoteLine() as written:
                after = f"a note after turn {written.after_turn}"
                _expect(path, number, f"a note after turn {len(turns)}", after)
                _check_kept(path, number, written.kept, len(turns))
                notes.append(note_of(written))
            case ProbeLine() as asked:
                after = f"a probe after turn {asked.after_turn}"
                _expect(path, number, f"a probe after turn {len(turns)}", after)
                _check_kept(path, number, asked.kept, len(turns))
                probes.append(probe_of(asked))
            case End() as end:
                pass
    sound = sum(map(len, lines)) + len(lines)
    return Transcript(path, header, tuple(turns), end, sound, tuple(probes), tuple(notes))


def _expect(path: Path, number: int, expected: str, found: str) -> None:
    if found != expected:
        raise TranscriptError(f"{path}, line {number}: expected {expected}, found {found}")


def _check_kept(path: Path, number: int, kept: Sequence[Span], played: int) -> None:
    """Raise TranscriptError, naming the line, where `check_kept` finds something wrong."""
    try:
        check_kept(kept, played)
    except ValueError as error:
        raise TranscriptError(f"{path}, line {number}, {error}") from None


def read_header(path: Path) -> Header:
    """Return the first line of the transcript at `path`.

    Raises:
        TranscriptError: It does not begin with one.
    """
    return parse(path, 1, whole_lines(path)[0], HEADER)


def parse(path: Path, number: int, line: bytes, kind: "TypeAdapter[L]") -> L:
    """Return what a line holds, or raise TranscriptError naming file, line and key."""
    try:
        return kind.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = place(first["loc"])
        here = f"{key} = {written(first['input'])}" if key and first["type"] != "missing" else key
        said = f"{here or 'the whole line'}: {must(first)}"
        raise TranscriptError(f"{path}, line {number}, {said}") from None


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of the file at `path` with their ends, but for a torn last one.

    Raises:
        TranscriptError: It cannot be read, or holds no whole line.
    """
    lines, _ = _lines_in(path)
    return [line + b"\n" for line in lines]


def _lines_in(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file, without their ends, and what is torn behind them."""
    try:
        *lines, torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        raise TranscriptError(f"{path} holds no whole line; it is not a transcript")
    return lines, torn


def has_whole_line(path: Path) -> bool:
    """Return whether more than a torn first line was ever written."""
    return first_line(path).endswith(b"\n")


def first_line(path: Path) -> bytes:
    """Return the first line of the file at `path`, nothing if there is no such file."""
    try:
        with path.open("rb") as file:
            return file.readline()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None


def shared_lines(lines: Sequence[bytes], at: int) -> tuple[bytes, ...]:
    """Return the lines of what was played and asked before the first `at` turns were over."""
    return tuple(takewhile(lambda line: _turns_in(line) < at, lines[1:]))


def _turns_in(line: bytes) -> float:
    """Return how many turns were played before what a line holds; the end comes after all."""
    said = json.loads(line)
    before: float = said.get("turn", said.get("after_turn", math.inf))
    return before
