"""Loads prompt sets: those that ship with the package, and a user's own TOML files."""

import os.path
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.toml_files import parse_toml
from icl_loop.core.validation_messages import key_path, requirement, shown_value
from icl_loop.tasks.prompts import schema
from icl_loop.tasks.prompts.parsing import check_distinct
from icl_loop.tasks.prompts.schema import PromptSet

DEFAULT = "plain"
_RENAMED = {"en": "plain", "ja": "plain-ja"}
_OPENED: dict[tuple[str, str], PromptSet] = {}
"""Prompt sets by name and content, so that a set that has not changed stays the same object."""


@lru_cache(1)
def shipped() -> tuple[str, ...]:
    """Return the names of the prompt sets that ship with the package."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def open_prompt_set(name: str) -> PromptSet:
    """Return the shipped prompt set called `name`, or the one in the TOML file at that path.

    A file may `extend` a shipped set or another file and state only what it changes.

    Raises:
        InputError: There is no such set, or the file is invalid; names the file, key and value.
    """
    table = _table(name)
    key = name, repr(table)
    if key not in _OPENED:
        _OPENED[key] = _validated(table, name)
    return _OPENED[key]


def _table(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the TOML table of a prompt set, laid over the set that it extends."""
    if name in extended_by:
        raise InputError(f"prompt set {name} extends itself: {' -> '.join((*extended_by, name))}")
    table = dict(_parsed(_bytes(name), name))
    base = table.pop("extend", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise InputError(
            f"prompt set {name}, key extend: must be a string, got {shown_value(base)}"
        )
    if base.endswith(".toml"):
        base = os.path.normpath(Path(name).parent / base)
    merged: dict[str, Any] = _merged(_table(base, (*extended_by, name)), table)
    return merged


@lru_cache(32)
def _parsed(data: bytes, name: str) -> Mapping[str, Any]:
    return parse_toml(data, f"prompt set {name}")


def _bytes(name: str) -> bytes:
    if name in shipped():
        return resources.files(__package__).joinpath(f"{name}.toml").read_bytes()
    if not name.endswith(".toml"):
        choice = _RENAMED.get(name)
        hint = f"did you mean {choice!r}?" if choice else nearest(name, shipped())
        raise InputError(f"unknown prompt set {name!r}: {hint} (or the path of a .toml file)")
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"prompt set {name} cannot be read: {error.strerror}") from None


def _merged(base: Any, changes: Any) -> Any:  # noqa: ANN401  values of a TOML file
    """Return `base` with `changes` laid over it, table by table."""
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    new = {key: _merged(base.get(key), value) for key, value in changes.items()}
    return {**base, **new}


def _validated(table: Mapping[str, Any], name: str) -> PromptSet:
    try:
        prompts = PromptSet.model_validate(table)
    except ValidationError as error:
        # A misspelt key is also a missing one; report it under the name in the file.
        first = max(error.errors(), key=lambda each: each["type"] == "extra_forbidden")
        raise InputError(
            f"prompt set {name}, key {key_path(first['loc'])}: {_complaint(first)}"
        ) from None
    try:
        check_distinct(prompts)
    except InputError as error:
        raise InputError(f"prompt set {name}: {error}") from None
    return prompts


def _complaint(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        tables = (PromptSet, schema.PromptSection, schema.Announcements, schema.FeedbackPhrases)
        known = {"extend", *(name for table in tables for name in table.model_fields)}
        return f"is not a known key: {nearest(str(error['loc'][-1]), known)}"
    if error["type"] in ("missing", "value_error"):
        return requirement(error)
    return f"{requirement(error)}, got {shown_value(error['input'])}"
