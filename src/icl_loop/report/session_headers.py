"""The settings in the headers of sessions: the experiment file, and the history of branches."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from icl_loop.transcripts import Header

Lineage = Sequence[tuple[int, Header]]
"""The headers under which the turns of a session were played, each with its first turn."""


def experiment_file(headers: Sequence[Header]) -> str:
    """Return the TOML file of an experiment: settings shared by all arms, then each arm.

    Args:
        headers: Headers of its sessions, at least one.
    """
    first = headers[0]
    arms: dict[str, dict[str, Any]] = {header.arm: {} for header in headers}
    arms |= {header.arm: _flat(header.settings) for header in reversed(headers)}
    items = [{(key, _toml(value)) for key, value in arm.items()} for arm in arms.values()]
    shared = {key for key, _ in set.intersection(*items)}
    streams = max(1 + max(header.stream for header in headers), first.analysis.streams or 0)
    top: dict[str, Any] = {
        "name": first.experiment,
        "turns": first.turns,
        "streams": streams,
        "seed": first.seed,
    }
    if repeats := max(header.repeat for header in headers):
        top["repeats"] = 1 + repeats
    common = {key: value for key, value in arms[first.arm].items() if key in shared}
    lines = [*_lines(top | common)]
    for arm, settings in arms.items():
        own = {key: value for key, value in settings.items() if key not in shared}
        lines += ["", "[[arms]]", *_lines({"name": arm, **own})]
    analysis = {
        "primary": first.analysis.primary,
        "secondary": first.analysis.secondary or None,
        "margin": first.analysis.margin,
    }
    return "\n".join([*lines, "", "[analysis]", *_lines(analysis), ""])


def lineage(header: Header) -> Lineage:
    """Return the lineage of a session, oldest ancestor first."""
    parent = header.parent
    if header.branch is None or parent is None:
        return [(0, header)]
    at = header.branch.at
    return [*(part for part in lineage(parent) if part[0] < at), (at, header)]


def place_of(parts: Lineage, turn: int) -> int:
    """Return the index of the header under which a turn was played."""
    return bisect_right(parts, turn, key=itemgetter(0)) - 1


def branches(headers: Sequence[Header]) -> list[dict[str, Any]]:
    """Return the distinct branches of an experiment: header, parent and changed settings."""
    found = {
        (header.arm, parent.arm, header.branch.at): (header, parent)
        for header in headers
        if header.branch is not None and (parent := header.parent) is not None
    }
    return [
        {"header": header, "parent": parent, "changed": changed(parent, header)}
        for header, parent in found.values()
    ]


def changed(before: Header, after: Header) -> list[str]:
    """Return the settings in which a branch differs from its parent, with both values."""
    was, now = ({"turns": each.turns, **_flat(each.settings)} for each in (before, after))
    return [
        f"{key} = {_toml(now.get(key))}, was {_toml(was.get(key))}"
        for key in {**now, **was}
        if now.get(key) != was.get(key)
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key, such as `task.encoding`, without unset ones."""
    return {
        f"{table}.{key}": value
        for table, values in settings.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is not None
    }


def _lines(settings: Mapping[str, Any]) -> Iterator[str]:
    return (f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None)


def _toml(value: object) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(_lines(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
