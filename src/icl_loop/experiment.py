"""Experiments: one TOML file of arms and streams, checked whole before the first request."""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from icl_loop import toml
from icl_loop.answers import Rule, RuleName
from icl_loop.context import Policy, Window, context_policy, looks, notes_in
from icl_loop.datasets import Dataset, open_dataset
from icl_loop.encodings import ENCODINGS, encoding
from icl_loop.errors import DatasetError, InputError, nearest
from icl_loop.feedback import KINDS, YOKED, Only, Telling
from icl_loop.labels import LABEL_MAPS, label_map, swapped
from icl_loop.messages import user
from icl_loop.models import AnswerFormat, ChatModel, check_params, is_built_in, open_model
from icl_loop.records import Event, Sample
from icl_loop.task import Replies, Task
from icl_loop.tokens import ESTIMATORS, counter_for, token_counter
from icl_loop.transcripts import (
    AnalysisIdentity,
    BranchIdentity,
    DatasetIdentity,
    DonorIdentity,
    Header,
    Transcript,
    read,
)
from icl_loop.transforms import TRANSFORMS, transform
from icl_loop.wording import Wording, open_wording

AUTO = "auto"
MOST = 1_000_000
"""The most turns of a session, and the most streams; more is a slip of the pen."""
MAY_HOLD_SECRETS = frozenset({"base_url", "api_key_env", "headers", "headers_env", "params"})
"""Keys whose wrong values are not repeated: people put their keys there by mistake."""


