"""The transcript format: every field of every line, declared once.

Writing, reading, the columns of frames and exports, and the tables in `docs/transcripts.md` derive
from these models. The first line, `Header`, is in `header`. A field of a turn, note or probe has
the name of the attribute that holds it in `core.records`, or in the `Reply`.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, TypeAdapter

from icl_loop.core.messages import (
    LARGEST_LOGPROB,
    MAX_SECONDS,
    MOST_TOKENS,
    Finish,
    Image,
    Message,
    Reply,
    Served,
    Text,
    Usage,
    user,
)
from icl_loop.core.records import Choice, Feedback, Note, Outcome, Probe, Span, Turn, Verdicts
from icl_loop.transcripts.checksum import CHECKSUM_KEY, with_checksum

FORMAT = "icl-loop/transcript"
FORMAT_VERSION: Final = 2
"""The version that is written. Version 1 can still be analysed and plotted."""

Entry = Turn | Note | Choice | Probe
EndStatus = Literal["complete", "context_full", "budget", "stopped"]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
LogProb = Annotated[float, Field(ge=-LARGEST_LOGPROB, le=LARGEST_LOGPROB)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
MAX_RATIO = 1e6
Ratio = Annotated[float, Field(ge=0, le=MAX_RATIO)]
LOGPROBS = TypeAdapter(dict[str, LogProb])
"""The log probabilities of labels as JSON."""


@dataclass(frozen=True, slots=True)
class Doc:
    """The meaning of a field, and the format version that introduced it."""

    meaning: str
    since: int = 1


class Line(BaseModel):
    """A line of a transcript, or a table in one; unknown fields are ignored, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def _check_usage(usage: Usage | None) -> Usage | None:
    """Return `usage`; raise ValueError if a count is out of range."""
    for name, count in asdict(usage or Usage()).items():
        if not 0 <= count <= MOST_TOKENS:
            raise ValueError(f"{name} must be from 0 to {MOST_TOKENS:,}")
    return usage


class ExchangeLine(Line):
    """The fields that turns, notes, choices and probes share: a request and the model's reply."""

    kept: Annotated[tuple[Span, ...] | None, Doc("past turns that the request showed, as runs")]
    request: Annotated[str | None, Doc("fingerprint of the request")]
    reply: Annotated[str | None, Doc("the model's reply, verbatim")]
    finish: Annotated[Finish, Doc("why the model stopped")] = "stop"
    overflows: Annotated[Count, Doc("longer requests that the model rejected first")] = 0
    limit: Annotated[
        Count | None, Doc("most tokens of later requests, after rejected ones", since=2)
    ] = None
    counted: Annotated[Count | None, Doc("tokens of the request, counted locally")] = None
    prefix: Annotated[
        Count | None,
        Doc(
            "how many of these it shares with the start of the previous request (with the policy"
            " `parallel`, of the same context), or of the request for the choice of its sample, if more"
        ),
    ] = None
    usage: Annotated[
        Usage | None,
        AfterValidator(_check_usage),
        Doc(
            "tokens as the endpoint counted them: `prompt`, `cached`, `completion`, `reasoning`;"
            " `discarded_prompt` and `discarded_completion` of attempts without a usable reply"
        ),
    ]
    served: Annotated[
        Served | None,
        Doc(
            "`model`, `system_fingerprint` and an unknown `finish_reason` as the endpoint reported"
            " them; the request fields used as `cap` and `constraint` of the reply"
        ),
    ] = None
    reasoning_text: Annotated[
        str | None, Doc("reasoning that the endpoint returned beside the reply", since=2)
    ] = None
    label_logprobs: Annotated[
        dict[str, LogProb] | None, Doc("natural-log probability of each label, if reported")
    ]
    latency_s: Annotated[Seconds | None, Doc("seconds from the first attempt to the reply")]
    attempts: Annotated[Count | None, Doc("requests sent until one was answered")]
    at: Annotated[str | None, Doc("when the reply arrived: ISO 8601, UTC")]


