"""What passes between the loop and a model: messages out, a reply back.

A message never changes once said, so its digest is computed once and a request is known by
the digests of its messages.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a message that is read as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A part of a message that is seen: the bytes of a PNG file."""

    png: bytes


Part = Text | Image


@dataclass(frozen=True)
class Message:
    """One message of a conversation: who speaks, and the parts of what is said."""

    role: Role
    parts: tuple[Part, ...]

    @cached_property
    def text(self) -> str:
        """The text parts, joined by line ends."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over role and parts; each part is framed by its kind and length."""
        sha = hashlib.sha256(self.role.encode())
        for part in self.parts:
            kind, data = (
                (b"text", part.text.encode()) if isinstance(part, Text) else (b"png", part.png)
            )
            sha.update(b"\0%b %d\0" % (kind, len(data)))
            sha.update(data)
        return sha.digest()


def system(text: str) -> Message:
    """Return a system message of one text part."""
    return Message("system", (Text(text),))


def user(text: str) -> Message:
    """Return a user message of one text part."""
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    """Return an assistant message of one text part."""
    return Message("assistant", (Text(text),))


def fingerprint(messages: Iterable[Message]) -> str:
    """Return 32 hexadecimal digits that stand for exactly these messages in this order."""
    joined = b"".join([message.digest for message in messages])
    return hashlib.sha256(joined).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one request cost, as the endpoint counted them."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered to one request.

    Attributes:
        text: The words of the answer as they came; a lone surrogate, which no UTF-8 file can hold,
            becomes U+FFFD.
        usage: Token counts as reported.
        finish: Why the model stopped speaking.
        label_logprobs: Natural-log probability per label, where the endpoint gives them.
        attempts: Requests it took to get this answer, the last one included.
        latency_s: Seconds from the first attempt to the answer; the loop measures it if None.
        at: When the answer arrived, ISO 8601 in UTC; the loop fills it in if None.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: Finish = "stop"
    label_logprobs: Mapping[str, float] | None = None
    attempts: int = 1
    latency_s: float | None = None
    at: str | None = None

    def __post_init__(self) -> None:
        if not self.text.isascii():
            whole = self.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            object.__setattr__(self, "text", whole)
