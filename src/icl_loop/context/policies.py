"""Context policies: which past turns the next request shows, and in which order.

A policy is a small value that is called with what has been (`Past`) and returns the turns still
shown. Policies compose from left to right and read aloud: `only_correct | last(50)`. A policy
never sees a label or a sample, only what the messages of the session have said.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from icl_loop.context.history import History, Past, Pixels, steadied
from icl_loop.context.window import Shown
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.records import keyed_index

_FINE = 2**53
"""Equal steps into which a number drawn for a turn divides [0, 1)."""


class ContextPolicy(Protocol):
    """Chooses the past turns that the next request shows."""

    def __call__(self, past: Past) -> Shown:
        """Return some of `past.candidates` whose tokens fit into `past.budget`.

        Raises:
            ContextFull: The policy insists on turns that do not fit.
        """
        ...


class Policy(ABC):
    """A policy that composes with `|` and is written as it is called.

    Attributes:
        comes_last: Whether it looks at what was shown before, or orders what it shows, so that no
            other policy may come after it.
        looks: Whether it compares pictures.
        moves_on: Whether of turns up to the newest it shows those since some turn, and never again
            what was before it, so that what it no longer shows can be let go of.
    """

    comes_last: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    moves_on: ClassVar[bool] = False

    @abstractmethod
    def choose(self, past: Past) -> Shown:
        """Return some of the candidates, whether or not they fit."""

    def __call__(self, past: Past) -> Shown:
        """Return the newest of those chosen that fit; see `ContextPolicy`."""
        return replace(past, candidates=self.choose(past)).newest_within(past.budget)

    def start(self, history: History) -> int:  # noqa: ARG002  most do not look at it
        """Return the first turn that a policy which moves on may still show, given all turns."""
        return 0

    @property
    def parts(self) -> tuple[ContextPolicy, ...]:
        """The policies of which it is made."""
        return (self,)

    def __or__(self, other: ContextPolicy) -> "Chain":
        return Chain((*self.parts, other))

    def __str__(self) -> str:
        given = [
            f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)  # type: ignore[arg-type]  # every policy is a dataclass
        ]
        return name_of(type(self)) + (f"({', '.join(given)})" if given else "")


def name_of(policy: type[Policy]) -> str:
    """Return the name under which a kind of policy is written."""
    return re.sub("(?<!^)(?=[A-Z])", "_", policy.__name__).lower()


@dataclass(frozen=True)
class Chain(Policy):
    """Each policy chooses from what the one before let pass; the last one sees to the budget."""

    policies: tuple[ContextPolicy, ...]

    def __post_init__(self) -> None:
        for policy in self.policies[:-1]:
            if isinstance(policy, Policy) and policy.comes_last:
                raise InputError(
                    f"{policy} comes last: {self.policies[-1]} after it would undo what it keeps"
                )
        if sum(isinstance(policy, Notes) for policy in self.policies) > 1:
            raise InputError("notes are taken by one policy of a chain")

    @property
    def parts(self) -> tuple[ContextPolicy, ...]:
        """The policies of which it is made."""
        return self.policies

    def choose(self, past: Past) -> Shown:
        """Return what the last policy chooses."""
        return _choice(self.policies[-1], self._before_last(past))

    def __call__(self, past: Past) -> Shown:
        """Return what the last policy lets pass."""
        return self.policies[-1](self._before_last(past))

    def _before_last(self, past: Past) -> Past:
        for policy in self.policies[:-1]:
            draws = past.draws + isinstance(policy, Stochastic)
            past = replace(past, candidates=_choice(policy, past), draws=draws)
        return past

    def __str__(self) -> str:
        return " | ".join(map(str, self.policies))


def _choice(policy: ContextPolicy, past: Past) -> Shown:
    return policy.choose(past) if isinstance(policy, Policy) else policy(past)


@dataclass(frozen=True)
class All(Policy):
    """Every turn; when they no longer fit, the session ends."""

    def choose(self, past: Past) -> Shown:
        """Return all candidates."""
        return past.candidates

    def __call__(self, past: Past) -> Shown:
        """Return all candidates, or raise ContextFull."""
        needed = past.history.tally.of(past.candidates)
        if needed > past.budget:
            raise ContextFull(needed, past.budget)
        return past.candidates


@dataclass(frozen=True)
class Stateless(Policy):
    """No turn at all: every question stands alone."""

    moves_on = True

    def choose(self, past: Past) -> Shown:  # noqa: ARG002  it looks at nothing, which is its point
        """Return no turn."""
        return range(0)

    def start(self, history: History) -> int:
        """Return the turn to come."""
        return len(history.turns)


@dataclass(frozen=True)
class Last(Policy):
    """The newest `n` turns, fewer if they do not fit. A window of 0 turns shows nothing."""

    moves_on = True
    n: int = 50

    def __post_init__(self) -> None:
        _at_least("last", "n", self.n, 0)

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates."""
        return past.candidates[max(0, len(past.candidates) - self.n) :]

    def start(self, history: History) -> int:
        """Return the first of the newest turns."""
        return len(history.turns) - self.n


