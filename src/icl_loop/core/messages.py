"""Messages to a model, and its replies.

A message is immutable, so its digest, token counts and JSON are computed only once.
"""

import base64
import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Literal

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "content_filter", "unknown"]
"""Why a model stopped: finished, cut at a limit, withheld by a filter, or a reason not known here."""
MOST_TOKENS = 2**48
"""Larger counts of tokens are errors; sums over the turns of an experiment stay below 2**63."""
LARGEST_LOGPROB = 1e9
"""The largest absolute value of a log probability; larger ones and others that are no numbers are errors."""
MAX_SECONDS = 1e9
JOIN = "\n\n"
"""Separates the texts of messages that are merged into one."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text part of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image part of a message: the bytes of a PNG file."""

    png: bytes


Part = Text | Image


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    def __reduce__(self) -> tuple[type["Message"], tuple[Role, tuple[Part, ...]]]:
        """Pickle the message without its cached properties."""
        return Message, (self.role, self.parts)

    @cached_property
    def text(self) -> str:
        """The text parts, one per line."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))

    @cached_property
    def has_image(self) -> bool:
        """Whether any part is an image."""
        return any(isinstance(part, Image) for part in self.parts)

    @cached_property
    def tokens(self) -> dict[Hashable, int]:
        """A cache of the message's tokens by token counter."""
        return {}

    @cached_property
    def json_text(self) -> bytes:
        """The text as a JSON string without its quotes."""
        return json.dumps(self.text, ensure_ascii=False)[1:-1].encode()

    @cached_property
    def json_open(self) -> bytes:
        """The message as JSON, without the quote and brace at its end."""
        return b'{"role":"%b","content":"%b' % (self.role.encode(), self.json_text)

    @cached_property
    def json_parts(self) -> bytes:
        """The parts as a JSON array without its brackets; images are data URLs."""
        return b",".join(_json_part(part) for part in self.parts)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of role and parts; each part is preceded by its kind and length."""
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
    """Return a system message with one text part."""
    return Message("system", (Text(text),))


@lru_cache(1_024)
def user(text: str) -> Message:
    """Return a user message with one text part."""
    return Message("user", (Text(text),))


@lru_cache(1_024)
def assistant(text: str) -> Message:
    """Return an assistant message with one text part."""
    return Message("assistant", (Text(text),))


def merged(messages: Iterable[Message]) -> list[Message]:
    """Return the messages, with consecutive messages of one role merged into one."""
    whole: list[Message] = []
    for role, each in groupby(messages, key=lambda message: message.role):
        group = list(each)
        if any(message.has_image for message in group):
            parts = tuple(part for message in group for part in message.parts)
        else:
            parts = (Text(JOIN.join(message.text for message in group)),)
        whole.append(Message(role, parts))
    return whole


def without_system_role(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages with the system message put at the beginning of the first user message."""
    if not messages or messages[0].role != "system":
        return messages
    count = 2 if [each.role for each in messages[1:2]] == ["user"] else 1
    return [_one_of_user(tuple(messages[:count])), *messages[count:]]


@lru_cache(1_024)
def _one_of_user(messages: tuple[Message, ...]) -> Message:
    return merged([Message("user", each.parts) for each in messages])[0]


def fingerprint(messages: Iterable[Message]) -> str:
    """Return 32 hexadecimal digits that identify these messages in this order."""
    digests = b"".join([message.digest for message in messages])
    return hashlib.sha256(digests).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request and its reply, as reported by the endpoint.

    A `Reply` has 0, as if nothing was reported, in place of a count that is no whole number from 0 to
    `MOST_TOKENS`.

    Attributes:
        prompt: Tokens of the request.
        cached: How many of these the provider's cache served.
        completion: Tokens of the reply, reasoning included.
        reasoning: How many of these were reasoning.
        discarded_prompt: Prompt tokens of earlier attempts that brought no usable reply.
        discarded_completion: Their completion tokens.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    discarded_prompt: int = 0
    discarded_completion: int = 0

    @property
    def total(self) -> int:
        """All tokens, those of discarded attempts included."""
        return self.prompt + self.completion + self.discarded_prompt + self.discarded_completion

    def with_discarded(self, failed: Sequence["Usage"]) -> "Usage":
        """Return the counts with the tokens of earlier, failed attempts as discarded."""
        return replace(
            self,
            discarded_prompt=sum(each.prompt for each in failed),
            discarded_completion=sum(each.completion for each in failed),
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What answered a request, and how it was asked.

    Attributes:
        model: The model, as the endpoint named it.
        system_fingerprint: The backend, as the endpoint named it.
        finish_reason: The endpoint's finish reason, if `Finish` has no name for it.
        cap: The request field that limited the tokens of the reply.
        constraint: The request field that limited the reply to the labels.
    """

    model: str | None = None
    system_fingerprint: str | None = None
    finish_reason: str | None = None
    cap: str | None = None
    constraint: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply to one request.

    Attributes:
        text: The text, in which U+FFFD replaces lone surrogates; the reasoning likewise.
        label_logprobs: Natural log probability of each label, if the endpoint reports them; only
            numbers up to `LARGEST_LOGPROB` are kept.
        reasoning_text: The reasoning that the endpoint returned beside the text.
        attempts: Number of requests sent, including retries.
        latency_s: Seconds from the first request to the reply; measured by the loop if None.
        at: When the reply arrived, ISO 8601 in UTC; set by the loop if None.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: Finish = "stop"
    served: Served | None = None
    label_logprobs: Mapping[str, float] | None = None
    reasoning_text: str | None = None
    attempts: int = 1
    latency_s: float | None = None
    at: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", without_surrogates(self.text))
        if self.reasoning_text is not None:
            object.__setattr__(self, "reasoning_text", without_surrogates(self.reasoning_text))
        if self.label_logprobs is not None:
            sound = {
                each: float(p)
                for each, p in self.label_logprobs.items()
                if _is_number(p, -LARGEST_LOGPROB, LARGEST_LOGPROB)
            }
            object.__setattr__(self, "label_logprobs", sound or None)
        for name, count in asdict(self.usage).items():
            if not (isinstance(count, int) and _is_number(count, 0, MOST_TOKENS)):
                object.__setattr__(self, "usage", replace(self.usage, **{name: 0}))
        if self.latency_s is not None and not _is_number(self.latency_s, 0, MAX_SECONDS):
            object.__setattr__(self, "latency_s", None)


def _is_number(value: object, least: float, most: float) -> bool:
    """Return whether a value is a number in a range; booleans and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def without_surrogates(text: str) -> str:
    """Return `text` with U+FFFD in place of lone surrogates, which UTF-8 cannot encode."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
