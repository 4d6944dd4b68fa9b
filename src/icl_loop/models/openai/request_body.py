"""The JSON body of a request, joined from messages that are each encoded once."""

from collections.abc import Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Message, merged
from icl_loop.models.chat import AnswerFormat

RESERVED_FIELDS = frozenset({"model", "messages", "stream", "n"})
"""Request fields that `params` may not set."""
TOP_LOGPROBS = 20
"""The most alternatives per token that OpenAI returns."""
_JOIN_JSON = JOIN.replace("\n", r"\n").encode()


def encode_messages(messages: Sequence[Message], *, merge_roles: bool = True) -> bytes:
    """Return the elements of a request's `messages` array as JSON.

    With `merge_roles`, consecutive messages of one role become one message.
    """
    if any(message.has_image for message in messages):
        return b",".join(map(_encode, merged(messages) if merge_roles else messages))
    pieces: list[bytes] = []
    role = ""
    for message in messages:
        if merge_roles and message.role == role:
            pieces += (_JOIN_JSON, message.json_text)
        else:
            pieces += (b'"},' if role else b"", message.json_open)
            role = message.role
    return b"".join(pieces) + b'"}'


def _encode(message: Message) -> bytes:
    if message.has_image:
        return b'{"role":"%b","content":[%b]}' % (message.role.encode(), message.json_parts)
    return message.json_open + b'"}'


def parse_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request fields that `params` sets; those in its `extra_body` take precedence.

    Raises:
        InputError: A field is reserved, or `extra_body` is not a table.
    """
    fields = dict(params)
    extra = fields.pop("extra_body", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"model.params.extra_body must be a table, got {extra!r}")
    fields |= extra
    for key in sorted(fields.keys() & RESERVED_FIELDS):
        raise InputError(f"model.params.{key} is not allowed: the program sets {key} itself")
    return fields


def answer_format_fields(answer_format: AnswerFormat, labels: Sequence[str]) -> dict[str, Any]:
    """Return the request fields that ask for a reply in `answer_format`."""
    if answer_format == "logprobs":
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if answer_format == "text":
        return {}
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    json_schema = {"name": "answer", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
