"""From what is wrong with a table to an error that names file, key and value."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.validation_messages import must, place, written

MAY_HOLD_SECRETS = frozenset({"base_url", "api_key_env", "headers", "headers_env", "params"})
"""Keys whose wrong values are not repeated: people put their keys there by mistake."""
V = TypeVar("V")


def validated(
    kind: type[V] | TypeAdapter[V],
    given: object,
    where: str,
    arm: str = "",
    tables: object = None,
) -> V:
    """Return what `given` is as a `kind`; `where`, and `arm` if any, are named in errors."""
    try:
        return (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(given)
    except ValidationError as error:
        here = f"{where}, arm {arm!r}" if arm else where
        raise InputError(f"{here}{first_complaint(error, kind, tables)}") from None


def first_complaint(error: ValidationError, kind: object, tables: object = None) -> str:
    """Return key, value and reason of the first complaint, with the nearest valid choice.

    Args:
        error: The complaints.
        kind: What was complained of.
        tables: Where a key may belong that is not known; among those of `kind` if None.
    """
    first = error.errors()[0]
    path, key = first["loc"], place(first["loc"])
    if first["type"] == "extra_forbidden":
        return f", {key}: there is no such key; {_other_key(kind, [str(part) for part in path], tables or kind)}"
    if first["type"] == "missing":
        return f", {key}: this key is missing"
    is_of_all = isinstance(first["input"], Mapping) and first["type"] == "value_error"
    hidden = is_of_all or MAY_HOLD_SECRETS.intersection(path)
    value = "" if hidden else f" = {written(first['input'])}"
    return f"{', ' + key if key else ''}{value}: {must(first)}"


def _other_key(kind: object, path: Sequence[str], tables: object) -> str:
    """Return which key may have been meant: that of another table, or the nearest in this one."""
    homes = [name for name in _keys(tables, ()) if path[-1] in _keys(tables, [name])]
    if homes:
        return f"did you mean '{homes[0]}.{path[-1]}'?"
    return nearest(path[-1], _keys(kind, path[:-1]))


def _keys(kind: object, path: Sequence[str]) -> list[str]:
    """Return the valid keys of the table at `path` below a settings class."""
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
