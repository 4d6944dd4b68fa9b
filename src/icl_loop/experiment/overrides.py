"""`KEY=VALUE`, laid over a table."""

import tomllib
from collections.abc import Mapping
from typing import Any

from icl_loop.core.errors import InputError


def changed(given: Mapping[str, Any], change: str) -> dict[str, Any]:
    """Return a table with a change laid over it, key dotted and value as in TOML."""
    return overlaid(given, _change(change))


def overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over` laid on top, table by table."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = overlaid(below, value)
        else:
            merged[key] = value
    return merged


def _change(change: str) -> dict[str, Any]:
    key, separator, text = change.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise InputError(f"--set takes KEY=VALUE such as feedback.kind=label, got {change!r}")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return dict(value)
