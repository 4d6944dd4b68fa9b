"""The context window of a model, and the tokens of what was said in it, each counted once."""

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Message
from icl_loop.core.records import Span, Turn
from icl_loop.core.tokens import (
    ESTIMATORS,
    REQUEST_TOKENS,
    TokenCounter,
    count_message,
    count_messages,
)

Shown = Sequence[int]
"""Indices of past turns in the order in which they are shown; a `range` where they are neighbours."""


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
LEAST = 0.0001
OVERFLOW_SHRINK = 0.8
REACH = 2.0
"""Windows, by their size after each turn, that are held; what was before them is not shown again."""


@dataclass(slots=True)
class TokenTotals:
    """The tokens of the turns played so far, each counted once, and what the endpoint made of them.

    The endpoint's own counts calibrate ours: the largest ratio of reported to counted prompt tokens
    over the last 16 turns, and 2 % for what the next picture may take more. A counter that agrees
    with the endpoint needs no calibration. Once a request was refused as too long, none is made
    that takes more than 80 % of it. Were the endpoint to count less and less, a window that moves on
    would still show no turn that was two windows back once.

    Attributes:
        window: The context window.
        frame: Tokens that every request takes beside turns and question.
        aside: Tokens of the notes that the next request shows.
        sums: Tokens of the turns before each turn.
        reach: The first turn that a window which moves on may still show.
        limit: Tokens that no request may take any more.
        ratios: Reported over counted tokens of the latest requests.
    """

    window: Window
    frame: int
    aside: int = 0
    sums: "array[int]" = field(default_factory=lambda: array("q", [0]))
    reach: int = 0
    limit: float = math.inf
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_REPORTS))

    @classmethod
    def of_frame(cls, window: Window, system: Message) -> "TokenTotals":
        """Return the tally of a session that has not begun."""
        return cls(window, count_message(window.counter, system) + REQUEST_TOKENS)

    @property
    def opening(self) -> int:
        """Tokens of the frame with which every request begins."""
        return self.frame - REQUEST_TOKENS

    @property
    def calibration(self) -> float:
        """What one counted token is taken to cost."""
        ratio = max(self.ratios, default=1.0)
        return 1.0 if abs(ratio - 1) <= SAME else max(round(ratio * MARGIN, 4), LEAST)

    @property
    def _size(self) -> float:
        """What the window holds in counted tokens."""
        return (self.window.tokens - self.window.reserve) / self.calibration

    def budget(self, asked: int) -> int:
        """Return the counted tokens that past turns may take beside a question of `asked`."""
        return int(min(self._size, self.limit)) - self.frame - self.aside - asked

    def overflow(self, asked: int, shown: Shown) -> None:
        """Take note that a request was refused as too long."""
        self.limit = OVERFLOW_SHRINK * (self.frame + self.aside + asked + self.of(shown))

    def add(self, turn: Turn, asked: int, shown: Shown) -> None:
        """Count the next turn, whose question is known to take `asked` tokens."""
        reported = turn.reply.usage.prompt
        if reported:
            self.ratios.append(reported / (self.frame + self.aside + asked + self.of(shown)))
        self.sums.append(self.sums[-1] + asked + self.window.count_answered(turn))
        self.reach = bisect_left(self.sums, self.sums[-1] - REACH * self._size, self.reach)

    def of(self, shown: Shown) -> int:
        """Return the tokens of these turns, in one step if they are neighbours."""
        if isinstance(shown, range):
            return self.sums[shown.stop] - self.sums[shown.start] if shown else 0
        return sum(map(self.of_one, shown))

    def leading(self, turns: Iterable[int], tokens: int) -> list[int]:
        """Return the first of these turns whose tokens fit into `tokens` together."""
        fitting = []
        for index in turns:
            tokens -= self.of_one(index)
            if tokens < 0:
                break
            fitting.append(index)
        return fitting

    def of_one(self, index: int) -> int:
        """Return the tokens of one turn."""
        return self.sums[index + 1] - self.sums[index]


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
