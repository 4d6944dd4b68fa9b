"""The first line of a transcript: the session's settings and its origin."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from icl_loop.core.errors import TranscriptError
from icl_loop.core.messages import Message
from icl_loop.core.records import Exemplar
from icl_loop.core.validation_messages import first_problem
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.schema import (
    FORMAT_VERSION,
    Count,
    Doc,
    Int64,
    Line,
    now,
    picture_of,
    question_of,
)

VERSION = metadata.version("icl-loop")


class DatasetIdentity(Line):
    """The data set that the samples came from; what is not known of an import is null."""

    name: str | None = None
    sha256: str | None = None
    size: Count | None = None


class PublishedIdentity(Line):
    """A published condition that an arm mirrors, and the accuracy that was reported for it."""

    condition: Annotated[str, Field(min_length=1)]
    """What the published condition is, in the words of the arm's settings."""
    setup: Annotated[str, Field(min_length=1)]
    """Model, data set, number of turns and measure of the published result."""
    source: Annotated[str, Field(min_length=1)]
    """Where it was published: paper and table."""
    accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    """The accuracy, at the end if it changed; None if it was not published as a number."""
    start: Annotated[float | None, Field(ge=0, le=1)] = None
    """The accuracy at the start, if it was published."""


class AnalysisIdentity(Line):
    """The analysis that was registered before the first request."""

    primary: tuple[str, str] | None = None
    secondary: tuple[tuple[str, str], ...] = ()
    margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    streams: Count | None = None
    published: PublishedIdentity | None = None


class DonorIdentity(Line):
    """The session whose feedback a yoked session repeats."""

    arm: str
    stream: Count
    id: str
    told_sha256: str
    repeat: Count = 0


class BranchIdentity(Line):
    """Where a session branched off its parent."""

    at: Annotated[Int64, Field(ge=1), Doc("turns that both share")]
    sha256: Annotated[str, Doc("digest of the shared lines, without checksums")]
    parent: Annotated[dict[str, Any], Doc("the first line of the parent's transcript")]

    @field_validator("parent")
    @classmethod
    def _is_a_header(cls, parent: dict[str, Any]) -> dict[str, Any]:
        try:
            Header.model_validate_json(json.dumps(parent))
        except ValidationError as error:
            raise ValueError(f"must be a session line: {first_problem(error)}") from None
        return parent


class SourceIdentity(Line):
    """The transcript whose replies a session rescores, and the version that played it."""

    id: str
    sha256: Annotated[str, Doc("digest of its complete lines, without checksums")]
    experiment: str
    settings: dict[str, dict[str, Any]]
    icl_loop: str


class ExemplarLine(Line):
    """A sample that every request shows with its right answer before the turns."""

    sample: str
    label: str
    question: str
    picture: Annotated[str | None, Doc("the image of the question: a PNG file in base64")] = None
    reply: str
    told: str

    @classmethod
    def of(cls, exemplar: Exemplar) -> Self:
        """Return the fields of an exemplar."""
        question = exemplar.question
        return cls(
            sample=exemplar.sample,
            label=exemplar.label,
            question=question.text,
            picture=picture_of(question),
            reply=exemplar.reply,
            told=exemplar.told,
        )

    @property
    def exemplar(self) -> Exemplar:
        """The exemplar."""
        image = None if self.picture is None else base64.b64decode(self.picture)
        question = question_of(self.question, image)
        return Exemplar(self.sample, self.label, question, self.reply, self.told)


class ImportIdentity(Line):
    """The file of another program that a session was imported from."""

    format: Literal["inspect", "openai-jsonl", "table"]
    file: str
    sha256: Annotated[str, Doc("digest of the file")]
    session: Annotated[str, Doc("the session's name in the file")]


