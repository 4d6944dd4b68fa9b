"""The JSON body of a request, joined from messages that are each encoded once."""

from collections.abc import Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Message, merged, without_system_role

RESERVED_FIELDS = frozenset({"model", "messages", "stream", "n"})
"""Request fields that `params` may not set."""
_JOIN_JSON = JOIN.replace("\n", r"\n").encode()


def encode_messages(
    messages: Sequence[Message],
    *,
    merge_roles: bool = True,
    system_role: bool = True,
    cache_control: bool = False,
) -> bytes:
    """Return the elements of a request's `messages` array as JSON.

    With `merge_roles`, consecutive messages of one role become one message. Without `system_role`,
    the system message becomes the beginning of the first user message. With `cache_control`, the
    system message and the last message end in breakpoints of the prompt cache.
    """
    if not system_role:
        messages = without_system_role(messages)
    if cache_control:
        *before, last = merged(messages) if merge_roles else messages
        mark = {"system": _encode_marked}
        first = [mark.get(message.role, _encode)(message) for message in before]
        return b",".join((*first, _encode_marked(last)))
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


def _encode_marked(message: Message) -> bytes:
    """Return a message as JSON, with a breakpoint of the prompt cache at its end."""
    role, parts = message.role.encode(), message.json_parts[:-1]
    mark = b',"cache_control":{"type":"ephemeral"}}'
    return b'{"role":"%b","content":[%b%b]}' % (role, parts, mark)


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