class TurnLine(ExchangeLine):
    """One sample asked, answered, scored and fed back."""

    type: Literal["turn"]
    turn: Annotated[Count, Doc("position in the session, from 0")]
    sample: Annotated[str | None, Doc("id of the sample")]
    label: Annotated[str, Doc("the correct label, as the model was shown it")]
    question: Annotated[str | None, Doc("text of the message that asked about the sample")]
    picture: Annotated[
        Base64Bytes | None, Doc("the image of that message: a PNG file in base64")
    ] = None
    answer: Annotated[str | None, Doc("the label parsed from the reply, if any")]
    outcome: Annotated[Outcome, Doc("how parsing went")]
    correct: Annotated[bool, Doc("whether the answer is the label")]
    told: Annotated[str | None, Doc("the feedback that the model was shown")]
    echo: Annotated[str | None, Doc("the reply as later requests show it, if not verbatim")] = None
    calibration: Annotated[
        Ratio, Doc("tokens reported per token counted locally, estimated from the turns before")
    ] = 1.0


class NoteLine(ExchangeLine):
    """The model's summary of the turns so far, requested between turns."""

    type: Literal["note"]
    after_turn: Annotated[Count, Doc("turns played before it")]
    text: Annotated[str, Doc("the reply as later requests show it, cut to the token limit")]


class ChoiceLine(ExchangeLine):
    """The model's choice of the sample of the next turn, since version 2."""

    type: Literal["choice"]
    after_turn: Annotated[Count, Doc("turns played before it", since=2)]
    candidates: Annotated[list[str], Doc("ids of the samples offered, numbered from 1", since=2)]
    number: Annotated[
        Int64 | None, Doc("the number parsed from the reply; if none, chance chose", since=2)
    ]
    outcome: Annotated[Outcome, Doc("how parsing went", since=2)]
    sample: Annotated[str, Doc("id of the sample that the next turn asks about", since=2)]


class ProbeLine(ExchangeLine):
    """A held-out sample asked in a fork of the session."""

    type: Literal["probe"]
    after_turn: Annotated[Count, Doc("turns played before it")]
    sample: Annotated[str, Doc("id of the sample")]
    label: Annotated[str, Doc("the correct label, as the model was shown it")]
    answer: Annotated[str | None, Doc("the label parsed from the reply, if any")]
    outcome: Annotated[Outcome, Doc("how parsing went")]
    correct: Annotated[bool, Doc("whether the answer is the label")]
    verdicts: Annotated[
        Verdicts, Doc("the verdicts that the request showed; left out if as told", since=2)
    ] = "told"


class End(Line):
    """The last line of a session that has ended."""

    type: Literal["end"] = "end"
    status: Annotated[EndStatus, Doc("why the session ended")]
    turns: Annotated[Count, Doc("turns played")]
    at: Annotated[str | None, Doc("when it ended: ISO 8601, UTC")]


EntryLine = TurnLine | NoteLine | ChoiceLine | ProbeLine
LINE: TypeAdapter[EntryLine | End] = TypeAdapter(
    Annotated[EntryLine | End, Field(discriminator="type")]
)
"""Any line but the first."""
_OMITTED: Mapping[str, object] = {"reasoning_text": None, "verdicts": "told"}
"""Fields that are left out if they have these values, as earlier versions had none of them."""
UNKNOWN: Mapping[str, Any] = {
    "kept": (),
    "request": "",
    "reply": "",
    "sample": "",
    "question": "",
    "told": "",
    "usage": Usage(),
    "attempts": 1,
    "latency_s": None,
    "at": None,
}
"""Fields that are null in imported sessions if they are not known, and their values in memory."""
_OF_REPLY = tuple(each.name for each in fields(Reply) if each.name != "text")


def field_names(model: type[Line]) -> list[str]:
    """Return the fields of a line in the order in which they are written."""
    return sorted(model.model_fields, key=lambda name: name in ExchangeLine.model_fields)


_NAMES: Mapping[type[Entry], list[str]] = {
    Turn: field_names(TurnLine)[1:],
    Note: field_names(NoteLine)[1:],
    Choice: field_names(ChoiceLine)[1:],
    Probe: field_names(ProbeLine)[1:],
}