class Header(Line):
    """The first line: what the session is, and all its settings."""

    type: Literal["session"] = "session"
    format: Annotated[Literal["icl-loop/transcript"], Doc("identifies the file format")] = (
        "icl-loop/transcript"
    )
    version: Annotated[Literal[1, 2], Doc("version of the format")] = FORMAT_VERSION
    id: Annotated[str, Doc("digest of the other fields but `created` and `icl_loop`")] = ""
    experiment: Annotated[str, Doc("name of the experiment")]
    arm: Annotated[str, Doc("name of the arm")]
    stream: Annotated[Count, Doc("number of the stream, from 0")]
    repeat: Annotated[Count, Doc("number of the repeat of the stream; left out if 0", since=2)] = 0
    seed: Annotated[Int64 | None, Doc("seed of the experiment; null if unknown in an import")]
    turns: Annotated[Count, Doc("turns planned, or played if an import does not say")]
    settings: Annotated[
        dict[str, dict[str, Any]], Doc("the session's settings, as in an experiment file")
    ]
    labels: Annotated[list[str], Doc("the labels, as the model is shown them")]
    system: Annotated[str | None, Doc("the system message; null if unknown in an import")]
    exemplars: Annotated[
        tuple[ExemplarLine, ...],
        Doc(
            "`sample`, `label`, `question`, `picture`, `reply` and `told` of samples that every request"
            " shows with the right answer before the turns; left out if there are none",
            since=2,
        ),
    ] = ()
    dataset: Annotated[DatasetIdentity, Doc("`name`, `sha256` and `size` of the data set")]
    analysis: Annotated[
        AnalysisIdentity,
        Doc(
            "registered beforehand: `primary` and `secondary` contrasts, `margin` of equivalence,"
            " `streams`, and the `published` result that the arm is compared with, left out if none"
        ),
    ] = AnalysisIdentity()
    donor: Annotated[
        DonorIdentity | None, Doc("the session whose feedback is repeated, in a yoked session")
    ] = None
    branch: Annotated[
        BranchIdentity | None, Doc("turns shared `at` the start, and the `parent`, in a branch")
    ] = None
    source: Annotated[
        SourceIdentity | None, Doc("the transcript that was rescored, in a rescored session")
    ] = None
    imported: Annotated[
        ImportIdentity | None,
        Doc(
            "`format`, `file`, its `sha256`, and the name of the `session` in it; left out unless the"
            " session was imported",
            since=2,
        ),
    ] = None
    created: Annotated[str, Doc("when the session began: ISO 8601, UTC")] = ""
    icl_loop: Annotated[str, Doc("version of the program")] = Field(default_factory=lambda: VERSION)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        """Allow unknown values in imported sessions alone."""
        values = {"seed": self.seed, "system": self.system, "dataset": self.dataset.sha256}
        unknown = [name for name, value in values.items() if value is None]
        if unknown and self.imported is None:
            raise ValueError(f"{unknown[0]} must be known unless the session was imported")
        return self

    def fields(self) -> dict[str, Any]:
        """Return the fields of the line; `imported` is left out unless the session was imported."""
        fields = self.model_dump(mode="json", exclude=None if self.imported else {"imported"})
        if not self.exemplars:
            del fields["exemplars"]
        if self.analysis.published is None:
            del fields["analysis"]["published"]
        for table in (fields, fields["donor"] or {}):
            if not table.get("repeat"):
                table.pop("repeat", None)
        return fields

    @property
    def chosen_every(self) -> int:
        """Every how many turns the sample was chosen, so that the turn does not count; 0 for never."""
        task = self.settings.get("task")
        choice = task.get("choice") if isinstance(task, dict) else None
        every = choice.get("every") if isinstance(choice, dict) else None
        return every if isinstance(every, int) else 0

    def counts(self, turn: int) -> bool:
        """Return whether a turn counts in accuracy: its sample was fixed, not chosen."""
        return not self.chosen_every or (turn + 1) % self.chosen_every != 0

    @property
    def exemplar_messages(self) -> tuple[Message, ...]:
        """The messages of the exemplars."""
        return tuple(message for each in self.exemplars for message in each.exemplar.messages)

    def born(self) -> Self:
        """Return the header with its id and, unless it was imported, the current time filled in."""
        created = now() if self.imported is None else self.created
        return self.model_copy(update={"id": identity(self.fields()), "created": created})

    @property
    def parent(self) -> "Header | None":
        """The header of the session that this one branched off, or None."""
        if self.branch is None:
            return None
        return Header.model_validate_json(json.dumps(self.branch.parent))

    def at(self, turn: int) -> "Header":
        """Return the header under which a turn was played: that of an ancestor if it is shared."""
        shared, parent = self.branch.at if self.branch else 0, self.parent
        return parent.at(turn) if parent and turn < shared else self

    @property
    def root(self) -> "Header":
        """The header of the session at the root of the tree of branches."""
        return self.at(-1)

    def check_replayable(self, where: object) -> None:
        """Raise TranscriptError if the session was imported or has an old version of the format."""
        if self.imported is not None:
            raise TranscriptError(
                f"{where} was imported from {self.imported.file}: it can be analysed, plotted,"
                " reported and exported, but not resumed, verified, branched or rescored, and not used"
                " by what-if, because its requests were not made by this program"
            )
        if self.version != FORMAT_VERSION:
            raise TranscriptError(
                f"{where} has version {self.version} of the transcript format: it can be analysed,"
                " plotted and exported, but resuming, verifying, branching, rescoring and what-if"
                f" need version {FORMAT_VERSION}"
            )


HEADER = TypeAdapter(Header)
_NOT_IDENTIFYING = frozenset({"id", "created", "icl_loop", CHECKSUM_KEY})


def identity(fields: Mapping[str, Any]) -> str:
    """Return the id of the session whose first line has these fields: a digest of its contents."""
    values = {key: fields[key] for key in fields if key not in _NOT_IDENTIFYING}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
