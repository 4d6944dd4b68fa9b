"""Transcripts: the append-only record of a session, format `icl-loop/transcript` version 1.

One JSON object a line, flushed to the disk turn by turn; nothing is ever rewritten. A request is
stored as the turns it showed plus the new question, so the file grows linearly.
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

VERSION = metadata.version("icl-loop")
TIME_FIELDS = frozenset({"created", "at", "latency_s", "attempts"})
"""The only fields in which a resumed session may differ from one that was never cut."""

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


def identity(fields: Mapping[str, Any]) -> str:
    """Return the id of the session whose header has these fields: a digest of what it says."""
    said = {key: fields[key] for key in fields if key not in ("id", "created", "icl_loop")}
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
                turns.append(_turn(saved))
            case _NoteLine() as written:
                after = f"a note after turn {written.after_turn}"
                _expect(path, number, f"a note after turn {len(turns)}", after)
                notes.append(_note(written))
            case _ProbeLine() as asked:
                after = f"a probe after turn {asked.after_turn}"
                _expect(path, number, f"a probe after turn {len(turns)}", after)
                probes.append(_probe(asked))
            case End() as end:
                pass
    sound = len(data) - len(torn)
    return Transcript(path, header, tuple(turns), end, sound, tuple(probes), tuple(notes))


def _expect(path: Path, number: int, expected: str, found: str) -> None:
    if found != expected:
        raise TranscriptError(f"{path}, line {number}: expected {expected}, found {found}")


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
        """
        self.path = path
        self._journal = journal
        self.saved: tuple[Turn, ...] = ()
        self.events: tuple[Event, ...] = ()
        self.probes: tuple[Probe, ...] = ()
        self.end: End | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        check_resumable(path, header)
        if has_whole_line(path):
            saved = read(path)
            self.saved, self.events = saved.turns, saved.events
            self.probes, self.end = saved.probes, saved.end
            self._file: FileIO = path.open("r+b", buffering=0)
            self._file.truncate(saved.sound_bytes)
            self._file.seek(saved.sound_bytes)
        else:
            self._file = path.open("wb", buffering=0)
            self._write(header.born().fields())
            _flush_directory(path.parent)

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

    async def record(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """Yield each turn or note once it is written; with a journal, its flush may follow soon."""
        saved = iter(self.events)
        async for event in events:
            before = next(saved, None)
            if before is not None:
                compare(before, event)
            else:
                self._write(event_fields(event))
            yield event

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
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StoppedShort:
        return StoppedShort(
            f"{self.path} cannot be written: {error.strerror}; the turns before are saved"
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
            write_durably(file, b"".join([line_of(header.born().fields()), *lines]))
        part.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


def line_of(fields: Mapping[str, Any]) -> bytes:
    """Return the line that holds these fields."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


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
    with path.open("rb") as file:
        saved = _parse(path, 1, file.readline(), _HEADER)
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
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


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