@dataclass(frozen=True)
class First(Policy):
    """The first `n` turns and never another, fewer if they do not fit; all that fit if None."""

    n: int | None = None

    def __post_init__(self) -> None:
        if self.n is not None:
            _at_least("first", "n", self.n, 0)

    def choose(self, past: Past) -> Shown:
        """Return the first candidates."""
        return past.candidates[: self.n]

    def __call__(self, past: Past) -> Shown:
        """Return the first candidates that fit."""
        fitting = past.history.tally.leading(self.choose(past), past.budget)
        return past.candidates[: len(fitting)]


@dataclass(frozen=True)
class Within(Policy):
    """The newest turns that fit into `tokens`, or into the whole window if None."""

    moves_on = True
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            _at_least("within", "tokens", self.tokens, 0)

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates of this many tokens."""
        return past.candidates if self.tokens is None else past.newest_within(self.tokens)


@dataclass(frozen=True)
class Reset(Policy):
    """No turn before turn `at` once it is reached: the history is wiped there."""

    moves_on = True
    at: int = 100

    def __post_init__(self) -> None:
        _at_least("reset", "at", self.at, 1)

    def choose(self, past: Past) -> Shown:
        """Return all candidates, or those since the reset."""
        return _since(past.candidates, self.start(past.history))

    def start(self, history: History) -> int:
        """Return the turn of the reset, once it is reached."""
        return self.at if len(history.turns) >= self.at else 0


@dataclass(frozen=True)
class Block(Policy):
    """Every turn since the last cut; a cut comes only when the window is full.

    Between cuts each request begins with the one before, so that a provider's prompt cache keeps
    serving it. Where the last cut was is read from what the previous request showed.

    Attributes:
        high: Share of the budget that the turns may fill before a cut.
        low: Share of the budget that a cut leaves filled.
    """

    comes_last = True
    moves_on = True
    high: float = 1.0
    low: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(
                f"block needs 0 <= low <= high <= 1, got low={self.low!r}, high={self.high!r}"
            )

    def choose(self, past: Past) -> Shown:
        """Return the candidates since the last cut, or cut."""
        since = _since(past.candidates, self._cut_at(past))
        if past.history.tally.of(since) <= self.high * past.budget:
            return since
        return replace(past, candidates=since).newest_within(int(self.low * past.budget))

    def _cut_at(self, past: Past) -> int:
        """Return the first turn since the last cut; one that left nothing was before the newest."""
        if past.shown_before:
            return past.shown_before[0]
        if past.history.tally.of(past.candidates) <= self.high * past.budget:
            return 0
        return len(past.history.turns) - 1 - past.history.senses.delay


@dataclass(frozen=True)
class OnlyCorrect(Policy):
    """The turns whose answer was said to be right."""

    def choose(self, past: Past) -> Shown:
        """Return the candidates said to be right."""
        return past.sifted(self, _told_right)


@dataclass(frozen=True)
class OnlyIncorrect(Policy):
    """The turns whose answer was said to be wrong."""

    def choose(self, past: Past) -> Shown:
        """Return the candidates said to be wrong."""
        return past.sifted(self, _told_wrong)


def _told_right(history: History, index: int) -> bool | None:
    lesson = history.lesson(index)
    return None if lesson is None else lesson.right is True


def _told_wrong(history: History, index: int) -> bool | None:
    lesson = history.lesson(index)
    return None if lesson is None else lesson.right is False


@dataclass(frozen=True)
class Stochastic(Policy):
    """Each turn with probability `p`, drawn once for the whole session.

    One that comes after another draws for itself.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise InputError(f"stochastic takes a probability p, got p={self.p!r}")

    def choose(self, past: Past) -> Shown:
        """Return the candidates that were drawn."""
        which = (past.draws,) if past.draws else ()
        return past.sifted(self, partial(self._is_drawn, which))

    def _is_drawn(self, which: tuple[int, ...], history: History, index: int) -> bool:
        return keyed_index(_FINE, *history.key, "stochastic", *which, index) < self.p * _FINE


