"""Apply `KEY=VALUE` overrides (`--set`) to an experiment file or to recorded settings."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.experiment.settings import AnswerSettings, Settings, check_turns, resolve_counter
from icl_loop.experiment.validation import validated
from icl_loop.tasks.feedback import YOKED

_STREAM_KEYS = ("turns", "streams", "seed", "stream", "task.dataset")
"""Keys that determine the stream of samples; a branch shares the stream of its parent."""
_BRANCH_KEYS = ("model", "context", "feedback", "probes", "answers", "task.prompts", "task.labels")
"""Keys and tables that a branch may override."""


def override(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `table` with `KEY=VALUE` overrides applied, in order.

    Keys are dotted, values are TOML; a value that is not valid TOML is taken as a string.

    Raises:
        InputError: An override is not of this form.
    """
    result = dict(table)
    for each in overrides:
        result = merge(result, _parse(each))
    return result


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated recursively with the values of `top`."""
    merged = dict(base)
    for key, new in top.items():
        old = merged.get(key)
        tables = isinstance(old, Mapping) and isinstance(new, Mapping)
        merged[key] = merge(old or {}, new) if tables else new
    return merged


def _parse(text: str) -> dict[str, Any]:
    key, separator, value_text = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise InputError(f"--set takes KEY=VALUE such as feedback.kind=label, got {text!r}")
    try:
        value: Any = tomllib.loads(f"value = {value_text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = value_text.strip()
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def branch_settings(recorded: Mapping[str, Any], overrides: Sequence[str], turns: int) -> Settings:
    """Return the settings of a branch.

    Args:
        recorded: The settings of its parent.
        overrides: `KEY=VALUE` overrides.
        turns: Length of the branch.

    Raises:
        InputError: An override is invalid, or a branch cannot override its key.
    """
    for each in overrides:
        _check_branch_key(each)
    given = override(recorded, overrides)
    feedback = given.get("feedback", {})
    if feedback.get("kind") != YOKED and not any("feedback.donor" in each for each in overrides):
        given["feedback"] = {key: value for key, value in feedback.items() if key != "donor"}
    settings = resolve_counter(validated(Settings, given, "--set"))
    check_turns("--set", settings, turns)
    donor = settings.feedback.donor
    if donor is not None and donor != recorded.get("feedback", {}).get("donor"):
        raise InputError(
            f"--set feedback.donor={donor}: a branch keeps the donor of its parent or has none"
        )
    return settings


def _check_branch_key(text: str) -> None:
    """Raise InputError if a branch cannot override the key."""
    key = text.partition("=")[0].strip()
    if any(key == each or key.startswith(f"{each}.") for each in _BRANCH_KEYS):
        return
    if key in _STREAM_KEYS:
        raise InputError(
            f"--set {text}: {key} would change the stream, which a branch shares with its parent;"
            " run a separate experiment instead"
        )
    raise InputError(
        f"--set {text}: a branch cannot change {key}; it can change"
        f" {', '.join(_BRANCH_KEYS[:-1])} and {_BRANCH_KEYS[-1]}"
    )


def answer_settings(recorded: Mapping[str, Any], overrides: Sequence[str]) -> AnswerSettings:
    """Return the answer settings for rescoring replies that were recorded under `recorded`.

    Raises:
        InputError: An override is invalid, or its key is not in the table [answers].
    """
    for each in overrides:
        if not each.strip().startswith("answers."):
            raise InputError(
                f"--set {each}: rescoring can change answers.KEY only, because the requests have"
                " been made already"
            )
    return validated(Settings, override(recorded, overrides), "--set").answers
