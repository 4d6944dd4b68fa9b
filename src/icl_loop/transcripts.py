"""Transcripts: the append-only record of a session, format `icl-loop/transcript` version 1.

One JSON object a line, sealed with a checksum, flushed to the disk turn by turn; nothing is ever
rewritten. A request is stored as the turns it showed plus the new question, so the file grows
linearly.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from io import FileIO
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from icl_loop.errors import ReplayMismatch, SettingsDiffer, StoppedShort, TranscriptError
from icl_loop.journal import Journal, write_durably
from icl_loop.messages import Finish, Image, Message, Reply, Served, Text, Usage, user
from icl_loop.records import Event, Feedback, Note, Outcome, Probe, Turn
from icl_loop.seals import SEAL, check_seals, sealed, unsealed

VERSION = metadata.version("icl-loop")
TIME_FIELDS = frozenset({"created", "at", "latency_s", "attempts", SEAL})
"""The only fields in which a resumed session may differ from one that was never cut: times, and the
checksum over them."""

_ADDED = ("counted", "prefix")
"""Fields that sessions have not always been saved with."""

PLACE_KEYS = tuple(
    f"settings.model.{key}" for key in ("base_url", "api_key_env", "organization", "headers")
)
"""Where a model is asked and who pays; a session may go on at another address."""

EndStatus = Literal["complete", "context_full", "budget", "stopped"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class DatasetIdentity(_Line):
    """Which data the samples came from."""

    name: str
    sha256: str
    size: int


class AnalysisIdentity(_Line):
    """What was to be compared first, as it was said before the first request."""

    primary: tuple[str, str] | None = None
    margin: float = 0.05
    streams: int | None = None


class DonorIdentity(_Line):
    """The session whose told words another is told."""

    arm: str
    stream: int
    id: str
    told_sha256: str


class BranchIdentity(_Line):
    """Where a session left its parent, with all that the turns they share are checked by.

    Attributes:
        at: Turns that they share.
        sha256: Over the lines that they share, as they stand in both files.
        parent: The first line of the parent's transcript.
    """

    at: int = Field(ge=1)
    sha256: str
    parent: dict[str, Any]

    @field_validator("parent")
    @classmethod
    def _is_a_header(cls, parent: dict[str, Any]) -> dict[str, Any]:
        Header.model_validate_json(json.dumps(parent))
        return parent


class SourceIdentity(_Line):
    """The transcript whose replies were read again.

    Attributes:
        id: Its id.
        sha256: Over the file, up to the last whole line.
        experiment: Its experiment.
        settings: What it was set to.
        icl_loop: The version that played it.
    """

    id: str
    sha256: str
    experiment: str
    settings: dict[str, Any]
    icl_loop: str


class Header(_Line):
    """The first line of a transcript: what the session is and everything it was set to."""

    type: Literal["session"] = "session"
    format: Literal["icl-loop/transcript"] = "icl-loop/transcript"
    version: Literal[1] = 1
    id: str = ""
    experiment: str
    arm: str
    stream: int
    seed: int
    turns: int
    settings: dict[str, Any]
    labels: list[str]
    system: str
    dataset: DatasetIdentity
    analysis: AnalysisIdentity = AnalysisIdentity()
    donor: DonorIdentity | None = None
    branch: BranchIdentity | None = None
    source: SourceIdentity | None = None
    created: str = ""
    icl_loop: str = Field(default_factory=lambda: VERSION)

    def fields(self) -> dict[str, Any]:
        """Return the fields of its line; a session played from its beginning is neither of the two."""
        unsaid = {name for name in ("branch", "source") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unsaid)

    def born(self) -> Self:
        """Return the header with an id, made of all it says, and the present time."""
        return self.model_copy(update={"id": identity(self.fields()), "created": _now()})

    @property
    def parent(self) -> "Header | None":
        """The header of the session that it branched off, None if it did not."""
        if self.branch is None:
            return None
        return Header.model_validate_json(json.dumps(self.branch.parent))

    def at(self, turn: int) -> "Header":
        """Return the header under which this turn was played, or what was asked after so many."""
        parent = self.parent
        if self.branch is None or parent is None or turn >= self.branch.at:
            return self
        return parent.at(turn)

    @property
    def root(self) -> "Header":
        """The header of the session that was played from its beginning."""
        return self.at(-1)


_NOT_SAID = frozenset({"id", "created", "icl_loop", SEAL})
"""Fields of a header that say nothing of what the session is."""


def identity(fields: Mapping[str, Any]) -> str:
    """Return the id of the session whose header has these fields: a digest of what it says."""
    said = {key: fields[key] for key in fields if key not in _NOT_SAID}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


class _Usage(_Line):
    prompt: int
    cached: int
    completion: int
    reasoning: int


class _Served(_Line):
    model: str | None
    system_fingerprint: str | None


class _TurnLine(_Line):
    type: Literal["turn"]
    turn: int
    sample: str
    label: str
    question: str
    picture: Base64Bytes | None = None
    kept: list[tuple[int, int]]
    request: str
    reply: str
    finish: Finish = "stop"
    answer: str | None
    outcome: Outcome
    correct: bool
    told: str
    echo: str | None = None
    usage: _Usage
    served: _Served | None = None
    overflows: int = 0
    calibration: float = 1.0
    counted: int | None = None
    prefix: int | None = None
    label_logprobs: dict[str, float] | None
    latency_s: float
    attempts: int
    at: str


class End(_Line):
    """The last line of a session that will not go on."""

    type: Literal["end"] = "end"
    status: EndStatus
    turns: int
    at: str


class _ProbeLine(_Line):
    type: Literal["probe"]
    after_turn: int
    sample: str
    label: str
    kept: list[tuple[int, int]]
    request: str
    reply: str
    finish: Finish = "stop"
    answer: str | None
    outcome: Outcome
    correct: bool
    overflows: int = 0
    usage: _Usage
    served: _Served | None = None
    label_logprobs: dict[str, float] | None
    latency_s: float
    attempts: int
    at: str


class _NoteLine(_Line):
    type: Literal["note"]
    after_turn: int
    kept: list[tuple[int, int]]
    request: str
    reply: str
    finish: Finish = "stop"
    text: str
    overflows: int = 0
    counted: int | None = None
    prefix: int | None = None
    usage: _Usage
    served: _Served | None = None
    label_logprobs: dict[str, float] | None
    latency_s: float
    attempts: int
    at: str


L = TypeVar("L")
E = TypeVar("E", bound=Event | Probe)
_HEADER = TypeAdapter(Header)
_EVENT: TypeAdapter[_TurnLine | _NoteLine | _ProbeLine | End] = TypeAdapter(
    Annotated[_TurnLine | _NoteLine | _ProbeLine | End, Field(discriminator="type")]
)


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


def turns_before(event: Event) -> int:
    """Return how many turns were played before a turn or note."""
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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    *lines, torn = data.split(b"\n")
    if not lines:
        raise TranscriptError(f"{path} holds no whole line; it is not a transcript")
    check_seals(path, lines, torn)
    header = _parse(path, 1, lines[0], _HEADER)
    turns: list[Turn] = []
    probes: list[Probe] = []
    notes: list[Note] = []
    end: End | None = None
    for number, line in enumerate(lines[1:], start=2):
        if end is not None:
            raise TranscriptError(f"{path}, line {number}: the session has already ended")
        match _parse(path, number, line, _EVENT):
            case _TurnLine() as saved:
                _expect(path, number, f"turn {len(turns)}", f"turn {saved.turn}")
                _check_kept(path, number, saved.kept, len(turns))
                turns.append(_turn(saved))
            case _NoteLine() as written:
                after = f"a note after turn {written.after_turn}"
                _expect(path, number, f"a note after turn {len(turns)}", after)
                _check_kept(path, number, written.kept, len(turns))
                notes.append(_note(written))
            case _ProbeLine() as asked:
                after = f"a probe after turn {asked.after_turn}"
                _expect(path, number, f"a probe after turn {len(turns)}", after)
                _check_kept(path, number, asked.kept, len(turns))
                probes.append(_probe(asked))
            case End() as end:
                pass
    sound = len(data) - len(torn)
    return Transcript(path, header, tuple(turns), end, sound, tuple(probes), tuple(notes))


def _expect(path: Path, number: int, expected: str, found: str) -> None:
    if found != expected:
        raise TranscriptError(f"{path}, line {number}: expected {expected}, found {found}")


def _check_kept(path: Path, number: int, kept: Sequence[tuple[int, int]], played: int) -> None:
    """Raise TranscriptError unless `kept` are runs of turns that were played before, none twice."""
    following = 0
    for first, last in sorted(kept):
        if not following <= first <= last < played:
            raise TranscriptError(
                f"{path}, line {number}, kept: [{first}, {last}] is no run of the {played} turns before"
            )
        following = last + 1


def _parse(path: Path, number: int, line: bytes, kind: "TypeAdapter[L]") -> L:
    try:
        return kind.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole line"
        raise TranscriptError(f"{path}, line {number}, {key}: {first['msg']}") from None


def _turn(saved: _TurnLine) -> Turn:
    return Turn(
        index=saved.turn,
        sample=saved.sample,
        label=saved.label,
        question=_question(saved),
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        answer=saved.answer,
        outcome=saved.outcome,
        feedback=Feedback(saved.correct, saved.told),
        overflows=saved.overflows,
        calibration=saved.calibration,
        echo=saved.echo,
        counted=saved.counted,
        prefix=saved.prefix,
    )


def _note(saved: _NoteLine) -> Note:
    return Note(
        after_turn=saved.after_turn,
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        text=saved.text,
        overflows=saved.overflows,
        counted=saved.counted,
        prefix=saved.prefix,
    )


def _probe(saved: _ProbeLine) -> Probe:
    return Probe(
        after_turn=saved.after_turn,
        sample=saved.sample,
        label=saved.label,
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        answer=saved.answer,
        outcome=saved.outcome,
        correct=saved.correct,
        overflows=saved.overflows,
    )


def _reply(saved: _TurnLine | _NoteLine | _ProbeLine) -> Reply:
    return Reply(
        text=saved.reply,
        usage=Usage(**saved.usage.model_dump()),
        finish=saved.finish,
        served=Served(**saved.served.model_dump()) if saved.served else None,
        label_logprobs=saved.label_logprobs,
        attempts=saved.attempts,
        latency_s=saved.latency_s,
        at=saved.at,
    )


def _question(saved: _TurnLine) -> Message:
    """Return the message that asked; a picture that was seen is its last part."""
    if saved.picture is None:
        return user(saved.question)
    said = [Text(saved.question)] if saved.question else []
    return Message("user", (*said, Image(saved.picture)))


def _picture_of(question: Message) -> dict[str, str]:
    """Return the field for a picture that was seen; other questions have no such field."""
    seen = [part.png for part in question.parts if isinstance(part, Image)]
    return {"picture": base64.b64encode(seen[0]).decode()} if seen else {}


def turn_fields(turn: Turn) -> dict[str, Any]:
    """Return the fields of a turn's line, in the order of the format."""
    return {
        "type": "turn",
        "turn": turn.index,
        "sample": turn.sample,
        "label": turn.label,
        "question": turn.question.text,
        **_picture_of(turn.question),
        "kept": turn.kept,
        "request": turn.request,
        "reply": turn.reply.text,
        "finish": turn.reply.finish,
        "answer": turn.answer,
        "outcome": turn.outcome,
        "correct": turn.feedback.correct,
        "told": turn.feedback.told,
        "echo": turn.echo,
        "overflows": turn.overflows,
        "calibration": turn.calibration,
        "counted": turn.counted,
        "prefix": turn.prefix,
        **_reply_fields(turn.reply),
    }


