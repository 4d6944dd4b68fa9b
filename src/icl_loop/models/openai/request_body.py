"""The body of a request."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Message, merged
from icl_loop.models.chat import AnswerFormat

OWN_PARAMS = frozenset({"model", "messages", "stream", "n"})
"""Fields of a request that are ours to set."""
TOP_LOGPROBS = 20
"""The most alternatives that OpenAI's endpoint lists for a token."""
JOIN_JSON = json.dumps(JOIN)[1:-1].encode()


def wire(messages: Sequence[Message], join: bytes | None = JOIN_JSON) -> bytes:
    """Return the inside of the `messages` array of a request.

    Neighbours of one role become one message with `join` between them, or stay apart if None.
    """
    pieces: list[bytes] = []
    role = ""
    for message in messages:
        if message.is_seen:
            return _wire_with_pictures(messages, join)
        if message.role == role and join is not None:
            pieces += (join, message.json_text)
        else:
            pieces += (b'"},' if role else b"", message.json_open)
            role = message.role
    return b"".join(pieces) + b'"}'


def _wire_with_pictures(messages: Sequence[Message], join: bytes | None) -> bytes:
    said = merged(messages) if join is not None else messages
    return b",".join(
        b'{"role":"%b","content":[%b]}' % (message.role.encode(), message.json_parts)
        if message.is_seen
        else message.json_open + b'"}'
        for message in said
    )


def head_of(fields: Mapping[str, Any]) -> bytes:
    """Return the beginning of every body, up to the messages."""
    return json.dumps(fields, ensure_ascii=False)[:-1].encode() + b',"messages":['


def own_fields(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields that `params` sets, those of `extra_body` on top; InputError for one of ours."""
    given = dict(params or {})
    extra = given.pop("extra_body", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"model.params.extra_body is a table, got {extra!r}")
    given |= extra
    for key in sorted(given.keys() & OWN_PARAMS):
        raise InputError(f"model.params.{key} is not for params to set")
    return given


def format_fields(answer_format: AnswerFormat, labels: Sequence[str]) -> dict[str, Any]:
    """Return the fields that ask for answers in a format."""
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
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
    }
