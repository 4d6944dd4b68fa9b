"""The lines after the first: what each holds, and how one is written."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, TypeAdapter

from icl_loop.core.messages import Finish
from icl_loop.core.records import Outcome, Span
from icl_loop.transcripts.checksum import SEAL, with_checksum

EndStatus = Literal["complete", "context_full", "budget", "stopped"]


class Line(BaseModel):
    """What a line, or a part of one, holds; fields that are not known are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Usage(Line):
    prompt: int
    cached: int
    completion: int
    reasoning: int


class _Served(Line):
    model: str | None
    system_fingerprint: str | None


class TurnLine(Line):
    """A turn: what was asked, replied and told."""

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
    limit: int | None = None
    calibration: float = 1.0
    counted: int | None = None
    prefix: int | None = None
    label_logprobs: dict[str, float] | None
    latency_s: float
    attempts: int
    at: str


class NoteLine(Line):
    """A note that the model took."""

    type: Literal["note"]
    after_turn: int
    kept: list[tuple[int, int]]
    request: str
    reply: str
    finish: Finish = "stop"
    text: str
    overflows: int = 0
    limit: int | None = None
    counted: int | None = None
    prefix: int | None = None
    usage: _Usage
    served: _Served | None = None
    label_logprobs: dict[str, float] | None
    latency_s: float
    attempts: int
    at: str


class ProbeLine(Line):
    """A held-out sample that was asked beside the session."""

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


class End(Line):
    """The last line of a session that will not go on."""

    type: Literal["end"] = "end"
    status: EndStatus
    turns: int
    at: str


EVENT: TypeAdapter[TurnLine | NoteLine | ProbeLine | End] = TypeAdapter(
    Annotated[TurnLine | NoteLine | ProbeLine | End, Field(discriminator="type")]
)
"""Any line after the first."""


def check_kept(kept: Sequence[Span], played: int) -> None:
    """Raise ValueError unless `kept` are runs of turns that were played before, none twice."""
    following = 0
    for first, last in sorted(kept):
        if not following <= first <= last < played:
            raise ValueError(f"kept: [{first}, {last}] is no run of the {played} turns before")
        following = last + 1


def line_of(fields: Mapping[str, Any]) -> bytes:
    """Return the line that holds these fields, sealed anew."""
    said = {name: value for name, value in fields.items() if name != SEAL}
    written = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return with_checksum(written) + b"\n"


def now() -> str:
    """Return the present time as lines state it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