def note_fields(note: Note) -> dict[str, Any]:
    """Return the fields of a note's line, in the order of the format."""
    return {
        "type": "note",
        "after_turn": note.after_turn,
        "kept": note.kept,
        "request": note.request,
        "reply": note.reply.text,
        "finish": note.reply.finish,
        "text": note.text,
        "overflows": note.overflows,
        "counted": note.counted,
        "prefix": note.prefix,
        **_reply_fields(note.reply),
    }


def probe_fields(probe: Probe) -> dict[str, Any]:
    """Return the fields of a probe's line, in the order of the format."""
    return {
        "type": "probe",
        "after_turn": probe.after_turn,
        "sample": probe.sample,
        "label": probe.label,
        "kept": probe.kept,
        "request": probe.request,
        "reply": probe.reply.text,
        "finish": probe.reply.finish,
        "answer": probe.answer,
        "outcome": probe.outcome,
        "correct": probe.correct,
        "overflows": probe.overflows,
        **_reply_fields(probe.reply),
    }


def _reply_fields(reply: Reply) -> dict[str, Any]:
    served = reply.served
    return {
        "usage": {
            "prompt": reply.usage.prompt,
            "cached": reply.usage.cached,
            "completion": reply.usage.completion,
            "reasoning": reply.usage.reasoning,
        },
        "served": served
        and {"model": served.model, "system_fingerprint": served.system_fingerprint},
        "label_logprobs": reply.label_logprobs,
        "latency_s": reply.latency_s,
        "attempts": reply.attempts,
        "at": reply.at,
    }


