"""Loads prompt sets: those that ship with the package, and a user's own TOML files."""

import os.path
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from icl_loop.core.errors import InputError, nearest, reason_of
from icl_loop.core.regular_files import read_regular
from icl_loop.core.toml_files import MAX_BYTES, parse_toml
from icl_loop.core.validation_messages import key_path, requirement, shown_value
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.prompts.feedback_phrases import (
    Announcements,
    FeedbackForms,
    FeedbackPhrases,
    FormAnnouncements,
)
from icl_loop.tasks.prompts.prompt_set import PromptSection, PromptSet, section_of
from icl_loop.tasks.prompts.side_requests import ChoicePrompts, NotePrompts

DEFAULT = "plain"
_RENAMED = {"en": "plain", "ja": "plain-ja"}
_TABLES = (
    *(PromptSet, PromptSection, Announcements, FeedbackPhrases, NotePrompts, ChoicePrompts),
    *(FeedbackForms, FormAnnouncements),
)
_KEYS = {"extend", *(name for table in _TABLES for name in table.model_fields)}


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
    if name in shipped():
        return _open_shipped(name)
    prompts = _validated(_table(name), name)
    _check_encodings(prompts, name)
    return prompts


@lru_cache
def _open_shipped(name: str) -> PromptSet:
    return _validated(_table(name), name)


def _table(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the TOML table of a prompt set, merged into the set that it extends."""
    if name in extended_by:
        raise InputError(f"prompt set {name} extends itself: {' -> '.join((*extended_by, name))}")
    table = parse_toml(_bytes(name), f"prompt set {name}")
    base = table.pop("extend", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise InputError(
            f"prompt set {name}, key extend: must be a string, got {shown_value(base)}"
        )
    if base.endswith(".toml"):
        base = os.path.normpath(Path(name).parent / base)
    return _merged(_table(base, (*extended_by, name)), table)


def _bytes(name: str) -> bytes:
    if name in shipped():
        return resources.files(__package__).joinpath(f"{name}.toml").read_bytes()
    if not name.endswith(".toml"):
        choice = _RENAMED.get(name)
        hint = f"did you mean {choice!r}?" if choice else nearest(name, shipped())
        raise InputError(f"unknown prompt set {name!r}: {hint} (or the path of a .toml file)")
    try:
        return read_regular(Path(name), MAX_BYTES)
    except OSError as error:
        raise InputError(f"prompt set {name} cannot be read: {reason_of(error)}") from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values in `changes`; nested tables are merged."""
    merged = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merged(base[key], changes[key])
    return merged


def _validated(table: dict[str, Any], name: str) -> PromptSet:
    try:
        return PromptSet.model_validate(table)
    except ValidationError as error:
        # A misspelt key is also a missing one; report it under the name in the file.
        first = max(error.errors(), key=lambda each: each["type"] == "extra_forbidden")
    problem = requirement(first)
    if first["type"] == "extra_forbidden":
        problem += f": {nearest(str(first['loc'][-1]), _KEYS)}"
    elif first["type"] not in ("missing", "value_error"):
        problem += f", got {shown_value(first['input'])}"
    key = f", key {key_path(first['loc'])}" if first["loc"] else ""
    raise InputError(f"prompt set {name}{key}: {problem}")


def _check_encodings(prompts: PromptSet, name: str) -> None:
    """Raise InputError if a section describes an encoding that is unknown or of another section."""
    for section, table in prompts:
        if not isinstance(table, PromptSection):
            continue
        known = [encoding for encoding in ENCODINGS if section_of(encoding) == section]
        for encoding in table.encodings:
            if encoding not in known:
                raise InputError(
                    f"prompt set {name}, key {section}.encodings.{encoding}: there is no such"
                    f" encoding here; {nearest(encoding, known)}"
                )
