"""Context policies: which past turns the next request shows.

A policy is a small value that is called with what has been (`Past`) and returns the turns still
shown. Policies compose from left to right and read aloud: `only_correct | last(50)`. A policy
never sees a label or a sample, only turns as they were played.
"""

import ast
import inspect
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from icl_loop.errors import ContextFull, InputError, nearest
from icl_loop.messages import JOIN, Message
from icl_loop.records import Span, Turn
from icl_loop.tokens import (
    ESTIMATORS,
    REQUEST_TOKENS,
    TokenCounter,
    count_message,
    count_messages,
)

Shown = Sequence[int]
"""Indices of past turns in rising order; a `range` where they are neighbours."""


@dataclass(frozen=True, slots=True)
class Window:
    """The context window of a model, and how it is measured.

    Attributes:
        tokens: Size of the window in tokens, request and reply together.
        reserve: Tokens of it that are kept free for the reply.
        counter: Counts the tokens of texts.
        merged: Whether what is told goes out as one message with the next question.
    """

    tokens: int = 32_768
    reserve: int = 1_024
    counter: TokenCounter = ESTIMATORS["o200k_base"]
    merged: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.reserve < self.tokens:
            raise InputError(
                f"the reserve lies between 0 and the window's {self.tokens} tokens,"
                f" got {self.reserve}"
            )

    def left_after(self, *messages: Message) -> int:
        """Return the tokens left for past turns in a request that holds `messages` anyway."""
        taken = count_messages(self.counter, messages) + REQUEST_TOKENS
        return self.tokens - self.reserve - taken

    def count_answered(self, turn: Turn) -> int:
        """Return the tokens of a past turn's reply and of what was told."""
        _, reply, told = turn.messages
        said = count_message(self.counter, reply)
        if self.merged:
            return said + self.counter.count(told.text + JOIN)
        return said + count_message(self.counter, told)


RECENT_REPORTS = 16
MARGIN = 1.02
SAME = 0.002
OVERFLOW_SHRINK = 0.8


@dataclass(slots=True)
class Tally:
    """The tokens of the turns played so far, each counted once, and what the endpoint made of them.

    The endpoint's own counts calibrate ours: the largest ratio of reported to counted prompt tokens
    over the last 16 turns, and 2 % for what the next picture may take more. A counter that agrees
    with the endpoint needs no calibration. Once a request was refused as too long, none is made
    that takes more than 80 % of it.
    """

    window: Window
    frame: int
    sums: list[int] = field(default_factory=lambda: [0])
    limit: float = math.inf
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_REPORTS))

    @classmethod
    def of_frame(cls, window: Window, system: Message) -> "Tally":
        """Return the tally of a session that has not begun."""
        return cls(window, count_message(window.counter, system) + REQUEST_TOKENS)

    @property
    def calibration(self) -> float:
        """What one counted token is taken to cost."""
        ratio = max(self.ratios, default=1.0)
        return 1.0 if abs(ratio - 1) <= SAME else round(ratio * MARGIN, 4)

    def budget(self, asked: int) -> int:
        """Return the counted tokens that past turns may take beside a question of `asked`."""
        size = min((self.window.tokens - self.window.reserve) / self.calibration, self.limit)
        return int(size) - self.frame - asked

    def overflow(self, asked: int, shown: Shown) -> None:
        """Take note that a request was refused as too long."""
        self.limit = OVERFLOW_SHRINK * (self.frame + asked + self.of(shown))

    def add(self, turn: Turn, asked: int, shown: Shown) -> None:
        """Count the next turn, whose question is known to take `asked` tokens."""
        reported = turn.reply.usage.prompt
        if reported:
            self.ratios.append(reported / (self.frame + asked + self.of(shown)))
        self.sums.append(self.sums[-1] + asked + self.window.count_answered(turn))

    def of(self, shown: Shown) -> int:
        """Return the tokens of these turns, in one step if they are neighbours."""
        if isinstance(shown, range):
            return self.sums[shown.stop] - self.sums[shown.start] if shown else 0
        return sum(self.sums[index + 1] - self.sums[index] for index in shown)