class Recorder:
    """Appends the turns of one session to its transcript, each flushed to the disk at once.

    An existing transcript is gone on with: its turns are `saved`, a torn last line is cut off, and
    turns that come again are compared with what is saved instead of being written twice.
    """

    def __init__(self, path: Path, header: Header, journal: Journal | None = None) -> None:
        """Open or create the transcript at `path` for the session that `header` describes.

        Turns are written through `journal` if there is one, else one by one.

        Raises:
            SettingsDiffer: The file holds a session of other settings.
            TranscriptError: The file is not a transcript.
            StoppedShort: It cannot be written.
        """
        self.path = path
        self._journal = journal
        self.saved: tuple[Turn, ...] = ()
        self.events: tuple[Event, ...] = ()
        self.probes: tuple[Probe, ...] = ()
        self.end: End | None = None
        check_resumable(path, header)
        try:
            self._file = self._go_on() if has_whole_line(path) else self._begin(header)
        except OSError as error:
            raise self._unwritable(error) from None

    def _go_on(self) -> FileIO:
        """Return the file behind its last whole line, and take over what is saved in it."""
        saved = read(self.path)
        self.saved, self.events = saved.turns, saved.events
        self.probes, self.end = saved.probes, saved.end
        file = self.path.open("r+b", buffering=0)
        file.truncate(saved.sound_bytes)
        file.seek(saved.sound_bytes)
        return file

    def _begin(self, header: Header) -> FileIO:
        """Return a new file behind its first line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("wb", buffering=0)
        try:
            write_durably(file, line_of(header.born().fields()))
            _flush_directory(self.path.parent)
        except OSError:
            file.close()
            raise
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Flush and close the file."""
        if self._journal is None:
            self._file.close()
            return
        try:
            self._journal.close(self._file)
        except OSError as error:
            raise self._unwritable(error) from None

    async def record(self, entries: AsyncIterator[E]) -> AsyncIterator[E]:
        """Yield each entry once it is written; with a journal, its flush may follow soon."""
        saved = iter(self.events)
        async for entry in entries:
            if isinstance(entry, Probe):
                self.add(entry)
            elif before := next(saved, None):
                compare(before, entry)
            else:
                self._write(event_fields(entry))
            yield entry

    def add(self, probe: Probe) -> None:
        """Write a probe."""
        self._write(probe_fields(probe))

    def finish(self, status: EndStatus, turns: int) -> None:
        """Write how the session ended, unless that is already written."""
        if self.end is None:
            self.end = End(status=status, turns=turns, at=_now())
            self._write(self.end.model_dump(mode="json"))

    def _write(self, fields: Mapping[str, Any]) -> None:
        write = write_durably if self._journal is None else self._journal.append
        try:
            write(self._file, line_of(fields))
            links = os.fstat(self._file.fileno()).st_nlink
        except OSError as error:
            raise self._unwritable(error) from None
        if not links:
            raise StoppedShort(
                f"{self.path} was removed while it was written, and its turns with it; put back a"
                " copy if there is one, and run again to ask for the rest anew"
            )

    def _unwritable(self, error: OSError) -> StoppedShort:
        return StoppedShort(
            f"{self.path} cannot be written: {error.strerror}; the turns before are saved: make it"
            " writable and run again to go on"
        )


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of the file at `path` with their ends, but for a torn last one.

    Raises:
        TranscriptError: It cannot be read, or holds no whole line.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        raise TranscriptError(f"{path} holds no whole line; it is not a transcript")
    return [line + b"\n" for line in lines]