def _one_of(choices: Sequence[str] | Mapping[str, object]) -> AfterValidator:
    """Return a validator that accepts these names and points to the nearest."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(nearest(value, choices))
        return value

    return AfterValidator(check)


def _checked_by(check: Any) -> AfterValidator:  # noqa: ANN401  any function of one string
    """Return a validator that accepts what `check` accepts, and says what it says."""

    def run(value: str) -> str:
        try:
            check(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(run)


def _policy(value: str) -> str:
    try:
        return str(context_policy(value))
    except InputError as error:
        raise ValueError(str(error)) from None


def _address(value: str | None) -> str | None:
    if value is not None:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("must not hold a user name or a key; name a variable in api_key_env")
        if any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            raise ValueError("must not hold a key in its query; name its variable in headers_env")
    return value


def _no_secrets(params: dict[str, Any]) -> dict[str, Any]:
    for key, value in params.items():
        plain = key.lower().replace("-", "_")
        if any(word in plain for word in ("api_key", "authorization", "secret", "password")):
            raise ValueError(f"{key!r} looks like a secret; name a variable in api_key_env")
        if isinstance(value, dict):
            _no_secrets(value)
    return params


def _no_secret_headers(headers: dict[str, str]) -> dict[str, str]:
    for name in headers:
        if _SECRET.search(name):
            raise ValueError(f"{name!r} looks like a secret; name its variable in headers_env")
    return headers


_SECRET = re.compile("key|token|auth|secret|cookie|password|signature", re.IGNORECASE)
"""What the name of a header or of a query's field holds if its value is not for a file."""


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$", max_length=100)]
"""Name of an environment variable."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TaskSettings(_Table):
    """What is asked."""

    dataset: str = "digits"
    encoding: Annotated[str, _one_of(ENCODINGS)] = "grid"
    size: int = Field(default=20, ge=1, le=256)
    labels: Annotated[str, _one_of(LABEL_MAPS)] = "native"
    pixels: Annotated[str, _one_of(TRANSFORMS)] = "identity"
    wording: Annotated[str, _checked_by(open_wording)] = "en"
    swap_at: int | None = Field(default=None, ge=1)


class ModelSettings(_Table):
    """Who answers."""

    name: Annotated[str, Field(min_length=1)] = "reference/nearest"
    context_window: int = Field(default=32_768, ge=1)
    base_url: Annotated[str | None, AfterValidator(_address)] = None
    api_key_env: Variable | None = None
    organization: str | None = None
    headers: Annotated[dict[str, str], AfterValidator(_no_secret_headers)] = {}
    headers_env: dict[str, Variable] = {}
    params: Annotated[dict[str, Any], AfterValidator(_no_secrets)] = {}
    merge_roles: bool = True
    answer_format: Annotated[str, _one_of(get_args(AnswerFormat))] = "text"

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            is_built_in(self.name, self.base_url)
        except InputError as error:
            raise ValueError(f"name: {error}") from None
        return self

    @model_validator(mode="after")
    def _takes_its_params(self) -> Self:
        try:
            if is_built_in(self.name, self.base_url):
                check_params(self.name, self.params)
        except InputError as error:
            raise ValueError(f"params: {error}") from None
        return self


class ContextSettings(_Table):
    """What is shown of the past."""

    policy: Annotated[str, AfterValidator(_policy)] = "block"
    reserve: int = Field(default=1_024, ge=0)
    counter: Annotated[str, _checked_by(lambda name: name == AUTO or token_counter(name))] = AUTO
    replies: Annotated[str, _one_of(get_args(Replies))] = "full"


class FeedbackSettings(_Table):
    """What is told; see `feedback.Telling`.

    Attributes:
        kind: Of verdict.
        donor: The arm whose sessions, of other streams, are the donors of a yoked arm.
        noise: Probability that a verdict is told as its opposite.
        delay: Turns by which verdicts come late.
        only: Which verdicts are told.
    """

    kind: Annotated[str, _one_of(KINDS)] = "correctness"
    donor: str | None = None
    noise: float = Field(default=0.0, ge=0, le=1)
    delay: int = Field(default=0, ge=0)
    only: Annotated[str, _one_of(get_args(Only))] = "both"

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.kind == YOKED) != (self.donor is not None):
            raise ValueError("a yoked arm, and no other, names the arm of its donors in donor")
        try:
            self.telling()
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def telling(self, donor: tuple[str, ...] | None = None) -> Telling:
        """Return what a session is told, given what its donor was told."""
        only = cast("Only", self.only)
        return Telling(self.kind, self.noise, self.delay, only, donor)


class ProbeSettings(_Table):
    """Held-out samples, asked in forks of the session and never appended.

    Attributes:
        at: After how many turns they are asked.
        count: How many; the same ones each time.
    """

    at: list[Annotated[int, Field(ge=0)]] = []
    count: int = Field(default=20, ge=1)


class AnswerSettings(_Table):
    """How replies are read.

    Attributes:
        rule: As it is stated, strictly by the form of the last line, or the last label named.
        labels: Other names that are accepted for labels.
    """

    rule: Annotated[str, _one_of(get_args(RuleName))] = "stated"
    labels: dict[str, list[str]] = {}

    def as_rule(self) -> Rule:
        """Return the rule by which replies are read."""
        names = tuple((name, label) for label, names in self.labels.items() for name in names)
        return Rule(cast("RuleName", self.rule), names)


class Settings(_Table):
    """Everything that one arm is set to."""

    task: TaskSettings = TaskSettings()
    model: ModelSettings = ModelSettings()
    context: ContextSettings = ContextSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    probes: ProbeSettings = ProbeSettings()
    answers: AnswerSettings = AnswerSettings()

    def recorded(self) -> dict[str, Any]:
        """Return the settings as a transcript states them; those of answers if not as ever."""
        unsaid = {"answers"} if self.answers == AnswerSettings() else set()
        return self.model_dump(mode="json", exclude=unsaid)


class LimitSettings(_Table):
    """How an endpoint is asked; none of it changes what is asked or answered.

    Attributes:
        requests_per_minute: Most requests a minute, to each endpoint.
        tokens_per_minute: Most prompt tokens a minute, to each endpoint.
        timeout_s: Seconds to wait for one reply.
        allowance_s: Seconds that all attempts at one turn may take together.
    """

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_s: float = Field(default=600.0, gt=0)
    allowance_s: float = Field(default=600.0, gt=0)


class PriceSettings(_Table):
    """US dollars for a million tokens.

    Attributes:
        input: Of the prompt.
        output: Of the reply.
        cached: Of the prompt, where the provider's cache served it; `input` if None.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)


class AnalysisSettings(_Table):
    """What is looked at first.

    Attributes:
        effect: Difference in late accuracy that the experiment should be able to show.
    """

    primary: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    margin: float = Field(default=0.05, gt=0, lt=1)
    window: int = Field(default=20, ge=1)
    effect: float | None = Field(default=None, gt=0, le=1)