@dataclass(frozen=True)
class Reservoir(Policy):
    """A sample of `n` of all turns so far, each as likely as any other; all that fit if None.

    Each turn draws a number, and the lowest stay (the bottom-k form of reservoir sampling; Cohen and
    Kaplan 2007). Those that will stay longest stand first.
    """

    comes_last = True
    n: int | None = 50

    def __post_init__(self) -> None:
        if self.n is not None:
            _at_least("reservoir", "n", self.n, 0)

    def choose(self, past: Past) -> Shown:
        """Return the candidates of the lowest numbers that fit."""
        ranked: list[tuple[int, int]] = past.gathered(self, list, _Ranks(past.history).add)
        lowest = (index for _, index in islice(ranked, self.n))
        return steadied(past.history.tally.leading(lowest, past.budget), past.shown_before)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Ranks turns by the number that each has drawn."""

    history: History

    def add(self, ranked: list[tuple[int, int]], index: int) -> bool:
        insort(ranked, (keyed_index(_FINE, *self.history.key, "reservoir", index), index))
        return True


@dataclass(frozen=True)
class PerClass(Policy):
    """The newest `n` turns of each class that was told: the label revealed, or an answer confirmed.

    A turn of which no class was told is not shown.
    """

    n: int = 5

    def __post_init__(self) -> None:
        _at_least("per_class", "n", self.n, 0)

    def choose(self, past: Past) -> Shown:
        """Return the newest candidates of each class, in the order in which they were played."""
        classes = past.gathered(self, dict, _Classes(past.history).add)
        newest = [index for turns in classes.values() for index in turns[len(turns) - self.n :]]
        return sorted(newest) if self.n else []


@dataclass(frozen=True, slots=True)
class _Classes:
    """Sorts turns into the classes that were told."""

    history: History

    def add(self, classes: dict[str, list[int]], index: int) -> bool:
        lesson = self.history.lesson(index)
        if lesson is not None and lesson.label is not None:
            classes.setdefault(lesson.label, []).append(index)
        return lesson is not None


@dataclass(frozen=True)
class Nearest(Policy):
    """The `n` turns whose pictures are most like the one asked about, blind to what they are.

    Likeness is the Euclidean distance of pixels. Those most often shown before stand first, so that
    the beginning of the request lasts. A request that asks about no picture shows the newest.
    """

    comes_last = True
    looks = True
    n: int = 20

    def __post_init__(self) -> None:
        _at_least("nearest", "n", self.n, 0)

    def choose(self, past: Past) -> Shown:
        """Return the candidates most like the picture asked about, as many as fit."""
        asked = past.history.senses.look(past.question)
        if asked is None or not past.candidates:
            return Last(self.n)(past)
        gallery = past.history.gather(Nearest, None, _Gallery, _Pictures(past.history).add)
        nearest = gallery.nearest(asked, past.candidates, self.n)
        fitting = past.history.tally.leading(nearest, past.budget)
        often = sorted(fitting, key=lambda index: (-gallery.times_shown[index], index))
        return steadied(often, past.shown_before)


class _Gallery:
    """The pictures of all turns so far, and how often each turn was shown."""

    def __init__(self) -> None:
        self.times_shown: list[int] = []
        self._pictures: Pixels = np.zeros((0, 0), np.float32)

    def add(self, picture: Pixels, shown: Shown) -> None:
        count = len(self.times_shown)
        if count == len(self._pictures):
            room = np.zeros((max(64, count), picture.size), np.float32)
            self._pictures = np.vstack([self._pictures, room]) if count else room
        self._pictures[count] = picture
        self.times_shown.append(0)
        for index in shown:
            self.times_shown[index] += 1

    def nearest(self, asked: Pixels, among: Shown, n: int) -> list[int]:
        """Return the `n` turns most like `asked`, the most like first; of equals the newest first."""
        turns: NDArray[np.intp] = np.fromiter(among, np.intp, len(among))[::-1]
        apart = np.square(self._pictures[turns] - asked).sum(axis=1)
        nearest: list[int] = turns[np.argsort(apart, kind="stable")[:n]].tolist()
        return nearest


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Hangs the pictures of turns."""

    history: History

    def add(self, gallery: _Gallery, index: int) -> bool:
        picture = self.history.look(index)
        if picture is None:
            raise InputError(f"nearest compares pictures, and turn {index} shows none")
        gallery.add(picture, self.history.shown[index])
        return True