def read_header(path: Path) -> Header:
    """Return the first line of the transcript at `path`.

    Raises:
        TranscriptError: It does not begin with one.
    """
    return _parse(path, 1, whole_lines(path)[0], _HEADER)


def shared_lines(lines: Sequence[bytes], at: int) -> tuple[bytes, ...]:
    """Return the lines of what was played and asked before the first `at` turns were over."""
    return tuple(takewhile(lambda line: _turns_in(line) < at, lines[1:]))


def _turns_in(line: bytes) -> float:
    """Return how many turns were played before what a line holds; the end comes after all."""
    said = json.loads(line)
    before: float = said.get("turn", said.get("after_turn", math.inf))
    return before


def begin(path: Path, header: Header, lines: Sequence[bytes]) -> None:
    """Write a transcript that begins with these lines, whole or not at all.

    Raises:
        StoppedShort: It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb", buffering=0) as file:
            write_durably(file, b"".join([line_of(header.born().fields()), *map(_resealed, lines)]))
        part.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


def _resealed(line: bytes) -> bytes:
    return sealed(unsealed(line).removesuffix(b"\n")) + b"\n"


def line_of(fields: Mapping[str, Any]) -> bytes:
    """Return the line that holds these fields, sealed anew."""
    said = {name: value for name, value in fields.items() if name != SEAL}
    written = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return sealed(written) + b"\n"


def event_fields(event: Event) -> dict[str, Any]:
    """Return the fields of the line of a turn or note."""
    return turn_fields(event) if isinstance(event, Turn) else note_fields(event)


def compare(saved: Event, played: Event) -> None:
    """Raise ReplayMismatch, naming turn and field, if `played` is not what was saved.

    Fields that a session was saved without are left out.
    """
    before, now = event_fields(saved), event_fields(played)
    turn = saved.index if isinstance(saved, Turn) else saved.after_turn
    unsaid = {name for name in _ADDED if before.get(name) is None}
    for name in [name for name in {**before, **now} if name not in TIME_FIELDS | unsaid]:
        was, is_now = before.get(name), now.get(name)
        if was != is_now:
            raise ReplayMismatch(turn, f"{name} was {was!r}, is now {is_now!r}", name)


def check_resumable(path: Path, header: Header, *, donor: bool = True) -> None:
    """Raise SettingsDiffer if the file at `path` holds a session other than `header` describes.

    Where it is not known yet, the donor is left out.
    """
    if not has_whole_line(path):
        return
    saved = _parse(path, 1, _first_line(path), _HEADER)
    if saved.source is not None:
        raise SettingsDiffer(
            f"{path} holds replies of {saved.source.experiment} that were read again; it cannot be"
            " gone on with: resume its source, or choose another name or --out"
        )
    unlike = {"id", "created", "icl_loop"} | (set() if donor else {"donor"})
    before = _flat(saved.model_dump(mode="json", exclude=unlike))
    now = _flat(header.model_dump(mode="json", exclude=unlike))
    for key in sorted(before.keys() | now.keys()):
        if not key.startswith((*PLACE_KEYS, "analysis.streams")) and before.get(key) != now.get(
            key
        ):
            raise SettingsDiffer(
                f"{path} was played with {key} = {before.get(key)!r}, but now it is"
                f" {now.get(key)!r}; choose another name or --out for the new settings,"
                " or set it back to resume"
            )


def has_whole_line(path: Path) -> bool:
    """Return whether more than a torn first line was ever written."""
    return _first_line(path).endswith(b"\n")


def _first_line(path: Path) -> bytes:
    """Return the first line of the file at `path`, nothing if there is no such file."""
    try:
        with path.open("rb") as file:
            return file.readline()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _flush_directory(path: Path) -> None:
    """Make the new file's name survive a power cut; not every platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
