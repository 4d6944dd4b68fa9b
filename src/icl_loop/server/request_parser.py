"""Parses and validates the body of a chat request."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message, Part, Role, Text
from icl_loop.core.validation_messages import first_problem, key_path
from icl_loop.server.responses import ApiError
from icl_loop.tasks.answers import parse_answer

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_PNG_URL, _PNG_HEADER = "data:image/png;base64,", b"\x89PNG\r\n\x1a\n"


class Choice(NamedTuple):
    """The property that a reply must fill, and its possible values."""

    name: str
    values: tuple[str, ...]


def parse_message(message: object) -> Message:
    """Return a message in OpenAI's chat format; raise ValueError if it is wrong."""
    match message:
        case {"role": str(role), "content": str(text)} if role in _ROLES:
            return _message(_ROLES[role], (Text(text),))
        case {"role": str(role), "content": [_, *_] as parts} if role in _ROLES:
            return _message(_ROLES[role], tuple(map(_parse_part, parts)))
    raise ValueError(f"must have text or parts as its content and a role of {', '.join(_ROLES)}")


@lru_cache(2**15)
def _message(role: Role, parts: tuple[Part, ...]) -> Message:
    """Return the same object for equal messages, so that the tokens of each are counted only once."""
    return Message(role, parts)


def _parse_part(part: object) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith(_PNG_URL):
            with suppress(ValueError):
                png = base64.b64decode(url[len(_PNG_URL) :], validate=True)
                if png.startswith(_PNG_HEADER):
                    return Image(png)
    raise ValueError(f"may have parts that are texts, or PNG images as {_PNG_URL}...")


def _parse_response_format(response_format: object) -> Choice | None:
    """Return the only enum of a JSON schema, or None if the format is text."""
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"json_schema": {"schema": {"properties": dict(properties)}}}:
            enums = [
                (name, each["enum"])
                for name, each in properties.items()
                if isinstance(each, dict) and isinstance(each.get("enum"), list)
            ]
        case _:
            enums = []
    if len(enums) != 1 or not all(isinstance(value, str) for value in enums[0][1]):
        raise ValueError("must be text, or a json_schema with exactly one enum of strings")
    choice = Choice(enums[0][0], tuple(enums[0][1]))
    try:
        parse_answer("", choice.values)
    except InputError as error:
        raise ValueError(f"cannot be used: {error}") from None
    return choice


class ChatRequest(BaseModel, strict=True):
    """A chat request, as in OpenAI's reference. Optional fields may be null.

    `choice` is the enum of the response format, None if that is text. `cap` limits the tokens of
    the reply.
    """

    model: str = ""
    messages: list[Annotated[Message, PlainValidator(parse_message)]] = Field(min_length=1)
    n: Literal[1] | None = None
    stream: bool | None = None
    include_usage: bool | None = Field(
        None, validation_alias=AliasPath("stream_options", "include_usage")
    )
    cap: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    choice: Annotated[Choice | None, PlainValidator(_parse_response_format)] = Field(
        None, validation_alias="response_format"
    )

    @field_validator("top_logprobs")
    @classmethod
    def _check_top_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError("needs logprobs to be true")
        return top


def parse_request(body: bytes) -> ChatRequest:
    """Return the chat request in a body.

    Raises:
        ApiError: It is not a valid request.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        path = error.errors(include_url=False, include_input=False)[0]["loc"]
        if not path:
            raise ApiError(400, "the request body must be a JSON object in UTF-8") from None
        raise ApiError(400, first_problem(error), param=key_path(path)) from None