@dataclass(frozen=True)
class Notes(Policy):
    """The turns since the model last wrote down what it has learned; its notes stand for the others.

    Attributes:
        every: Turns after which it rewrites its notes.
        tokens: Tokens that its notes may take; more are cut off.
    """

    moves_on = True
    every: int = 20
    tokens: int = 500

    def __post_init__(self) -> None:
        _at_least("notes", "every", self.every, 1)
        _at_least("notes", "tokens", self.tokens, 1)

    def choose(self, past: Past) -> Shown:
        """Return the candidates since the last note."""
        return _since(past.candidates, self.start(past.history))

    def start(self, history: History) -> int:
        """Return the number of turns played when the latest note was written."""
        return history.notes[-1].after_turn if history.notes else 0

    def is_due(self, history: History) -> bool:
        """Whether notes are to be taken before the next turn."""
        return len(history.turns) - self.start(history) >= self.every


def notes_in(policy: ContextPolicy) -> Notes | None:
    """Return the part of a policy that has the model take notes, if there is one."""
    parts = policy.parts if isinstance(policy, Policy) else ()
    return next((part for part in parts if isinstance(part, Notes)), None)


def looks(policy: ContextPolicy) -> bool:
    """Whether a policy compares pictures."""
    parts = policy.parts if isinstance(policy, Policy) else ()
    return any(isinstance(part, Policy) and part.looks for part in parts)


def needed(policy: ContextPolicy, history: History) -> range:
    """Return the turns played that a policy may show from now on: all, unless it moves on.

    What begins with the first turns never shows another.
    """
    parts = policy.parts if isinstance(policy, Policy) else (policy,)
    first, rest = (parts[0], parts[1:]) if isinstance(parts[0], First) else (None, parts)
    known = range(len(history.turns))
    if not all(isinstance(part, Policy) and part.moves_on for part in rest):
        return known
    if first is not None:
        return known[: first.n]
    starts = [part.start(history) for part in rest if isinstance(part, Policy)]
    return known[max(history.tally.reach, *starts) :]


def _since(candidates: Shown, start: int) -> Shown:
    return candidates[bisect_left(candidates, start) :]


def _at_least(policy: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{policy} takes {name} of at least {least}, got {name}={value}")
