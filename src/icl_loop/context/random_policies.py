"""Context policies that draw turns at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl_loop.context.history import DRAWN_FROM, History, Past
from icl_loop.context.policy import Policy
from icl_loop.context.window import Shown
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, fingerprint
from icl_loop.core.records import keyed_bits, keyed_index


@dataclass(frozen=True)
class Stochastic(Policy):
    """Each turn with probability `p`, drawn once for the whole session.

    If several are chained, each draws independently.
    """

    draws: ClassVar[bool] = True
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("stochastic", self.p)

    def choose(self, past: Past) -> Shown:
        """Return the candidates that are drawn."""
        purpose = ("stochastic", past.draws) if past.draws else ("stochastic",)
        numbers = past.history.draws(*purpose)
        return [index for index in past.candidates if numbers[index] < self.p * DRAWN_FROM]


@dataclass(frozen=True)
class Redrawn(Policy):
    """Each turn with probability `p`, drawn anew for every request.

    If those drawn do not fit, a random part of them is shown. With `only_correct` before it, this is
    Stochastic of ICRL (Monea et al. 2024, arXiv 2410.05362).
    """

    draws: ClassVar[bool] = True
    recalls: ClassVar[bool] = True
    p: float = 0.1

    def __post_init__(self) -> None:
        _check_probability("redrawn", self.p)

    def choose(self, past: Past) -> Shown:
        """Return the candidates that are drawn."""
        numbers = self._numbers(past)
        return [index for index in past.candidates if numbers[index] < self.p * 2**64]

    def __call__(self, past: Past) -> Shown:
        """Return the candidates that are drawn, without those of the highest numbers if not all fit."""
        numbers = self._numbers(past)
        lowest = sorted(self.choose(past), key=numbers.__getitem__)
        return sorted(past.history.tokens.first_fitting(lowest, past.budget))

    def _numbers(self, past: Past) -> Sequence[int]:
        """Return a random number in [0, 2**64) for each turn, a function of the request."""
        count, asked = len(past.history.turns), fingerprint([past.question])
        key = (*past.history.key, "redrawn", past.draws, count, asked)
        numbers: list[int] = keyed_bits(count, *key).tolist()
        return numbers


@dataclass(frozen=True)
class Parallel(Policy):
    """One of `k` contexts, drawn for every request; each turn is in each of them with probability `p`.

    Which contexts a turn is in is drawn once, so a prompt cache can serve each context. With
    `only_correct` before it, this is Approximate of ICRL (Monea et al. 2024, arXiv 2410.05362).
    """

    is_parallel: ClassVar[bool] = True
    k: int = 8
    p: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"parallel: k must be a whole number of at least 1, got k={self.k!r}")
        _check_probability("parallel", self.p)

    def choose(self, past: Past) -> Shown:
        """Return the candidates that are in the context drawn for this request."""
        context = self._context(past.history, len(past.history.turns), past.question)
        numbers = past.history.draws("parallel", context)
        return [index for index in past.candidates if numbers[index] < self.p * DRAWN_FROM]

    def continued(self, past: Past) -> int:
        """Return the newest turn for whose request the same context was drawn, -1 if none."""
        history = past.history
        context = self._context(history, len(history.turns), past.question)
        turns = range(len(history.turns) - 1, -1, -1)
        drawn = (
            turn
            for turn in turns
            if self._context(history, turn, history.turns[turn].question) == context
        )
        return next(drawn, -1)

    def _context(self, history: History, turn: int, question: Message) -> int:
        """Return the number of the context drawn for a request after `turn` turns."""
        return keyed_index(self.k, *history.key, "parallel", turn, fingerprint([question]))


@dataclass(frozen=True)
class Reservoir(Policy):
    """A uniform random sample of `n` of all turns so far; as many as fit if None.

    Each turn draws a number, and those with the lowest numbers are shown (bottom-k sampling; Cohen
    and Kaplan 2007), the lowest first, because these will be shown longest.
    """

    comes_last: ClassVar[bool] = True
    n: int | None = 50

    def choose(self, past: Past) -> Shown:
        """Return the candidates with the lowest numbers that fit."""
        numbers = past.history.draws("reservoir")
        lowest = sorted(past.candidates, key=numbers.__getitem__)[: self.n]
        fitting = past.history.tokens.first_fitting(lowest, past.budget)
        return past.with_stable_prefix(fitting)


def _check_probability(name: str, p: float) -> None:
    if not (isinstance(p, int | float) and 0 <= p <= 1):
        raise InputError(f"{name}: p must be a probability, got p={p!r}")
