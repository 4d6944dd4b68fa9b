"""The first line: what a session is, and what it came from."""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, field_validator

from icl_loop.transcripts.checksum import SEAL
from icl_loop.transcripts.lines import Line, now

VERSION = metadata.version("icl-loop")


class DatasetIdentity(Line):
    """Which data the samples came from."""

    name: str
    sha256: str
    size: int


class AnalysisIdentity(Line):
    """What was to be compared first, as it was said before the first request."""

    primary: tuple[str, str] | None = None
    margin: float = 0.05
    streams: int | None = None


class DonorIdentity(Line):
    """The session whose told words another is told."""

    arm: str
    stream: int
    id: str
    told_sha256: str


class BranchIdentity(Line):
    """Where a session left its parent, with all that the turns they share are checked by.

    Attributes:
        at: Turns that they share.
        sha256: Over the lines that they share, as they stand in both files.
        parent: The first line of the parent's transcript.
    """

    at: int = Field(ge=1)
    sha256: str
    parent: dict[str, Any]

    @field_validator("parent")
    @classmethod
    def _is_a_header(cls, parent: dict[str, Any]) -> dict[str, Any]:
        Header.model_validate_json(json.dumps(parent))
        return parent


class SourceIdentity(Line):
    """The transcript whose replies were read again.

    Attributes:
        id: Its id.
        sha256: Over the file, up to the last whole line.
        experiment: Its experiment.
        settings: What it was set to.
        icl_loop: The version that played it.
    """

    id: str
    sha256: str
    experiment: str
    settings: dict[str, Any]
    icl_loop: str


class Header(Line):
    """The first line of a transcript: what the session is and everything it was set to."""

    type: Literal["session"] = "session"
    format: Literal["icl-loop/transcript"] = "icl-loop/transcript"
    version: Literal[1] = 1
    id: str = ""
    experiment: str
    arm: str
    stream: int
    seed: int
    turns: int
    settings: dict[str, Any]
    labels: list[str]
    system: str
    dataset: DatasetIdentity
    analysis: AnalysisIdentity = AnalysisIdentity()
    donor: DonorIdentity | None = None
    branch: BranchIdentity | None = None
    source: SourceIdentity | None = None
    created: str = ""
    icl_loop: str = Field(default_factory=lambda: VERSION)

    def fields(self) -> dict[str, Any]:
        """Return the fields of its line; a session played from its beginning is neither of the two."""
        unsaid = {name for name in ("branch", "source") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unsaid)

    def born(self) -> Self:
        """Return the header with an id, made of all it says, and the present time."""
        return self.model_copy(update={"id": identity(self.fields()), "created": now()})

    @property
    def parent(self) -> "Header | None":
        """The header of the session that it branched off, None if it did not."""
        if self.branch is None:
            return None
        return Header.model_validate_json(json.dumps(self.branch.parent))

    def at(self, turn: int) -> "Header":
        """Return the header under which this turn was played, or what was asked after so many."""
        parent = self.parent
        if self.branch is None or parent is None or turn >= self.branch.at:
            return self
        return parent.at(turn)

    @property
    def root(self) -> "Header":
        """The header of the session that was played from its beginning."""
        return self.at(-1)


HEADER = TypeAdapter(Header)
_NOT_SAID = frozenset({"id", "created", "icl_loop", SEAL})
"""Fields of a header that say nothing of what the session is."""


def identity(fields: Mapping[str, Any]) -> str:
    """Return the id of the session whose header has these fields: a digest of what it says."""
    said = {key: fields[key] for key in fields if key not in _NOT_SAID}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
