"""Sessions: one stream played under one arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from icl_loop.context.policies import shows_no_turns
from icl_loop.context.policy import ContextPolicy, Policy, with_functions
from icl_loop.context.policy_parser import context_policy
from icl_loop.context.window import Window
from icl_loop.core.errors import DatasetError, InputError
from icl_loop.core.records import Event, Verdicts, keyed_index
from icl_loop.core.tokens import token_counter
from icl_loop.experiment.run_settings import LimitSettings
from icl_loop.experiment.session_inputs import SessionInputs, session_inputs
from icl_loop.experiment.settings import AUTO, Settings
from icl_loop.experiment.validation import validated
from icl_loop.models import ChatModel, open_model
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import get_encoding
from icl_loop.tasks.feedback import DONOR_KINDS, YOKED
from icl_loop.tasks.labels import LABEL_MAPS, swapped
from icl_loop.tasks.task import Task
from icl_loop.tasks.transforms import TRANSFORMS
from icl_loop.transcripts import Header, Transcript
from icl_loop.transcripts.header import (
    AnalysisIdentity,
    BranchIdentity,
    DatasetIdentity,
    DonorIdentity,
    ExemplarLine,
)

if TYPE_CHECKING:  # the HTTP client loads slowly
    from icl_loop.models.openai.endpoint import Endpoint


Place = tuple[str, int, int]
"""Arm, stream and repeat of a session."""


@dataclass(frozen=True, slots=True)
class Donor:
    """Another session, and the feedback that it was told, turn by turn."""

    identity: DonorIdentity
    told: tuple[str, ...]

    @classmethod
    def of(cls, transcript: Transcript) -> "Donor":
        """Return the session of a transcript as a donor."""
        header, told = transcript.header, tuple(turn.feedback.told for turn in transcript.turns)
        digest = sha256("\0".join(told).encode()).hexdigest()
        identity = DonorIdentity(
            arm=header.arm,
            stream=header.stream,
            repeat=header.repeat,
            id=header.id,
            told_sha256=digest,
        )
        return cls(identity, told)


@dataclass(frozen=True, slots=True)
class Branch:
    """A session's parent, the lines that both transcripts share, and the turns and notes in them."""

    identity: BranchIdentity
    lines: tuple[bytes, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Session:
    """One stream to be played under one arm.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        stream: Number of the stream, from 0.
        turns: Number of turns to play.
        seed: Seed of everything random.
        settings: Settings of the arm.
        analysis: The primary contrast, to be recorded before the first request.
        donor: The feedback to tell, if the session is yoked and its donor has ended.
        branch: The shared turns, if the session is a branch.
        repeat: Number of the repeat of the stream, from 0; repeats differ in the model's sampling alone.
        functions: Context policies that are Python functions, by their texts in the settings.
    """

    experiment: str
    arm: str
    stream: int
    turns: int
    seed: int
    settings: Settings = field(repr=False)
    analysis: AnalysisIdentity = field(default_factory=AnalysisIdentity, repr=False)
    donor: Donor | None = field(default=None, repr=False)
    branch: Branch | None = field(default=None, repr=False)
    repeat: int = 0
    functions: Mapping[str, ContextPolicy] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        header: Header,
        donor: Donor | None = None,
        branch: Branch | None = None,
        where: str = "recorded settings",
    ) -> "Session":
        """Return the session that a transcript's header describes; a yoked one needs its donor.

        A rescored session has the settings of its source, under which it was played.

        Raises:
            InputError: This version does not accept the settings; the message begins with `where`.
        """
        settings = validated(Settings, (header.source or header).settings, where)
        if settings.context.counter == AUTO:
            raise InputError(f"{where}, context.counter: this key is missing")
        return cls(
            header.experiment,
            header.arm,
            header.stream,
            header.turns,
            header.seed or 0,  # null in imported sessions alone, which are not played again
            settings,
            header.analysis,
            donor,
            branch,
            header.repeat,
        )

    def check_dataset(self, recorded: DatasetIdentity) -> None:
        """Raise DatasetError if the data set is no longer the recorded one."""
        if self.dataset.sha256 != recorded.sha256:
            raise DatasetError(
                f"the data set {recorded.name} has changed since the session was played: its"
                f" SHA-256 was {recorded.sha256}, and is {self.dataset.sha256} now"
            )

    def header(self) -> Header:
        """Return the first line of its transcript, without id and time."""
        return Header(
            experiment=self.experiment,
            arm=self.arm,
            stream=self.stream,
            repeat=self.repeat,
            seed=self.seed,
            turns=self.turns,
            settings=self.settings.recorded(),
            labels=list(self.task.labels),
            system=self.task.system.text,
            dataset=DatasetIdentity(
                name=self.dataset.name, sha256=self.dataset.sha256, size=len(self.dataset)
            ),
            exemplars=tuple(map(ExemplarLine.of, self.task.exemplars)),
            analysis=self.analysis,
            donor=self.donor.identity if self.donor else None,
            branch=self.branch.identity if self.branch else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings and the inputs, but not the data set they came from."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**own, "inputs": self.inputs}

    @staticmethod
    def name_of(arm: str, stream: int, repeat: int = 0) -> str:
        """Return the file name of the transcript of a session."""
        return f"{arm}-{stream}{f'-r{repeat}' if repeat else ''}.jsonl"

    @property
    def place(self) -> Place:
        """Its arm, stream and repeat."""
        return self.arm, self.stream, self.repeat

    @property
    def file_name(self) -> str:
        """The file name of its transcript."""
        return self.name_of(*self.place)

    @property
    def cache_name(self) -> str:
        """A name for the prompt cache that an endpoint keeps for the session."""
        key = (
            self.experiment,
            self.arm,
            self.stream,
            self.seed,
            *([self.repeat] * (self.repeat > 0)),
        )
        return sha256(ascii(key).encode()).hexdigest()[:32]

    @property
    def shared_events(self) -> tuple[Event, ...]:
        """The turns and notes that a branch shares with its parent."""
        return self.branch.events if self.branch else ()

    @property
    def model_seed(self) -> int:
        """The seed of a built-in model: that of the experiment, or one of the repeat's own."""
        if not self.repeat:
            return self.seed
        return keyed_index(2**63, self.seed, "repeat", self.repeat)

    @property
    def params(self) -> dict[str, Any]:
        """The model's parameters; a seed of requests is higher by one in each repeat."""
        return _with_seed(self.settings.model.params, self.repeat)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        return open_dataset(self.settings.task.dataset)

    @cached_property
    def inputs(self) -> SessionInputs:
        """The samples and the prompt set."""
        parent = self.branch.identity.parent["turns"] if self.branch else None
        # a donor that filled its context window leaves the yoked session fewer turns
        played = len(self.donor.told) if self.donor else None
        key = self.seed, self.stream
        return session_inputs(self.settings, self.dataset, self.turns, key, parent, played)

    @cached_property
    def task(self) -> Task:
        """The questions, and the scoring of their answers."""
        settings, key, inputs = self.settings.task, (self.seed, self.stream), self.inputs
        names = LABEL_MAPS[settings.labels](inputs.labels, key)
        is_choice = self.settings.model.answer_format == "choice"  # its replies may be JSON
        return Task(
            samples=inputs.samples,
            encoding=get_encoding(settings.encoding),
            size=settings.size,
            label_map=names,
            prompts=inputs.prompts,
            feedback=self.settings.feedback.policy(self.donor.told if self.donor else None),
            key=key,
            transform=TRANSFORMS[settings.pixels](settings.size, key),
            swap=None if settings.swap_at is None else (settings.swap_at, swapped(names, key)),
            replies="answer" if is_choice else self.settings.context.replies,
            keep_reasoning=self.settings.context.keep_reasoning,
            probes=inputs.probes,
            shown_first=inputs.exemplars,
            checkpoints=tuple(self.settings.probes.at),
            verdicts=self.verdicts,
            rule=self.settings.rule,
            announced=settings.announce_labels,
            reasons=inputs.reasons,
            candidates=inputs.candidates,
            chooser=settings.choice.by if settings.choice else "model",
        )

    def is_chosen(self, turn: int) -> bool:
        """Return whether the sample of a turn is chosen, so that the turn does not count."""
        choice = self.settings.task.choice
        return choice is not None and turn in choice.turns(self.turns)

    @property
    def verdicts(self) -> Sequence[Verdicts]:
        """The verdicts under which probes are asked: only as told where requests show none."""
        judges = self.settings.feedback.kind in (*DONOR_KINDS, YOKED)
        if not judges or shows_no_turns(self.policy):
            return ("told",)
        return self.settings.probes.verdicts

    @cached_property
    def policy(self) -> Policy:
        """The context policy."""
        return with_functions(context_policy(self.settings.context.policy), self.functions)

    @cached_property
    def window(self) -> Window:
        """The context window."""
        return Window(
            tokens=self.settings.model.window,
            reserve=self.settings.context.reserve,
            counter=token_counter(self.settings.context.counter),
            merged=self.settings.model.merge_roles,
        )

    def open_model(self) -> ChatModel:
        """Open the model of the arm."""
        return self.model_factory(LimitSettings().timeout_s)()

    def model_factory(
        self, timeout_s: float, endpoint: "Endpoint | None" = None
    ) -> Callable[[], ChatModel]:
        """Return a picklable function that opens the model; endpoints reply within `timeout_s`.

        `endpoint` is what is known of the model's endpoint.
        """
        model, prompts = self.settings.model, self.inputs.prompts
        return partial(
            open_model,
            model.name,
            seed=self.model_seed,
            prompts=prompts,
            encoding=self.settings.task.encoding,
            labels=self.task.labels,
            form=prompts.answer,
            cap=self.settings.context.reserve or None,
            endpoint=endpoint,
            timeout_s=timeout_s,
            **model.model_dump(exclude={"name", "context_window", "params", "annealing"}),
            params=self.params,
        )


def _with_seed(params: Mapping[str, Any], repeat: int) -> dict[str, Any]:
    """Return request fields with `repeat` added to their seed, which may be in `extra_body`."""
    fields = dict(params)
    if type(fields.get("seed")) is int:
        fields["seed"] += repeat
    if isinstance(fields.get("extra_body"), dict):
        fields["extra_body"] = _with_seed(fields["extra_body"], repeat)
    return fields
