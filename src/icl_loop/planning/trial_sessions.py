"""Trial sessions: played by a built-in model instead of the arm's own, at no cost."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from icl_loop.context.history import History
from icl_loop.context.window import from_spans
from icl_loop.core.errors import ContextFull, InputError, nearest
from icl_loop.core.messages import Message, Usage
from icl_loop.core.records import Turn
from icl_loop.core.tokens import count_message
from icl_loop.experiment import Donor, Experiment, ModelSettings, Session, Settings
from icl_loop.experiment.settings import AUTO, WINDOW
from icl_loop.loop import ask_probes, play_events
from icl_loop.models import BUILT_IN, ChatModel
from icl_loop.models.usage_estimate import CountingModel
from icl_loop.runner.trial import EndpointTrial, as_sent
from icl_loop.transcripts.header import DonorIdentity

STAND_IN = "reference/nearest"
"""Plays in place of a model that is not built in."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The result of one trial session.

    Attributes:
        usages: Usage of every request in order; empty if tokens were not counted.
        correct: Whether each played turn was correct, shape (turns,); NaN if its sample was chosen.
        told: The feedback told after each turn.
        planned: Planned number of turns.
        most_shown: Maximum number of past turns in a request.
        fits: Number of leading turns that fit the window; if all do, extrapolated from their mean size.
        sample_tokens: Mean number of tokens in a question.
        chance: Accuracy of guessing.
    """

    usages: tuple[Usage, ...]
    correct: NDArray[np.float64]
    told: tuple[str, ...]
    planned: int
    most_shown: int
    fits: int
    sample_tokens: float
    chance: float

    @property
    def early(self) -> float:
        """Accuracy over the first min(20, T / 10) turns, but at least one."""
        return self.accuracy(0, max(1, min(20, self.planned // 10)))

    @property
    def late(self) -> float:
        """Accuracy over the second half of the planned turns; NaN unless all were played."""
        if len(self.correct) < self.planned:
            return float("nan")
        return self.accuracy(self.planned // 2, self.planned)

    def accuracy(self, start: int, stop: int) -> float:
        """Return the accuracy over these turns; NaN if none was played."""
        part = self.correct[start:stop]
        part = part[~np.isnan(part)]
        return float(part.mean()) if part.size else float("nan")


class Trials:
    """Plays trial sessions, each once, and caches the results."""

    def __init__(self, reply_tokens: int = 0, on_turn: Callable[[], None] = lambda: None) -> None:
        """Pad replies to `reply_tokens` tokens; call `on_turn` after every turn."""
        self._reply_tokens, self._on_turn = reply_tokens, on_turn
        self._cache: dict[tuple[object, ...], Trial] = {}
        self._models: dict[str, ChatModel] = {}

    async def of(
        self, experiment: Experiment, arm: str, streams: int, name: str, *, counted: bool = False
    ) -> tuple[Trial, ...]:
        """Return the first `streams` sessions of an arm, played by the built-in model `name`.

        There may be more than the experiment has. The donor of a yoked session is played by the same
        model. Usages are only present if `counted`, which takes longer.
        """
        found = [
            await self._trial(experiment, arm, stream, name, counted=counted)
            for stream in range(streams)
        ]
        return tuple(found)

    async def _trial(
        self, experiment: Experiment, arm: str, stream: int, name: str, *, counted: bool
    ) -> Trial:
        settings = _with_built_in_model(experiment.arms[arm], name)
        session = session_of(experiment, arm, stream, settings)
        place = experiment.donor_of(session)
        if place is not None:
            donor, other, _ = place
            told = (await self._trial(experiment, donor, other, name, counted=counted)).told
            identity = DonorIdentity(arm=donor, stream=other, id="trial", told_sha256="")
            session = replace(session, donor=Donor(identity, told))
        key = (session.settings.model_dump_json(), session.turns, stream, session.donor)
        known = self._cache.get(key)
        if known is None or (counted and not known.usages):
            known = self._cache[key] = await self._played(session, counted=counted)
        return known

    async def _played(self, session: Session, *, counted: bool) -> Trial:
        window, turns = session.window, list[Turn]()
        model, usages = self._model(session), list[Usage]()
        if counted or self._reply_tokens:
            model = counting = CountingModel(
                model,
                window.counter,
                merges=window.merged,
                system_role=session.settings.model.system_role,
                reply_tokens=self._reply_tokens,
            )
            usages = counting.usages
        if session.donor is None or len(session.donor.told) == session.turns:
            await self._play(session, model, turns)
        asked = [turn.question for turn in turns] or [session.task.question(0)]
        return Trial(
            usages=tuple(usages),
            correct=np.array(
                [
                    np.nan if session.is_chosen(turn.index) else turn.feedback.correct
                    for turn in turns
                ],
                dtype=np.float64,
            ),
            told=tuple(turn.feedback.told for turn in turns),
            planned=session.turns,
            most_shown=max((len(from_spans(turn.kept)) for turn in turns), default=0),
            fits=_fits(session, turns),
            sample_tokens=mean(count_message(window.counter, each) for each in asked),
            chance=1 / len(session.task.labels),
        )

    async def _play(self, session: Session, model: ChatModel, turns: list[Turn]) -> None:
        """Play a session with its probes and append its turns to `turns`."""
        task, policy = session.task, session.policy
        history = History.for_task(task, session.window)

        async def ask() -> None:
            async for _ in ask_probes(task, model, policy, history):
                pass

        with suppress(ContextFull):  # the session ends here, as in a real run
            await ask()
            async for event in play_events(task, model, policy, history):
                if isinstance(event, Turn):
                    turns.append(event)
                    self._on_turn()
                    await ask()

    def _model(self, session: Session) -> ChatModel:
        """Return the model of a session, shared by sessions with the same settings."""
        model, task = session.settings.model, session.settings.task
        key = f"{model.name} {model.params} {session.seed} {task.prompts} {task.encoding}"
        if key not in self._models:
            self._models[key] = session.open_model()
        return self._models[key]


async def conversation(
    experiment: Experiment, arm: str, turns: int
) -> tuple[Sequence[Message], str]:
    """Return what an endpoint would be sent after the first turns of an arm, and the model that replied.

    That is the arm's own model if it is built in, and otherwise `STAND_IN`. Nothing is asked.

    Raises:
        InputError: There is no such arm, or it cannot be played.
        StoppedShort: The context window is full before.
    """
    if arm not in experiment.arms:
        raise InputError(f"there is no arm {arm!r}; {nearest(arm, experiment.arms)}")
    needed = {arm, experiment.arms[arm].feedback.donor}
    arms = {
        name: _with_built_in_model(settings, trial_model(settings))
        for name, settings in experiment.arms.items()
        if name in needed
    }
    arms = {
        name: settings.with_window(WINDOW) if settings.model.context_window == AUTO else settings
        for name, settings in arms.items()
    }
    length = max(experiment.turns, turns + 1)
    played = replace(experiment, arms=arms, turns=length, streams=2)  # a donor is another stream
    played.check()
    trial = EndpointTrial(experiment=played, endpoints={}, turns=turns + 1)
    await trial.play()
    tried = trial.arms[arm]
    if tried.stopped:
        raise tried.stopped
    return as_sent(tried.request, experiment.arms[arm].model), tried.model.name


def trial_model(settings: Settings) -> str:
    """Return the name of the model for trials: the arm's own if built in, else `STAND_IN`."""
    return settings.model.name if settings.model.name in BUILT_IN else STAND_IN


def session_of(experiment: Experiment, arm: str, stream: int, settings: Settings) -> Session:
    """Return a session of an arm with these settings."""
    return Session(experiment.name, arm, stream, experiment.turns, experiment.seed, settings)


def _with_built_in_model(settings: Settings, name: str) -> Settings:
    """Return the settings with the built-in model `name` and the same context window."""
    model = settings.model
    built_in = ModelSettings(
        name=name,
        context_window=model.context_window,
        merge_roles=model.merge_roles,
        system_role=model.system_role,
        params=model.params if (model.name, model.base_url) == (name, None) else {},
    )
    return settings.model_copy(update={"model": built_in})


def _fits(session: Session, turns: Sequence[Turn]) -> int:
    """Return the number of turns that fit the window next to system prompt and question."""
    window, opening = session.window, session.task.opening
    taken = room = 0
    for number, turn in enumerate(turns):
        room = window.left_after(*opening, turn.question)
        if taken > room:
            return number - 1
        taken += count_message(window.counter, turn.question) + window.count_answered(turn)
    if taken > room:
        return len(turns) - 1
    return room * len(turns) // taken if taken else 0
