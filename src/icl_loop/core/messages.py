"""What passes between the loop and a model: messages out, a reply back.

A message never changes once said, so its digest is computed once and a request is known by
the digests of its messages.
"""

import base64
import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Literal

Role = Literal["system", "user", "assistant"]
JOIN = "\n\n"
"""What stands between neighbours of one role where they are made into one."""

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

    def __reduce__(self) -> tuple[type["Message"], tuple[Role, tuple[Part, ...]]]:
        """Travel without what is derived."""
        return Message, (self.role, self.parts)

    @cached_property
    def text(self) -> str:
        """The text parts, joined by line ends."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    @cached_property
    def json_text(self) -> bytes:
        """The text as the inside of a JSON string; what is said once is written out once."""
        return json.dumps(self.text, ensure_ascii=False)[1:-1].encode()

    @cached_property
    def json_open(self) -> bytes:
        """The text as the beginning of a JSON message, whose string and braces are left open."""
        return b'{"role":"%b","content":"%b' % (self.role.encode(), self.json_text)

    @cached_property
    def tokens(self) -> dict[Hashable, int]:
        """How many tokens it takes, by whoever counted them; what is said once is counted once."""
        return {}

    @cached_property
    def is_seen(self) -> bool:
        """Whether any part is a picture."""
        return any(isinstance(part, Image) for part in self.parts)

    @cached_property
    def json_parts(self) -> bytes:
        """The parts as the inside of a JSON array, pictures as data URLs."""
        return b",".join(_json_part(part) for part in self.parts)

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


def _json_part(part: Part) -> bytes:
    if isinstance(part, Text):
        fields: dict[str, object] = {"type": "text", "text": part.text}
    else:
        url = "data:image/png;base64," + base64.b64encode(part.png).decode()
        fields = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps(fields, ensure_ascii=False).encode()


def system(text: str) -> Message:
    """Return a system message of one text part."""
    return Message("system", (Text(text),))


@lru_cache(1_024)
def user(text: str) -> Message:
    """Return a user message of one text part."""
    return Message("user", (Text(text),))


@lru_cache(1_024)
def assistant(text: str) -> Message:
    """Return an assistant message of one text part."""
    return Message("assistant", (Text(text),))


def merged(messages: Iterable[Message]) -> list[Message]:
    """Return the messages with neighbours of one role made into one, as the wire may want them."""
    groups = groupby(messages, key=lambda message: message.role)
    return [_joined(role, list(group)) for role, group in groups]


def _joined(role: Role, group: list[Message]) -> Message:
    if any(message.is_seen for message in group):
        return Message(role, tuple(part for message in group for part in message.parts))
    return Message(role, (Text(JOIN.join(message.text for message in group)),))


class Request(tuple[Message, ...]):  # noqa: SLOT001  a slot could not hold a cached property
    """The messages of one request, whose fingerprint is computed once."""

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that stand for exactly these messages in this order."""
        return _fingerprint(self)


def fingerprint(messages: Iterable[Message]) -> str:
    """Return 32 hexadecimal digits that stand for exactly these messages in this order."""
    return messages.fingerprint if isinstance(messages, Request) else _fingerprint(messages)


def _fingerprint(messages: Iterable[Message]) -> str:
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
class Served:
    """Who answered, as the endpoint says: the model's own name, and the state of its backend."""

    model: str | None = None
    system_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered to one request.

    Attributes:
        text: The words of the answer as they came; a lone surrogate, which no UTF-8 file can hold,
            becomes U+FFFD.
        usage: Token counts as reported.
        finish: Why the model stopped speaking.
        served: Who answered, if an endpoint says so.
        label_logprobs: Natural-log probability per label, where the endpoint gives them.
        attempts: Requests it took to get this answer, the last one included.
        latency_s: Seconds from the first attempt to the answer; the loop measures it if None.
        at: When the answer arrived, ISO 8601 in UTC; the loop fills it in if None.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: Finish = "stop"
    served: Served | None = None
    label_logprobs: Mapping[str, float] | None = None
    attempts: int = 1
    latency_s: float | None = None
    at: str | None = None

    def __post_init__(self) -> None:
        if not self.text.isascii():
            whole = self.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            object.__setattr__(self, "text", whole)
