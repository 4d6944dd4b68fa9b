"""Play the first turns of each arm without saving them, and find out what the endpoints do."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from icl_loop.context.history import History
from icl_loop.context.window import from_spans
from icl_loop.core.errors import IclLoopError, StoppedShort
from icl_loop.core.messages import Message, merged, without_system_role
from icl_loop.core.records import Event, Turn
from icl_loop.experiment import Donor, Experiment, ModelSettings, Session
from icl_loop.experiment.settings import ProbeSettings
from icl_loop.models.limits import Budget
from icl_loop.runner.discovery import Endpoints, endpoint_key
from icl_loop.runner.engines import local
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, PlaySession
from icl_loop.transcripts.header import DonorIdentity

MAX_ALLOWANCE_S = 60.0
"""Most seconds for which a request of a trial is retried."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of an endpoint.

    Attributes:
        name: The property.
        found: Yes, no or unknown, or its value.
        detail: How it is known.
    """

    name: str
    found: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TriedArm:
    """The first turns of an arm.

    Attributes:
        session: The session that was begun.
        events: Its turns, and the notes between them.
        stopped: Why there are no more of them; None if there are as many as wanted.
    """

    session: Session
    events: tuple[Event, ...] = ()
    stopped: IclLoopError | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns."""
        return tuple(each for each in self.events if isinstance(each, Turn))

    @property
    def model(self) -> ModelSettings:
        """The model that was asked."""
        return self.session.settings.model

    @property
    def request(self) -> tuple[Message, ...]:
        """The last turn's request before consecutive messages of one role are merged."""
        last = self.turns[-1]
        before = self.events[: self.events.index(last)]
        history = History.for_task(self.session.task, self.session.window, before)
        return history.request(from_spans(last.kept), last.question)

    @property
    def sent(self) -> Sequence[Message]:
        """The last turn's request as the model saw it."""
        return self.request if self.model.is_built_in else as_sent(self.request, self.model)


def as_sent(messages: Sequence[Message], model: ModelSettings) -> Sequence[Message]:
    """Return the messages of a request as an endpoint is sent them."""
    if not model.system_role:
        messages = without_system_role(messages)
    return merged(messages) if model.merge_roles else messages


@dataclass(kw_only=True)
class EndpointTrial:
    """A trial of an experiment; nothing is saved.

    Attributes:
        experiment: The experiment, in which every context window is a number.
        endpoints: What its endpoints say about themselves.
        turns: How many turns of each arm to play.
        max_usd: Most US dollars to spend.
        max_tokens: Most tokens to use.
        on_turn: Called with the arm after each of its turns.
        on_arm: Called when the turns of an arm have been played.
        arms: The arms played so far, by name.
    """

    experiment: Experiment
    endpoints: Endpoints
    turns: int = 3
    max_usd: float | None = None
    max_tokens: int | None = None
    on_turn: Callable[[str, Turn], None] = lambda _arm, _turn: None
    on_arm: Callable[[TriedArm], None] = lambda _: None
    arms: dict[str, TriedArm] = field(default_factory=dict, init=False)
    _pool: ModelPool = field(init=False)

    def __post_init__(self) -> None:
        limits = self.experiment.limits
        allowance_s = min(limits.allowance_s, MAX_ALLOWANCE_S)
        limits = limits.model_copy(update={"allowance_s": allowance_s})
        budget = Budget(self.max_usd, self.max_tokens)
        patient = replace(self.experiment, limits=limits)
        self._pool = ModelPool(patient, budget, concurrency=1, endpoints=self.endpoints)

    @property
    def budget(self) -> Budget:
        """What the trial has spent so far."""
        return self._pool.budget

    async def play(self) -> None:
        """Play the first turns of the first stream of every arm, donors first.

        An arm whose model fails stops; the others go on.

        Raises:
            InputError: A model cannot be opened, or money is limited and a price unknown.
        """
        sessions = [self._session(arm) for arm in self.experiment.arms]
        sessions.sort(key=lambda each: each.settings.feedback.donor is not None)
        async with local(self._pool, sessions, asyncio.Event()) as play:
            for session in sessions:
                await self._play_arm(session, play)

    def _session(self, arm: str) -> Session:
        settings = self.experiment.arms[arm].model_copy(update={"probes": ProbeSettings()})
        experiment = self.experiment
        return Session(experiment.name, arm, 0, experiment.turns, experiment.seed, settings)

    async def _play_arm(self, session: Session, play: PlaySession) -> None:
        events = list[Entry]()
        stopped: IclLoopError | None = None
        try:
            session = self._with_donor(session)
            async with aclosing(play(session, ())) as entries:
                async for entry in entries:
                    events.append(entry)
                    if isinstance(entry, Turn):
                        self.on_turn(session.arm, entry)
                        if entry.index + 1 == self.turns:
                            break
        except IclLoopError as error:
            stopped = error
        except asyncio.CancelledError:
            stopped = StoppedShort("interrupted")
            raise
        finally:
            played = tuple(each for each in events if isinstance(each, Event))
            tried = self.arms[session.arm] = TriedArm(session, played, stopped)
            self.on_arm(tried)

    def _with_donor(self, session: Session) -> Session:
        """Return the session; a yoked one with what its donor was told in its own trial turns."""
        arm = session.settings.feedback.donor
        if arm is None:
            return session
        donor = self.arms.get(arm)
        if donor is None or not donor.turns:
            raise StoppedShort(f"skipped, because no turn of its donor {arm!r} was played")
        told = tuple(turn.feedback.told for turn in donor.turns)
        identity = DonorIdentity(arm=arm, stream=0, id="trial", told_sha256="")
        return replace(session, donor=Donor(identity, told))

    def by_endpoint(self) -> Mapping[str, list[TriedArm]]:
        """Return the arms by the key of their endpoints; built-in models have the key ""."""
        found: dict[str, list[TriedArm]] = {}
        for arm in self.experiment.arms:
            if tried := self.arms.get(arm):
                key = "" if tried.model.is_built_in else endpoint_key(tried.model)
                found.setdefault(key, []).append(tried)
        return found

    async def findings(self, arms: Sequence[TriedArm]) -> list[Finding]:
        """Return what the endpoint of these arms does; ask it what neither it nor the turns tell."""
        policy = self._pool.policy(arms[0].session)
        if policy is None:
            return [Finding("server", "none", "built-in models run in this process")]
        from icl_loop.runner.endpoint_probes import EndpointProbes  # noqa: PLC0415  loads slowly

        endpoint = self.endpoints[endpoint_key(arms[0].model)]
        return await EndpointProbes(arms, endpoint, policy).findings()
