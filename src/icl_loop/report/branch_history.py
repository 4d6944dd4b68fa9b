"""Where the turns of a session come from: its own, those of the session that it branched off, and so on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icl_loop.report.experiment_settings import changed
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import Header


@dataclass(frozen=True, slots=True)
class Part:
    """Turns that were played under one header.

    Attributes:
        start: The first of them.
        header: What they were played under.
    """

    start: int
    header: Header


def parts_of(header: Header) -> tuple[Part, ...]:
    """Return the parts of a session, the earliest first; one that is no branch is one part."""
    parent = header.parent
    if header.branch is None or parent is None:
        return (Part(0, header),)
    at = header.branch.at
    shared = (part for part in parts_of(parent) if part.start < at)
    return (*shared, Part(at, header))


def place_of(parts: Sequence[Part], turn: int) -> int:
    """Return in which part a turn was played, or what was asked after so many turns."""
    return max(place for place, part in enumerate(parts) if part.start <= turn)


def branch_rows(headers: Sequence[Header]) -> list[dict[str, Any]]:
    """Return which arm of an experiment is a branch of which, each once."""
    found = {(row["arm"], row["of"], row["at"]): row for row in _rows(headers)}
    return list(found.values())


def _rows(headers: Sequence[Header]) -> Iterator[dict[str, Any]]:
    for header in headers:
        parent = header.parent
        if header.branch is not None and parent is not None:
            yield {
                "arm": header.arm,
                "of": parent.arm,
                "experiment": parent.experiment,
                "at": header.branch.at,
                "changed": changed(parent, header),
            }


def beginnings(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """Yield where each branch begins, of what, and under which other settings."""
    for part in parts:
        parent = part.header.parent
        if parent is not None:
            yield {
                "at": part.start,
                "of": printable(parent.arm),
                "changed": [printable(each) for each in changed(parent, part.header)],
            }