@dataclass(frozen=True, slots=True)
class Past:
    """What a policy chooses from.

    Attributes:
        turns: Every turn played, in order.
        tally: Their tokens.
        candidates: The turns still in the running: all of them, or what a policy before let pass.
        budget: Tokens that the turns shown may take in all.
        question: The message about to be asked.
        key: Seed and stream, for policies that draw at random.
    """

    turns: Sequence[Turn]
    tally: Tally
    candidates: Shown
    budget: int
    question: Message
    key: tuple[str | int, ...] = ()

    @property
    def shown_before(self) -> tuple[Span, ...]:
        """The turns that the previous request showed."""
        return self.turns[-1].kept if self.turns else ()

    def newest_within(self, tokens: int) -> Shown:
        """Return the newest candidates whose tokens fit into `tokens` together."""
        if isinstance(self.candidates, range):
            sums, stop = self.tally.sums, self.candidates.stop
            start = bisect_left(sums, sums[stop] - tokens, self.candidates.start, stop)
            return range(start, stop)
        for start in range(len(self.candidates), 0, -1):
            tokens -= self.tally.of(self.candidates[start - 1 : start])
            if tokens < 0:
                return self.candidates[start:]
        return self.candidates


class ContextPolicy(Protocol):
    """Chooses the past turns that the next request shows."""

    def __call__(self, past: Past) -> Shown:
        """Return some of `past.candidates` whose tokens fit into `past.budget`.

        Raises:
            ContextFull: The policy insists on turns that do not fit.
        """
        ...


class Policy(ABC):
    """A policy that composes with `|` and is written as it is called."""

    @abstractmethod
    def __call__(self, past: Past) -> Shown:
        """Return some of the candidates; see `ContextPolicy`."""

    def __or__(self, other: ContextPolicy) -> "Chain":
        return Chain((self, other))

    def __str__(self) -> str:
        given = [
            f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)  # type: ignore[arg-type]  # every policy is a dataclass
        ]
        return type(self).__name__.lower() + (f"({', '.join(given)})" if given else "")


@dataclass(frozen=True)
class Chain(Policy):
    """Each policy chooses from what the one before let pass."""

    policies: tuple[ContextPolicy, ...]

    def __call__(self, past: Past) -> Shown:
        """Return what the last policy lets pass."""
        for policy in self.policies:
            past = replace(past, candidates=policy(past))
        return past.candidates

    def __or__(self, other: ContextPolicy) -> "Chain":
        return Chain((*self.policies, other))

    def __str__(self) -> str:
        return " | ".join(map(str, self.policies))


@dataclass(frozen=True)
class All(Policy):
    """Every turn; when they no longer fit, the session ends."""

    def __call__(self, past: Past) -> Shown:
        """Return all candidates, or raise ContextFull."""
        needed = past.tally.of(past.candidates)
        if needed > past.budget:
            raise ContextFull(needed, past.budget)
        return past.candidates


@dataclass(frozen=True)
class Stateless(Policy):
    """No turn at all: every question stands alone."""

    def __call__(self, past: Past) -> Shown:  # noqa: ARG002  it looks at nothing, which is its point
        """Return no turn."""
        return range(0)


@dataclass(frozen=True)
class Last(Policy):
    """The newest `n` turns, fewer if they do not fit. A window of 0 turns shows nothing."""

    n: int = 50

    def __post_init__(self) -> None:
        _at_least("last", "n", self.n, 0)

    def __call__(self, past: Past) -> Shown:
        """Return the newest candidates."""
        newest = past.candidates[max(0, len(past.candidates) - self.n) :]
        return replace(past, candidates=newest).newest_within(past.budget)


