"""What a request asks, understood or refused in words."""

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message, Part, Role, Text
from icl_loop.server.responses import Refused
from icl_loop.tasks.answers import parse_answer

T = TypeVar("T")

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_JSON_TYPES = {bool: "a boolean", int: "an integer", str: "a string", list: "an array"}
OBJECT: dict[str, Any] = {}
ARRAY: list[Any] = []
_PNG_URL, _PNG = "data:image/png;base64,", b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a request, its digest and its tokens."""

    message: Message
    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as understood.

    Attributes:
        model: Who is asked.
        said: The conversation.
        prompt: Its tokens.
        stream: Whether the answer comes in pieces.
        stream_usage: Whether the last piece states the usage.
        top_logprobs: How many alternatives are wanted with log probabilities, which are not if None.
        choice: The one property that the schema asks for, and the values it may have.
    """

    model: str
    said: Sequence[Said]
    prompt: int
    stream: bool
    stream_usage: bool
    top_logprobs: int | None
    choice: tuple[str, tuple[str, ...]] | None


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds."""
    try:
        text = body.decode()
        table = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(table, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refused(400, "the body of the request is not JSON in UTF-8") from None
    if not isinstance(table, dict):
        raise Refused(400, "the body of the request is not a JSON object")
    return table


def take(table: Mapping[str, Any], name: str, default: T) -> T:
    """Return a field, which has the type of `default`, or `default` if there is none or null."""
    value = table.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        kind = _JSON_TYPES.get(type(default), "an object")
        raise Refused(400, f"{name} must be {kind}", param=name)
    return value


def spoken(index: int, item: object) -> tuple[Role, str | tuple[Part, ...]]:
    """Return the role and the content of the message at `index`."""
    param = f"messages[{index}]"
    if not isinstance(item, dict):
        raise Refused(400, f"{param} must be an object", param=param)
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(400, f"{param}.role must be one of {', '.join(_ROLES)}", param=param)
    if isinstance(content, str):
        return _ROLES[role], content
    if isinstance(content, list) and content:
        return _ROLES[role], tuple(_part(param, part) for part in content)
    raise Refused(400, f"{param}.content must be a string or a list of parts", param=param)


def _part(param: str, part: object) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith(_PNG_URL):
            with suppress(ValueError):
                png = base64.b64decode(url[len(_PNG_URL) :], validate=True)
                if png.startswith(_PNG):
                    return Image(png)
    raise Refused(400, f"{param}: a part is a text, or a PNG image as {_PNG_URL}...", param=param)


def asked_choice(table: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Return the property with an enum that the response format asks for, and its values."""
    form = take(table, "response_format", OBJECT)
    if take(form, "type", "text") == "text":
        return None
    schema = take(take(form, "json_schema", OBJECT), "schema", OBJECT)
    found = [
        (name, tuple(each["enum"]))
        for name, each in take(schema, "properties", OBJECT).items()
        if isinstance(each, dict) and isinstance(each.get("enum"), list)
    ]
    if len(found) != 1 or not all(isinstance(value, str) for value in found[0][1]):
        said = "the only response_format served is a json_schema with one enum of strings"
        raise Refused(400, said, param="response_format")
    try:
        parse_answer("", found[0][1])
    except InputError as error:
        raise Refused(400, str(error), param="response_format") from None
    return found[0]


def asked_logprobs(table: Mapping[str, Any]) -> int | None:
    """Return how many alternatives are wanted with log probabilities; None if these are not."""
    wanted, top = take(table, "logprobs", False), take(table, "top_logprobs", 0)
    if not 0 <= top <= 20 or (top and not wanted):
        said = "top_logprobs must be from 0 to 20, and needs logprobs to be true"
        raise Refused(400, said, param="top_logprobs")
    return top if wanted else None
