"""Parses and validates the body of a chat request."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message, Part, Role, Text
from icl_loop.core.validation_messages import first_problem, key_path
from icl_loop.server.responses import ApiError
from icl_loop.tasks.answers import parse_answer

MAX_CACHED_MESSAGES = 2**15

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_PNG_URL, _PNG_HEADER = "data:image/png;base64,", b"\x89PNG\r\n\x1a\n"


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _ChatMessage(_Object):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[Part, ...]

    @field_validator("content", mode="plain")
    @classmethod
    def _parse_content(cls, content: object) -> str | tuple[Part, ...]:
        if isinstance(content, str):
            return content
        if isinstance(content, list) and content:
            return tuple(_parse_part(part) for part in content)
        raise ValueError("must be a string or a list of parts")

    def to_message(self) -> Message:
        """Return the message, the same object each time so that it is counted only once."""
        return _message(_ROLES[self.role], self.content)


class _StreamOptions(_Object):
    include_usage: bool | None = None


class _Schema(_Object):
    properties: dict[str, Any] = {}


class _JsonSchema(_Object):
    schema_: _Schema = Field(_Schema(), alias="schema")


class Choice(NamedTuple):
    """The property that a reply must fill, and its possible values."""

    name: str
    values: tuple[str, ...]


class _ResponseFormat(_Object):
    type: str | None = None
    json_schema: _JsonSchema = _JsonSchema()

    @property
    def choice(self) -> Choice | None:
        """The only enum of the schema, or None if the format is text.

        Raises:
            ValueError: The format is neither text nor a schema with exactly one enum of labels.
        """
        if self.type in (None, "text"):
            return None
        choices = [
            Choice(name, tuple(each["enum"]))
            for name, each in self.json_schema.schema_.properties.items()
            if isinstance(each, dict) and isinstance(each.get("enum"), list)
        ]
        if len(choices) != 1 or not all(isinstance(value, str) for value in choices[0].values):
            raise ValueError("must be text, or a json_schema with exactly one enum of strings")
        try:
            parse_answer("", choices[0].values)
        except InputError as error:
            raise ValueError(f"cannot be used: {error}") from None
        return choices[0]


class ChatRequest(_Object):
    """A chat request. Fields that are null count as missing.

    Attributes:
        model: Name of the model.
        messages: The conversation.
        n: Number of completions, always 1.
        stream: Whether to stream the completion.
        stream_options: Whether the last event reports the usage.
        logprobs: Whether to return log probabilities.
        top_logprobs: Number of alternatives for each token.
        response_format: Text, or JSON that follows a schema with one enum.
    """

    model: str | None = None
    messages: list[_ChatMessage] = Field(min_length=1)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: _ResponseFormat | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _check_top_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError("needs logprobs to be true")
        return top

    @field_validator("response_format")
    @classmethod
    def _check_response_format(cls, form: _ResponseFormat | None) -> _ResponseFormat | None:
        if form:
            _ = form.choice  # raises if it cannot be served
        return form

    @property
    def choice(self) -> Choice | None:
        """The choice that the response format asks for."""
        return self.response_format.choice if self.response_format else None


def parse_request(body: bytes) -> ChatRequest:
    """Return the chat request in a body.

    Raises:
        ApiError: It is not a valid request.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if not first["loc"]:
            raise ApiError(400, "the request body must be a JSON object in UTF-8") from None
        raise ApiError(400, first_problem(error), param=key_path(first["loc"])) from None


@lru_cache(MAX_CACHED_MESSAGES)
def _message(role: Role, content: str | tuple[Part, ...]) -> Message:
    return Message(role, (Text(content),) if isinstance(content, str) else content)


def _parse_part(part: object) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith(_PNG_URL):
            with suppress(ValueError):
                png = base64.b64decode(url[len(_PNG_URL) :], validate=True)
                if png.startswith(_PNG_HEADER):
                    return Image(png)
    raise ValueError(f"must be a string or parts: texts, or PNG images as {_PNG_URL}...")