@dataclass(frozen=True)
class Within(Policy):
    """The newest turns that fit into `tokens`, or into the whole window if None."""

    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            _at_least("within", "tokens", self.tokens, 0)

    def __call__(self, past: Past) -> Shown:
        """Return the newest candidates that fit."""
        limit = past.budget if self.tokens is None else min(self.tokens, past.budget)
        return past.newest_within(limit)


@dataclass(frozen=True)
class Reset(Policy):
    """No turn before turn `at` once it is reached: the history is wiped there."""

    at: int = 100

    def __post_init__(self) -> None:
        _at_least("reset", "at", self.at, 1)

    def __call__(self, past: Past) -> Shown:
        """Return all candidates, or those since the reset."""
        if len(past.turns) < self.at:
            return past.candidates
        return past.candidates[bisect_left(past.candidates, self.at) :]


@dataclass(frozen=True)
class Block(Policy):
    """Every turn since the last cut; a cut comes only when the window is full.

    Between cuts each request begins with the one before, so that a provider's prompt cache keeps
    serving it. Where the last cut was is read from what the previous request showed.

    Attributes:
        high: Share of the budget that the turns may fill before a cut.
        low: Share of the budget that a cut leaves filled.
    """

    high: float = 1.0
    low: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(
                f"block needs 0 <= low <= high <= 1, got low={self.low!r}, high={self.high!r}"
            )

    def __call__(self, past: Past) -> Shown:
        """Return the candidates since the last cut, or cut."""
        before = past.shown_before
        start = before[0][0] if before else len(past.turns) - 1
        since = past.candidates[bisect_left(past.candidates, start) :]
        if past.tally.of(since) <= self.high * past.budget:
            return since
        return replace(past, candidates=since).newest_within(int(self.low * past.budget))


def _at_least(policy: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{policy} takes {name} of at least {least}, got {name}={value}")


POLICIES: Mapping[str, Callable[..., Policy]] = {
    "all": All,
    "stateless": Stateless,
    "last": Last,
    "within": Within,
    "block": Block,
    "reset": Reset,
}


def context_policy(text: str) -> Policy:
    """Return the policy that `text` names: names with arguments, joined by `|`.

    >>> str(context_policy("last(50) | within(4000)"))
    'last(n=50) | within(tokens=4000)'

    Raises:
        InputError: `text` names no policy, or an argument is not one of its own.
    """
    try:
        return _build(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"context policy {text!r} is not written like last(50) | within") from None


def _build(node: ast.expr, text: str) -> Policy:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _build(left, text) | _build(right, text)
        case ast.Name(id=name):
            return _call(name, [], [], text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords, text)
        case _:
            raise InputError(f"context policy {text!r} is not written like last(50) | within")


def _call(
    name: str, args: Iterable[ast.expr], keywords: Iterable[ast.keyword], text: str
) -> Policy:
    if name not in POLICIES:
        raise InputError(f"unknown context policy {name!r}: {nearest(name, POLICIES)}")
    try:
        given = [_number(arg) for arg in args]
        named = {str(keyword.arg): _number(keyword.value) for keyword in keywords}
        inspect.signature(POLICIES[name]).bind(*given, **named)
    except (TypeError, ValueError) as error:
        raise InputError(f"context policy {text!r}: {name}: {error}") from None
    return POLICIES[name](*given, **named)


def _number(node: ast.expr) -> Any:  # noqa: ANN401  the policy's own signature types it
    value = ast.literal_eval(node)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004  one kind to catch above
    return value


def shown_in(kept: Sequence[Span]) -> Shown:
    """Return the turns in these runs of neighbours: a `range` where there is one run."""
    runs = [range(first, last + 1) for first, last in kept]
    return runs[0] if len(runs) == 1 else [index for run in runs for index in run]


def spans(shown: Shown) -> tuple[Span, ...]:
    """Return the runs of neighbours in `shown`, each as its first and last index."""
    if isinstance(shown, range) and shown.step == 1:
        return ((shown.start, shown.stop - 1),) if shown else ()
    runs: list[Span] = []
    for index in shown:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return tuple(runs)