def line_fields(entry: Entry) -> dict[str, Any]:
    """Return the fields of the line that holds a turn, note or probe."""
    reply = entry.reply
    values = vars(entry) | {name: getattr(reply, name) for name in _OF_REPLY}
    values["reply"], values["usage"] = reply.text, _usage(reply.usage)
    values["served"] = reply.served and _served(reply.served)
    if isinstance(entry, Turn):
        values |= {
            "turn": entry.index,
            "question": entry.question.text,
            "picture": picture_of(entry.question),
            "correct": entry.feedback.correct,
            "told": entry.feedback.told,
        }
    names = _NAMES[type(entry)]
    names = [name for name in names if name not in _OMITTED or values[name] != _OMITTED[name]]
    return {"type": type(entry).__name__.lower(), **{name: values[name] for name in names}}


def _usage(usage: Usage) -> dict[str, int]:
    """Return the fields of `usage`; those of discarded attempts are left out if they are 0."""
    counts = asdict(usage).items()
    return {name: count for name, count in counts if count or not name.startswith("discarded")}


def _served(served: Served) -> dict[str, str | None]:
    """Return the fields of `served`: its model and backend, and the others that are not None."""
    first = {"model": served.model, "system_fingerprint": served.system_fingerprint}
    return first | {name: value for name, value in asdict(served).items() if value is not None}


def entry_of(line: EntryLine, *, imported: bool = False) -> Entry:
    """Return the turn, note or probe that a line holds.

    Raises:
        ValueError: A value is missing, and the session was not `imported`.
    """
    values = {name: value for name, value in line if name != "type"}
    for name in [name for name in UNKNOWN if name in values and values[name] is None]:
        if not imported:
            raise ValueError(f"{name} is null, although the session was not imported")
        values[name] = UNKNOWN[name]
    reply = Reply(values.pop("reply"), **{name: values.pop(name) for name in _OF_REPLY})
    if isinstance(line, NoteLine):
        return Note(reply=reply, **values)
    if isinstance(line, ChoiceLine):
        return Choice(reply=reply, candidates=tuple(values.pop("candidates")), **values)
    if isinstance(line, ProbeLine):
        return Probe(reply=reply, **values)
    return Turn(
        index=values.pop("turn"),
        question=question_of(values.pop("question"), values.pop("picture")),
        feedback=Feedback(values.pop("correct"), values.pop("told")),
        reply=reply,
        **values,
    )


def picture_of(question: Message) -> str | None:
    """Return the image that a question shows, in base64, or None."""
    images = [part.png for part in question.parts if isinstance(part, Image)]
    return base64.b64encode(images[0]).decode() if images else None


def question_of(text: str, image: bytes | None) -> Message:
    """Return the question with this text and this image, if any."""
    if image is None:
        return user(text)
    return Message("user", (*([Text(text)] if text else []), Image(image)))


def turns_before(entry: Entry) -> int:
    """Return how many turns were played before a turn, note or probe."""
    return entry.index if isinstance(entry, Turn) else entry.after_turn


def check_place(entry: Entry, played: int) -> None:
    """Raise ValueError unless `played` turns precede an entry, and `kept` holds runs of these."""
    before = turns_before(entry)
    if before != played:
        kind = type(entry).__name__.lower()
        name = "turn" if isinstance(entry, Turn) else "after_turn"
        raise ValueError(f"{played} turns precede this {kind}, but its {name} is {before}")
    following = 0
    for first, last in sorted(entry.kept):
        if not following <= first <= last < played:
            raise ValueError(
                f"kept: [{first}, {last}] is not a run of the {played} turns before it"
            )
        following = last + 1


def line_of(fields: Mapping[str, Any]) -> bytes:
    """Return the line that holds these fields, ending in a new checksum."""
    values = {name: value for name, value in fields.items() if name != CHECKSUM_KEY}
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return with_checksum(text.encode()) + b"\n"


def now() -> str:
    """Return the current time in the format of transcripts."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
