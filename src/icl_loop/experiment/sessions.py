"""Sessions: one stream to be played under one arm, and what each takes from elsewhere."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, cast

from pydantic import ValidationError

from icl_loop.context import Policy, Window, context_policy
from icl_loop.core.errors import DatasetError, InputError
from icl_loop.core.records import Event, Sample
from icl_loop.core.tokens import token_counter
from icl_loop.experiment.settings import LimitSettings, Settings
from icl_loop.experiment.validation_errors import first_complaint
from icl_loop.models import ChatModel, open_model
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import get_encoding
from icl_loop.tasks.labels import label_map, swapped
from icl_loop.tasks.prompts import PromptSet, open_prompt_set
from icl_loop.tasks.task import Replies, Task
from icl_loop.tasks.transforms import get_transform
from icl_loop.transcripts import (
    AnalysisIdentity,
    BranchIdentity,
    DatasetIdentity,
    DonorIdentity,
    Header,
    Transcript,
)


@dataclass(frozen=True)
class Session:
    """One stream to be played under one arm.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        stream: Number of the stream.
        turns: Its length.
        seed: What all randomness is keyed by.
        settings: What the arm is set to.
        analysis: What was to be compared first.
        donor: What its donor was told, where it is yoked and the donor has played.
        branch: What it shares with its parent, where it is a branch.
    """

    experiment: str
    arm: str
    stream: int
    turns: int
    seed: int
    settings: Settings
    analysis: AnalysisIdentity = field(default_factory=AnalysisIdentity)
    donor: "Donor | None" = None
    branch: "Branch | None" = None

    @property
    def begun(self) -> tuple[Event, ...]:
        """What was played already when it began: the turns and notes that it shares."""
        return self.branch.events if self.branch else ()

    @property
    def file_name(self) -> str:
        """Name of the transcript within the folder of the experiment."""
        return self.name_of(self.arm, self.stream)

    @staticmethod
    def name_of(arm: str, stream: int) -> str:
        """Return the name of the transcript of an arm's stream."""
        return f"{arm}-{stream}.jsonl"

    @cached_property
    def dataset(self) -> Dataset:
        """The data set of the stream."""
        return open_dataset(self.settings.task.dataset)

    @cached_property
    def drawn(self) -> "Drawn":
        """What it takes from data and prompt set."""
        indices = self.dataset.stream(self._length, self.seed, self.stream)
        return Drawn(
            labels=self.dataset.labels,
            samples=self._samples(indices),
            probes=self._samples(self._probes()),
            prompts=open_prompt_set(self.settings.task.prompts),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels: the settings and what was drawn, but not the data set."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**own, "drawn": self.drawn}

    @cached_property
    def task(self) -> Task:
        """What is asked, in order."""
        settings, key, drawn = self.settings.task, (self.seed, self.stream), self.drawn
        names = label_map(settings.labels, drawn.labels, key)
        return Task(
            samples=drawn.samples,
            encoding=get_encoding(settings.encoding),
            size=settings.size,
            label_map=names,
            prompts=drawn.prompts,
            feedback=self.settings.feedback.telling(self.donor.told if self.donor else None),
            key=key,
            transform=get_transform(settings.pixels, settings.size, key),
            swap=None if settings.swap_at is None else (settings.swap_at, swapped(names, key)),
            replies=cast("Replies", self.settings.context.replies),
            probes=drawn.probes,
            checkpoints=tuple(self.settings.probes.at),
            rule=self.settings.answers.as_rule(),
        )

    @property
    def _length(self) -> int:
        """The turns it has; a donor whose window filled up early leaves a yoked session as many."""
        return self.turns if self.donor is None else min(self.turns, len(self.donor.told))

    def _samples(self, indices: Iterable[int]) -> list[Sample]:
        return [self.dataset[index] for index in indices]

    def _probes(self) -> tuple[int, ...]:
        settings = self.settings.probes
        if not settings.at:
            return ()
        return self.dataset.probes(settings.count, self.turns, self.seed, self.stream)

    @cached_property
    def policy(self) -> Policy:
        """What is shown of the past."""
        return context_policy(self.settings.context.policy)

    @cached_property
    def window(self) -> Window:
        """The context window and how it is measured."""
        return Window(
            tokens=self.settings.model.context_window,
            reserve=self.settings.context.reserve,
            counter=token_counter(self.settings.context.counter),
            merged=self.settings.model.merge_roles,
        )

    def open_model(self, timeout_s: float = LimitSettings().timeout_s) -> ChatModel:
        """Return the model of the arm; a real one waits `timeout_s` seconds for a reply."""
        return self.model_factory(timeout_s)()

    def model_factory(self, timeout_s: float) -> Callable[[], ChatModel]:
        """Return what opens the model of the arm; it can be sent to where the model is asked."""
        model = self.settings.model
        return partial(
            open_model,
            model.name,
            seed=self.seed,
            prompts=self.drawn.prompts,
            encoding=self.settings.task.encoding,
            base_url=model.base_url,
            api_key_env=model.api_key_env,
            organization=model.organization,
            headers=model.headers,
            headers_env=model.headers_env,
            params=model.params,
            merge_roles=model.merge_roles,
            answer_format=model.answer_format,
            labels=self.task.labels,
            timeout_s=timeout_s,
        )

    def header(self) -> Header:
        """Return the first line of its transcript, without id and time."""
        return Header(
            experiment=self.experiment,
            arm=self.arm,
            stream=self.stream,
            seed=self.seed,
            turns=self.turns,
            settings=self.settings.recorded(),
            labels=list(self.task.labels),
            system=self.task.system.text,
            dataset=DatasetIdentity(
                name=self.dataset.name, sha256=self.dataset.sha256, size=len(self.dataset)
            ),
            analysis=self.analysis,
            donor=self.donor.identity if self.donor else None,
            branch=self.branch.identity if self.branch else None,
        )

    @classmethod
    def of(cls, header: Header, donor: "Donor | None" = None) -> "Session":
        """Return the session that a transcript's header describes; a yoked one needs its donor.

        Raises:
            InputError: The settings are not of this version, or the data are not the same.
        """
        try:
            settings = Settings.model_validate(header.settings)
        except ValidationError as error:
            raise InputError(f"recorded settings{first_complaint(error, Settings)}") from None
        session = cls(
            header.experiment,
            header.arm,
            header.stream,
            header.turns,
            header.seed,
            settings,
            header.analysis,
            donor,
        )
        if session.dataset.sha256 != header.dataset.sha256:
            raise DatasetError(
                f"the data set {header.dataset.name} is not the one that was played:"
                f" its SHA-256 was {header.dataset.sha256}, is now {session.dataset.sha256}"
            )
        return session


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a session takes from files, so that it can be played where they are not.

    Attributes:
        labels: Names of the classes.
        samples: The stream, one sample a turn.
        probes: The held-out samples.
        prompts: The sentences that the model reads.
    """

    labels: tuple[str, ...]
    samples: list[Sample]
    probes: list[Sample]
    prompts: PromptSet


@dataclass(frozen=True, slots=True)
class Donor:
    """What another session was told, turn by turn.

    Attributes:
        identity: Which session it is.
        told: The words.
    """

    identity: DonorIdentity
    told: tuple[str, ...]

    @classmethod
    def of(cls, transcript: Transcript) -> "Donor":
        """Return what the session of a transcript was told."""
        header, told = transcript.header, tuple(turn.feedback.told for turn in transcript.turns)
        digest = hashlib.sha256("\0".join(told).encode()).hexdigest()
        identity = DonorIdentity(
            arm=header.arm, stream=header.stream, id=header.id, told_sha256=digest
        )
        return cls(identity, told)


@dataclass(frozen=True, slots=True)
class Branch:
    """What a session shares with the parent that it branched off.

    Attributes:
        identity: Where it left which session.
        lines: The lines that both transcripts hold.
        events: The turns and notes in them.
    """

    identity: BranchIdentity
    lines: tuple[bytes, ...]
    events: tuple[Event, ...]
