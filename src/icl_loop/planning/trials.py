"""Sessions on trial: played by a model of ours in place of the arm's own, at no cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from icl_loop.errors import ContextFull
from icl_loop.experiment import Experiment, ModelSettings, Session
from icl_loop.loop import play
from icl_loop.messages import Usage
from icl_loop.models import BUILT_IN, ChatModel
from icl_loop.models.counted import Counted
from icl_loop.records import Turn
from icl_loop.tokens import count_message

STAND_IN = "reference/nearest"
"""Plays where the arm's own model is none of ours."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What came of one session on trial.

    Attributes:
        usages: Tokens of every request, in order.
        correct: Whether each turn played was right, shape (turns,).
        planned: Turns that the session should have.
        most_shown: Most past turns that a request showed.
        fits: Leading turns of the session that fit the window together; where all of them do, how
            many of their mean size would.
        sample_tokens: Mean tokens of a question.
        chance: Accuracy of guessing.
    """

    usages: tuple[Usage, ...]
    correct: NDArray[np.bool_]
    planned: int
    most_shown: int
    fits: int
    sample_tokens: float
    chance: float

    @property
    def early(self) -> float:
        """Accuracy over the first min(20, T / 10) turns, at least one."""
        return self.accuracy(0, max(1, min(20, self.planned // 10)))

    @property
    def late(self) -> float:
        """Accuracy over the second half of the turns planned."""
        return self.accuracy(self.planned // 2, self.planned)

    def accuracy(self, start: int, stop: int) -> float:
        """Return the accuracy over these turns, NaN if none of them was played."""
        part = self.correct[start:stop]
        return float(part.mean()) if part.size else float("nan")


class Trials:
    """Plays sessions on trial, each once, and keeps what came of them."""

    def __init__(self, reply_tokens: int = 0, on_turn: Callable[[], None] = lambda: None) -> None:
        """Fill replies up to `reply_tokens`; call `on_turn` after every turn."""
        self._reply_tokens, self._on_turn = reply_tokens, on_turn
        self._known: dict[str, Trial] = {}
        self._models: dict[tuple[str, int, str], ChatModel] = {}

    async def of(self, session: Session, name: str) -> Trial:
        """Return what comes of `session` if the built-in model called `name` plays it."""
        chosen = _recast(session, name)
        key = f"{chosen.settings.model_dump_json()} {chosen.seed} {chosen.stream} {chosen.turns}"
        if key not in self._known:
            self._known[key] = await self._played(chosen)
        return self._known[key]

    async def _played(self, session: Session) -> Trial:
        window, turns = session.window, list[Turn]()
        model = Counted(
            self._model(session),
            window.counter,
            merges=window.merged,
            reply_tokens=self._reply_tokens,
        )
        try:
            async for turn in play(session.task, model, session.policy, window):
                turns.append(turn)
                self._on_turn()
        except ContextFull:
            pass  # the session ends here, as its run would
        return Trial(
            usages=tuple(model.usages),
            correct=np.array([turn.feedback.correct for turn in turns], dtype=np.bool_),
            planned=session.turns,
            most_shown=max(map(_shown, turns), default=0),
            fits=_fits(session, turns),
            sample_tokens=mean(count_message(window.counter, turn.question) for turn in turns),
            chance=1 / len(session.task.names),
        )

    def _model(self, session: Session) -> ChatModel:
        """Return the model of a session; those that listen alike share one, as in a run."""
        settings = session.settings
        key = (settings.model.name, session.seed, settings.task.wording)
        if key not in self._models:
            self._models[key] = session.open_model()
        return self._models[key]


def session_of(experiment: Experiment, arm: str, stream: int) -> Session:
    """Return a session of an experiment; its streams go on beyond those that it has."""
    settings = experiment.arms[arm]
    return Session(experiment.name, arm, stream, experiment.turns, experiment.seed, settings)


def plays_as(session: Session) -> str:
    """Return the built-in model that plays a session on trial: its own if there is one so called."""
    name = session.settings.model.name
    return name if name in BUILT_IN else STAND_IN


def _recast(session: Session, name: str) -> Session:
    """Return the session with a built-in model in place of its own, within the same window."""
    model = session.settings.model
    ours = ModelSettings(
        name=name, context_window=model.context_window, merge_roles=model.merge_roles
    )
    return replace(session, settings=session.settings.model_copy(update={"model": ours}))


def _shown(turn: Turn) -> int:
    return sum(last - first + 1 for first, last in turn.kept)


def _fits(session: Session, turns: Sequence[Turn]) -> int:
    """Return how many turns fit the window beside the frame and the question."""
    window, frame = session.window, session.task.system
    taken = 0
    for number, turn in enumerate(turns):
        room = window.left_after(frame, turn.question)
        if taken > room:
            return number - 1
        taken += count_message(window.counter, turn.question) + window.count_answered(turn)
    return len(turns) - 1 if taken > room else room * len(turns) // taken
