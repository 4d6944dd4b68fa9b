"""From what is wrong with a table to an error that names file, key and value."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from icl_loop.errors import InputError, nearest

MAY_HOLD_SECRETS = frozenset({"base_url", "api_key_env", "headers", "headers_env", "params"})
"""Keys whose wrong values are not repeated: people put their keys there by mistake."""
V = TypeVar("V")


def validated(kind: type[V] | TypeAdapter[V], given: object, where: str, arm: str = "") -> V:
    """Return what `given` is as a `kind`; `where`, and `arm` if any, are named in errors."""
    try:
        return (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(given)
    except ValidationError as error:
        place = f"{where}, arm {arm!r}" if arm else where
        raise InputError(f"{place}{first_complaint(error, kind)}") from None


def first_complaint(error: ValidationError, kind: object) -> str:
    """Return key, value and reason of the first complaint, with the nearest valid choice."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f", {key}: there is no such key; {nearest(path[-1], _keys(kind, path[:-1]))}"
    if first["type"] == "missing":
        return f", {key}: this key is missing"
    reason = first["msg"].removeprefix("Value error, ")
    hidden = set(path) & MAY_HOLD_SECRETS or isinstance(first["input"], Mapping)
    value = "" if hidden else f" = {first['input']!r}"
    return f"{', ' + key if key else ''}{value}: {reason}"


def _keys(kind: object, path: Sequence[str]) -> list[str]:
    """Return the valid keys of the table at `path` below a settings class."""
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
