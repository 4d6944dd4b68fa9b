"""The complete settings of an experiment, as a TOML file that plays it again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icl_loop.transcripts import Header


def experiment_file(headers: Sequence[Header]) -> str:
    """Return the experiment file: settings shared by all arms, then each arm.

    Args:
        headers: Headers of the sessions of one experiment, at least one.
    """
    first = headers[0]
    arms = {header.arm: flat(header.settings) for header in reversed(headers)}
    arms = {header.arm: arms[header.arm] for header in headers}
    shared = _shared(list(arms.values()))
    streams = max(1 + max(header.stream for header in headers), first.analysis.streams or 0)
    lines = [
        f"name = {_toml(first.experiment)}",
        f"turns = {first.turns}",
        f"streams = {streams}",
        f"seed = {first.seed}",
        *(f"{key} = {_toml(value)}" for key, value in shared.items()),
    ]
    for arm, settings in arms.items():
        own = {key: value for key, value in settings.items() if key not in shared}
        lines += ["", "[[arms]]", f"name = {_toml(arm)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in own.items()]
    return "\n".join([*lines, "", *_analysis(first), ""])


def _analysis(header: Header) -> Iterator[str]:
    yield "[analysis]"
    if header.analysis.primary is not None:
        yield f"primary = {_toml(list(header.analysis.primary))}"
    yield f"margin = {_toml(header.analysis.margin)}"


def _shared(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = arms
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key, such as `task.encoding`, without unset ones."""
    return {
        f"{table}.{key}": value
        for table, values in settings.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is not None
    }


def changed(before: Header, after: Header) -> list[str]:
    """Return the settings in which a branch differs from its parent, with both values."""
    was, now = ({"turns": each.turns, **flat(each.settings)} for each in (before, after))
    return [
        f"{key} = {_text(now.get(key))}, was {_text(was.get(key))}"
        for key in {**now, **was}
        if now.get(key) != was.get(key)
    ]


def _text(value: object) -> str:
    return "unset" if value is None else _toml(value)


def _toml(value: object) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, Mapping):
        pairs = [f"{_toml(key)} = {_toml(each)}" for key, each in value.items() if each is not None]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
