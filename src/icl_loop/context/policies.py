"""The context policies of `icl_loop` that draw nothing at random."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from icl_loop.context.history import History, Past
from icl_loop.context.policy import ContextPolicy, Policy, parts
from icl_loop.context.window import Shown
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.messages import Message, user


@dataclass(frozen=True)
class All(Policy):
    """Every turn; the session ends when they no longer fit."""

    def choose(self, past: Past) -> Shown:
        """Return all candidates."""
        return past.candidates

    def __call__(self, past: Past) -> Shown:
        """Return all candidates, or raise ContextFull."""
        needed = past.history.tokens.of_turns(past.candidates)
        if needed > past.budget:
            raise ContextFull(needed, past.budget)
        return past.candidates


@dataclass(frozen=True)
class Stateless(Policy):
    """No turns: each question is asked alone."""

    def choose(self, past: Past) -> Shown:  # noqa: ARG002  the choice depends on nothing
        """Return no turns."""
        return ()


@dataclass(frozen=True)
class Last(Policy):
    """The newest `n` turns, fewer if they do not fit; none if `n` is 0."""

    n: int = 50

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates."""
        return past.candidates[max(0, len(past.candidates) - self.n) :]


@dataclass(frozen=True)
class First(Policy):
    """The first `n` turns and never another, fewer if they do not fit; all that fit if None."""

    n: int | None = None

    def choose(self, past: Past) -> Shown:
        """Return the first candidates."""
        return past.candidates[: self.n]

    def __call__(self, past: Past) -> Shown:
        """Return the first candidates that fit."""
        return past.history.tokens.first_fitting(self.choose(past), past.budget)


@dataclass(frozen=True)
class Within(Policy):
    """The newest turns that take at most `tokens` tokens, or fit the window if None."""

    tokens: int | None = None

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates of at most this many tokens."""
        return past.candidates if self.tokens is None else past.newest_within(self.tokens)


@dataclass(frozen=True)
class Reset(Policy):
    """Every turn, but from turn `at` on none before it."""

    lowest: ClassVar[int] = 1
    at: int = 100

    def choose(self, past: Past) -> Shown:
        """Return all candidates, or those since the reset."""
        return past.since(self.at) if len(past.history.turns) >= self.at else past.candidates


@dataclass(frozen=True)
class Block(Policy):
    """Every turn since the last cut; the oldest turns are cut off when the window is full.

    Between two cuts each request begins with the previous one, so that a prompt cache can serve it.
    The turns shown by the previous request tell where the last cut was.

    Attributes:
        high: A cut is made when the turns take more than this share of the budget.
        low: The share of the budget that the turns may take after a cut.
    """

    continues: ClassVar[bool] = True
    comes_last: ClassVar[bool] = True
    high: float = 1.0
    low: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(
                f"block needs 0 <= low <= high <= 1, got low={self.low!r}, high={self.high!r}"
            )

    def choose(self, past: Past) -> Shown:
        """Return the candidates since the last cut, after another cut if they take too much."""
        since = past.since(self._last_cut(past))
        if self._fits(past, since):
            return since
        return replace(past, candidates=since).newest_within(int(self.low * past.budget))

    def _last_cut(self, past: Past) -> int:
        """Return the first turn after the last cut.

        If the last request showed no turn at all, the cut was made before the last turn.
        """
        if shown := past.last_shown:
            return shown[0]
        if self._fits(past, past.candidates):
            return 0
        timing = past.history.parser.timing
        return timing.batch_of(past.last - timing.delay)

    def _fits(self, past: Past, shown: Shown) -> bool:
        return past.history.tokens.of_turns(shown) <= self.high * past.budget


@dataclass(frozen=True)
class OnlyCorrect(Policy):
    """The turns whose answer the model was told is correct."""

    def choose(self, past: Past) -> Shown:
        """Return the candidates with positive feedback."""
        return [index for index, told in past.feedback.items() if told.correct]


@dataclass(frozen=True)
class OnlyIncorrect(Policy):
    """The turns whose answer the model was told is incorrect."""

    def choose(self, past: Past) -> Shown:
        """Return the candidates with negative feedback."""
        return [index for index, told in past.feedback.items() if told.correct is False]


@dataclass(frozen=True)
class PerClass(Policy):
    """The newest `n` turns of each class, as far as the model was told the class.

    That is the revealed label or the confirmed answer. Other turns are not shown.
    """

    n: int = 5

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates of each class, in the order in which they were played."""
        classes: dict[str, list[int]] = defaultdict(list)
        for index, told in past.feedback.items():
            if told.label is not None:
                classes[told.label].append(index)
        return sorted(index for turns in classes.values() for index in turns[::-1][: self.n])


@dataclass(frozen=True)
class Nearest(Policy):
    """The `n` turns whose samples are most similar to the one asked about, whatever their labels.

    Images, table rows and texts are compared as `SampleStore.distances` says. As the last policy, it
    shows first the turns that were shown most often, so that requests share a long prefix. If the
    request asks about no sample, the newest turns are shown.
    """

    recalls: ClassVar[bool] = True
    n: int = 20

    def choose(self, past: Past) -> Shown:
        """Return the candidates with the most similar samples, in the order of the candidates."""
        nearest = set(self._nearest(past))
        return [index for index in past.candidates if index in nearest]

    def __call__(self, past: Past) -> Shown:
        """Return the candidates with the most similar samples, as many as fit."""
        history = past.history
        if history.parser.sample(past.question) is None:
            return Last(self.n)(past)
        fitting = history.tokens.first_fitting(self._nearest(past), past.budget)
        fitting.sort(key=lambda index: (-history.times_shown[index], index))
        return past.with_stable_prefix(fitting)

    def _nearest(self, past: Past) -> Shown:
        """Return the `n` nearest candidates, the nearest first and the newest of equally near ones."""
        newest_first = np.array(past.candidates, dtype=np.intp)[::-1]
        if not newest_first.size:
            return ()
        distances = past.history.distances(past.question)
        if distances is None:
            distances = np.zeros(len(past.history.turns))
        order = np.argsort(distances[newest_first], kind="stable")
        nearest: list[int] = newest_first[order[: self.n]].tolist()
        return nearest


@dataclass(frozen=True)
class Notes(Policy):
    """The turns since the model last rewrote its notes; the notes replace the others.

    Attributes:
        every: The model rewrites its notes after this many turns.
        tokens: Longer notes are cut to this many tokens.
    """

    lowest: ClassVar[int] = 1
    takes_notes: ClassVar[bool] = True
    every: int = 20
    tokens: int = 500

    def choose(self, past: Past) -> Shown:
        """Return the candidates since the last note."""
        return past.since(_turns_at_last_note(past.history))

    def is_due(self, history: History) -> bool:
        """Return whether the model is to rewrite its notes before the next turn."""
        return len(history.turns) - _turns_at_last_note(history) >= self.every

    def question(self, history: History) -> Message:
        """Return the message that asks for notes."""
        return user(history.parser.note_prompts.ask(self.tokens))


def _turns_at_last_note(history: History) -> int:
    return history.notes[-1].after_turn if history.notes else 0


def shows_no_turns(policy: ContextPolicy) -> bool:
    """Return whether a policy, or one in a chain, shows no past turns by definition."""
    return any(
        isinstance(part, Stateless) or (isinstance(part, Last) and not part.n)
        for part in parts(policy)
    )


def notes_policy(policy: ContextPolicy) -> Notes | None:
    """Return the policy in a chain that takes notes, if there is one."""
    return next((part for part in parts(policy) if isinstance(part, Notes)), None)