class _ExperimentFile(_Table):
    """The top level of an experiment file; arms are laid over its tables before they are read."""

    name: FileName
    turns: int = Field(default=200, ge=1, le=MOST)
    streams: int = Field(default=8, ge=1, le=MOST)
    seed: int = Field(default=0, ge=0)
    task: dict[str, Any] = {}
    model: dict[str, Any] = {}
    context: dict[str, Any] = {}
    feedback: dict[str, Any] = {}
    probes: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    arms: list[dict[str, Any]] = [{"name": "feedback"}]
    analysis: AnalysisSettings = AnalysisSettings()
    limits: LimitSettings = LimitSettings()
    price: PriceSettings | None = None


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
        """What it takes from data and wording."""
        indices = self.dataset.stream(self._length, self.seed, self.stream)
        return Drawn(
            labels=self.dataset.labels,
            samples=self._samples(indices),
            probes=self._samples(self._probes()),
            wording=open_wording(self.settings.task.wording),
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
            encoding=encoding(settings.encoding),
            size=settings.size,
            labels=names,
            wording=drawn.wording,
            feedback=self.settings.feedback.telling(self.donor.told if self.donor else None),
            key=key,
            transform=transform(settings.pixels, settings.size, key),
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
        return self.opening(timeout_s)()

    def opening(self, timeout_s: float) -> Callable[[], ChatModel]:
        """Return what opens the model of the arm; it can be sent to where the model is asked."""
        model = self.settings.model
        return partial(
            open_model,
            model.name,
            seed=self.seed,
            wordings=[self.settings.task.wording],
            base_url=model.base_url,
            api_key_env=model.api_key_env,
            organization=model.organization,
            headers=model.headers,
            headers_env=model.headers_env,
            params=model.params,
            merge_roles=model.merge_roles,
            answer_format=model.answer_format,
            labels=self.task.names,
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
            labels=list(self.task.names),
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
            raise InputError(f"recorded settings{_first(error, Settings)}") from None
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
        wording: The sentences that the model reads.
    """

    labels: tuple[str, ...]
    samples: list[Sample]
    probes: list[Sample]
    wording: Wording


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


class DonorMissing(InputError):
    """What the donor of a yoked session was told cannot be had."""


def donor_of(header: Header, path: Path) -> Donor | None:
    """Return what the donor of the session in the transcript at `path` was told, None without one.

    It stands in the same folder, or, where this is a branch or was read again, in the folder of the
    experiment that it was played in.

    Raises:
        DonorMissing: It is missing, or was told something else.
    """
    named = header.donor
    if named is None:
        return None
    name, home = Session.name_of(named.arm, named.stream), header.root.experiment
    if header.source is not None and header.branch is None:
        home = header.source.experiment
    places = [path.parent / name, path.resolve().parent.parent / home / name]
    found = [place for place in places if place.exists()]
    if not found:
        raise DonorMissing(f"its donor {places[0]} is missing")
    for place in found:
        transcript = read(place)
        donor, source = Donor.of(transcript), transcript.header.source
        ids = {transcript.header.id, source.id if source else None}
        if donor.identity.told_sha256 == named.told_sha256 and named.id in ids:
            return Donor(named, donor.told)
    raise DonorMissing(
        f"its donor {found[0]} is not the session, or not the words, that it was told"
    )


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


@dataclass(frozen=True)
class Experiment:
    """Arms and streams: every arm plays the same streams.

    Attributes:
        name: Names the folder of its transcripts.
        turns: Length of each session.
        streams: Sessions per arm.
        seed: What all randomness is keyed by.
        arms: Settings by the name of the arm, in the order of the file.
        analysis: What is looked at first.
        limits: How an endpoint is asked.
        price: What tokens cost, if not the list price.
        branches: Its sessions, where they are branches of saved ones.
    """

    name: str
    turns: int
    streams: int
    seed: int
    arms: Mapping[str, Settings]
    analysis: AnalysisSettings
    limits: LimitSettings
    price: PriceSettings | None
    branches: tuple[Session, ...] = ()

    def sessions(self) -> Iterator[Session]:
        """Yield the sessions, stream by stream, so that a run cut short has whole comparisons."""
        if self.branches:
            yield from self.branches
            return
        primary = self.analysis.primary
        analysis = AnalysisIdentity(
            primary=(primary[0], primary[1]) if primary else None,
            margin=self.analysis.margin,
            streams=self.streams,
        )
        for stream in range(self.streams):
            for arm, settings in self.arms.items():
                yield Session(self.name, arm, stream, self.turns, self.seed, settings, analysis)

    def donor_of(self, session: Session) -> tuple[str, int] | None:
        """Return arm and stream of the donor of a yoked session: the next stream, cyclically.

        A session that has its donor needs none.
        """
        arm = session.settings.feedback.donor
        return (
            None
            if arm is None or session.donor is not None
            else (arm, (session.stream + 1) % self.streams)
        )

    def check(self) -> None:
        """Raise InputError if a session could not be played: data, window, labels.

        This opens the data sets, which may download them, and draws the streams.
        """
        for session in self.sessions():
            room = session.window.left_after(session.task.system, session.task.ask(0))
            if room < 0:
                raise InputError(
                    f"arm {session.arm!r}: model.context_window ="
                    f" {session.window.tokens} leaves no room for one question: it needs"
                    f" {session.window.tokens - room} tokens with context.reserve ="
                    f" {session.window.reserve}"
                )
            _check_policy(session)


def _check_policy(session: Session) -> None:
    """Raise InputError if the policy asks for what the session does not have."""
    policy, task, place = session.policy, session.task, f"arm {session.arm!r}, context.policy"
    if looks(policy) and task.encoding.modality != "picture":
        raise InputError(
            f"{place} = {policy}: nearest compares pictures, and a {task.encoding.modality} is none"
        )
    notes = notes_in(policy)
    if notes is None:
        return
    if task.wording.notes is None:
        raise InputError(
            f"{place} = {policy}: the wording {session.settings.task.wording} has no table [notes]"
        )
    asking = user(task.wording.notes.ask(notes.tokens))
    room = session.window.left_after(task.system, task.ask(0), asking) - notes.tokens
    if room < 0:
        raise InputError(
            f"{place} = {policy}: model.context_window = {session.window.tokens} leaves no room"
            f" for such notes: {-room} tokens are missing"
        )


def load(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Return the experiment in the TOML file at `path`.

    Args:
        path: The file.
        changes: `KEY=VALUE` settings laid over the file, keys dotted, values as in TOML; a value
            that is no TOML is taken as a string.

    Raises:
        InputError: The file or a change is wrong; the message names file, key and value.
    """
    try:
        given = toml.parsed(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for change in changes:
        given = _merge(given, _change(change))
    return parse(given, str(path))


def parse(given: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Return the experiment that a table describes; `where` names it in errors."""
    file = _validated(_ExperimentFile, given, where)
    shared = {key: given.get(key, {}) for key in Settings.model_fields}
    arms: dict[str, Settings] = {}
    for number, table in enumerate(file.arms):
        rest = dict(table)
        name = _validated(
            TypeAdapter(FileName), rest.pop("name", None), f"{where}, arms[{number}].name"
        )
        if name in arms:
            raise InputError(f"{where}, arms[{number}].name: two arms are called {name!r}")
        settings = _validated(Settings, _merge(shared, rest), where, arm=name)
        arms[name] = _resolved(settings)
    if not arms:
        raise InputError(f"{where}, arms: an experiment has at least one arm")
    for arm, settings in arms.items():
        _check_arm(file, arms, arm, settings, where)
    if file.analysis.primary and len(set(file.analysis.primary)) < 2:
        raise InputError(f"{where}, analysis.primary: a contrast takes two different arms")
    for arm in file.analysis.primary or ():
        if arm not in arms:
            raise InputError(f"{where}, analysis.primary: no arm {arm!r}: {nearest(arm, arms)}")
    return Experiment(
        name=file.name,
        turns=file.turns,
        streams=file.streams,
        seed=file.seed,
        arms=arms,
        analysis=file.analysis,
        limits=file.limits,
        price=file.price,
    )


_OF_THE_STREAM = ("turns", "streams", "seed", "stream", "task.dataset")
"""What makes a stream of samples, or how long it is."""
_BRANCHING = ("model", "context", "feedback", "probes", "answers", "task.wording", "task.labels")
"""What may be set otherwise in the middle of a session."""


def branched(recorded: Mapping[str, Any], changes: Sequence[str], turns: int) -> Settings:
    """Return the settings of a session of so many turns that goes on under `changes`.

    Args:
        recorded: The settings it was begun with.
        changes: `KEY=VALUE` laid over them.
        turns: Length of the session.

    Raises:
        InputError: A change is wrong, or is none that a session can go on under.
    """
    given = dict(recorded)
    for change in changes:
        _refuse_other_streams(change)
        given = _merge(given, _change(change))
    feedback = given.get("feedback", {})
    if feedback.get("kind") != YOKED and not any("feedback.donor" in each for each in changes):
        given["feedback"] = {key: value for key, value in feedback.items() if key != "donor"}
    settings = _resolved(_validated(Settings, given, "--set"))
    _check_turns("--set", settings, turns)
    donor = settings.feedback.donor
    if donor is not None and donor != recorded.get("feedback", {}).get("donor"):
        raise InputError(
            f"--set feedback.donor={donor}: a branch has the donor of its parent or none"
        )
    return settings


T = TypeVar("T", bound=BaseModel)


def run_table(kind: type[T], name: str, changes: Sequence[str]) -> T | None:
    """Return the table of an experiment file that changes make up, None if there are none."""
    given: dict[str, Any] = {}
    for change in changes:
        given = _merge(given, _change(change))
    return _validated(kind, given[name], f"--set, {name}") if given else None


def check_arm_name(name: str, where: str) -> str:
    """Return a name under which an arm can be saved."""
    return _validated(TypeAdapter(FileName), name, where)


def answering(recorded: Mapping[str, Any], changes: Sequence[str]) -> AnswerSettings:
    """Return how replies are read under recorded settings with `changes` laid over them.

    Raises:
        InputError: A change is wrong, or is not of the table [answers].
    """
    given = dict(recorded)
    for change in changes:
        if not change.strip().startswith("answers."):
            raise InputError(
                f"--set {change}: saved replies are read again under other answers.KEY alone;"
                " nothing else can change in what was sent"
            )
        given = _merge(given, _change(change))
    return _validated(Settings, given, "--set").answers


def _refuse_other_streams(change: str) -> None:
    key = change.partition("=")[0].strip()
    if any(key == each or key.startswith(f"{each}.") for each in _BRANCHING):
        return
    if key in _OF_THE_STREAM:
        raise InputError(
            f"--set {change}: a branch goes on in the stream of its parent, and {key} makes the"
            " stream; run an experiment of its own"
        )
    raise InputError(
        f"--set {change}: a branch goes on under other {', '.join(_BRANCHING[:-1])} or"
        f" {_BRANCHING[-1]}; {key} stays as it is"
    )


def _check_turns(place: str, settings: Settings, turns: int) -> None:
    """Raise InputError if something is to happen after the session is over."""
    swap = settings.task.swap_at
    if swap is not None and swap >= turns:
        raise InputError(f"{place}, task.swap_at = {swap}: the session has {turns} turns")
    for after in settings.probes.at:
        if after > turns:
            raise InputError(f"{place}, probes.at = {after}: the session has {turns} turns")


def _check_arm(
    file: _ExperimentFile, arms: Mapping[str, Settings], arm: str, settings: Settings, where: str
) -> None:
    """Raise InputError if an arm does not go with the others or with the number of turns."""
    place, donor = f"{where}, arm {arm!r}", settings.feedback.donor
    _check_turns(place, settings, file.turns)
    if donor is None:
        return
    if donor not in arms:
        raise InputError(f"{place}, feedback.donor: no arm {donor!r}: {nearest(donor, arms)}")
    told, words = arms[donor].feedback, arms[donor].task.wording
    if told.kind != "correctness" or told.delay or told.only != "both":
        raise InputError(f"{place}, feedback.donor: {donor!r} is not told correct or incorrect")
    if words != settings.task.wording:
        raise InputError(f"{place}, feedback.donor: {donor!r} is told so in other words, {words!r}")
    if file.streams < 2:
        raise InputError(f"{place}: a yoked arm takes its donor from another stream; there is one")


def _resolved(settings: Settings) -> Settings:
    """Return the settings with the token counter that `auto` stands for on this machine."""
    if settings.context.counter != AUTO:
        return settings
    model = settings.model
    built_in = is_built_in(model.name, model.base_url)
    counter = ESTIMATORS["o200k_base"] if built_in else counter_for(model.name)
    context = settings.context.model_copy(update={"counter": counter.name})
    return settings.model_copy(update={"context": context})


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over` laid on top, table by table."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _change(change: str) -> dict[str, Any]:
    key, separator, text = change.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise InputError(f"--set takes KEY=VALUE such as feedback.kind=label, got {change!r}")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


V = TypeVar("V")


def _validated(kind: type[V] | TypeAdapter[V], given: object, where: str, arm: str = "") -> V:
    try:
        return (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(given)
    except ValidationError as error:
        place = f"{where}, arm {arm!r}" if arm else where
        raise InputError(f"{place}{_first(error, kind)}") from None


def _first(error: ValidationError, kind: object) -> str:
    """Return key, value and reason of the first complaint, with the nearest valid choice."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f", {key}: there is no such key; {nearest(path[-1], _keys(kind, path[:-1]))}"
    if first["type"] == "missing":
        return f", {key}: this key is missing"
    reason = first["msg"].removeprefix("Value error, ")
    hidden = set(path) & MAY_HOLD_SECRETS or isinstance(first["input"], Mapping)
    value = "" if hidden else f" = {first['input']!r}"
    return f"{', ' + key if key else ''}{value}: {reason}"


def _keys(kind: object, path: Sequence[str]) -> list[str]:
    """Return the valid keys of the table at `path` below a settings class."""
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
