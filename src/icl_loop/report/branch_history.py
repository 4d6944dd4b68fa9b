"""The ancestry of a branched session: which of its turns were played under which header."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icl_loop.report.experiment_settings import changed
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import Header


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive turns played under one header.

    Attributes:
        start: Index of the first turn.
        header: Their header.
    """

    start: int
    header: Header


def parts_of(header: Header) -> tuple[Part, ...]:
    """Return the parts of a session in order; a session that is not a branch has one part."""
    parent = header.parent
    if header.branch is None or parent is None:
        return (Part(0, header),)
    at = header.branch.at
    shared = (part for part in parts_of(parent) if part.start < at)
    return (*shared, Part(at, header))


def place_of(parts: Sequence[Part], turn: int) -> int:
    """Return the index of the part that contains a turn."""
    return max(place for place, part in enumerate(parts) if part.start <= turn)


def branch_rows(headers: Sequence[Header]) -> list[dict[str, Any]]:
    """Return the distinct branches of an experiment: arm, parent arm, turn and changed settings."""
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
    """Yield the start, parent arm and changed settings of each branch."""
    for part in parts:
        parent = part.header.parent
        if parent is not None:
            yield {
                "at": part.start,
                "of": printable(parent.arm),
                "changed": [printable(each) for each in changed(parent, part.header)],
            }
