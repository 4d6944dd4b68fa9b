"""Limits shared by the models of a run: request rate, concurrency, tokens and money.

Each endpoint has one `RateLimiter` and each run one `Budget`.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiolimiter import AsyncLimiter

from icl_loop.core.errors import BudgetSpent
from icl_loop.core.messages import Message, Usage

Cost = Callable[[Usage], float]
"""Converts the tokens of a request to US dollars."""

LONG_WAIT_S = 5.0
"""Longer waits are shown."""
INITIAL_RATIO = 2.0
"""Assumed model tokens per estimated token until a reply reports the true count."""
SAFETY_MARGIN = 1.1
"""Factor above the highest ratio observed, because the next text may have a higher one."""


class ConcurrencyLimiter:
    """A semaphore whose limit shrinks after rate-limit errors and grows after successes.

    Additive increase, multiplicative decrease (Chiu and Jain 1989).
    """

    def __init__(self, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        self.active = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free slot and hold it for the duration of the context."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.active < int(self.limit))
            self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            async with self._changed:
                self._changed.notify(2)  # one for the slot, one in case the limit has grown

    def decrease(self) -> None:
        """Halve the limit, down to one."""
        self.limit = max(1.0, self.limit / 2)

    def increase(self) -> None:
        """Raise the limit by one per `limit` successes, up to the maximum."""
        self.limit = min(float(self.max_concurrency), self.limit + 1 / self.limit)


class RateLimiter:
    """Limits one endpoint's requests per minute, tokens per minute and concurrent requests.

    `has_answered` tells whether the endpoint has ever sent a reply or reported a failure itself.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int = 1_000,
    ) -> None:
        self.concurrency = ConcurrencyLimiter(max_concurrency)
        self.has_answered = False
        rates = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._limiters = {
            name: AsyncLimiter(max(rate, 1), 60 * max(1, 1 / rate))
            for name, rate in rates.items()
            if rate
        }
        self._waiting = dict.fromkeys(rates, 0.0)

    async def wait(self, tokens: int, budget: "Budget") -> None:
        """Wait until a request of `tokens` tokens fits the rates; note long waits in `budget`.

        A request larger than a minute's tokens waits until the whole minute is free.
        """
        for name, limiter in self._limiters.items():
            amount = min(tokens, limiter.max_rate) if name == "tokens" else 1
            self._waiting[name] += amount
            periods = 0 if limiter.has_capacity(amount) else self._waiting[name] / limiter.max_rate
            try:
                wait_s = periods * limiter.time_period
                with budget.waiting(wait_s, f"for limits.{name}_per_minute"):
                    await limiter.acquire(amount)
            finally:
                self._waiting[name] -= amount


@dataclass(frozen=True, slots=True)
class Wait:
    """A long wait of one request: until when, by `time.monotonic`, and why."""

    until: float
    reason: str


@dataclass
class Budget:
    """The usage and cost of a run so far, their limits, and what its requests are waiting for.

    Attributes:
        max_usd: Maximum US dollars to spend, or None for no limit.
        max_tokens: Maximum prompt and completion tokens, or None for no limit.
        spent: Tokens of all requests so far, those without a usable reply included; estimated where
            an endpoint reports none.
        usd: Cost of the requests whose price is known.
        in_flight: Requests waiting for a reply.
        retries: Retried requests by error message.
        waits: The long waits of requests; those in the past are over.
        first_request: Held by the first request of a model, whose reply shows how long replies are.
        refused_tokens: The tokens that would have been used with a request that was not made, at
            most; 0 if no request was refused for its tokens.
        refused_usd: The same in US dollars.
        on_unsaved: Called with the tokens and the cost of each failed attempt at a request that was
            given up, as no transcript will have them.
    """

    max_usd: float | None = None
    max_tokens: int | None = None
    spent: Usage = field(default_factory=Usage)
    usd: float = 0.0
    in_flight: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    waits: dict[object, Wait] = field(default_factory=dict)
    first_request: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused_tokens: int = 0
    refused_usd: float = 0.0
    on_unsaved: Callable[[Usage, float], None] = lambda _usage, _usd: None
    _reserved_usd: float = 0.0
    _reserved_tokens: int = 0

    @property
    def is_limited(self) -> bool:
        """Whether tokens or money are limited."""
        return self.max_usd is not None or self.max_tokens is not None

    @property
    def passed(self) -> str:
        """Which limit was passed, because replies were longer than any before; "" if none was."""
        if self.max_tokens is not None and self.spent.total > self.max_tokens:
            return (
                f"a reply took more tokens than expected: {self.spent.total:,} tokens are used,"
                f" {self.max_tokens:,} are allowed"
            )
        if self.max_usd is not None and self.usd > self.max_usd:
            return (
                f"a reply cost more than expected: ${self.usd:.4f} is spent, ${self.max_usd:.4f} is"
                " allowed"
            )
        return ""

    def add(self, usage: Usage, usd: float) -> None:
        """Add the tokens and the cost of one reply, those of discarded attempts included."""
        spent = self.spent
        self.spent = Usage(
            prompt=spent.prompt + usage.prompt + usage.discarded_prompt,
            cached=spent.cached + usage.cached,
            completion=spent.completion + usage.completion + usage.discarded_completion,
            reasoning=spent.reasoning + usage.reasoning,
        )
        self.usd += max(0.0, usd)

    @contextmanager
    def reserve(self, most: Usage, usd: float) -> Iterator[None]:
        """Reserve the largest possible usage and cost of a request while it is in flight.

        Raises:
            BudgetSpent: The request could exceed a limit, or one is passed already.
        """
        used, reserved = self.spent.total, self._reserved_tokens
        tokens, dollars = used + reserved + most.total, self.usd + self._reserved_usd + usd
        if self.max_tokens is not None and tokens > self.max_tokens:
            self.refused_tokens = max(tokens, self.refused_tokens)
        if self.max_usd is not None and dollars > self.max_usd:
            self.refused_usd = max(dollars, self.refused_usd)
        if self.passed:
            raise BudgetSpent(self.passed)
        if self.max_tokens is not None and tokens > self.max_tokens:
            in_flight = f" and {reserved:,} reserved for requests in flight" if reserved else ""
            raise BudgetSpent(
                f"the next request could take {most.total:,} tokens, but of the allowed"
                f" {self.max_tokens:,}, {used:,} are used{in_flight}"
            )
        if self.max_usd is not None and dollars > self.max_usd:
            cents = self._reserved_usd
            in_flight = f" and ${cents:.4f} reserved for requests in flight" if cents else ""
            raise BudgetSpent(
                f"the next request could cost ${usd:.4f}, but of the allowed ${self.max_usd:.4f},"
                f" ${self.usd:.4f} is spent{in_flight}"
            )
        self._reserved_tokens += most.total
        self._reserved_usd += usd
        self.in_flight += 1
        try:
            yield
        finally:
            self._reserved_tokens -= most.total
            self._reserved_usd -= usd
            self.in_flight -= 1

    def note_wait(self, request: object, seconds: float, reason: str) -> None:
        """Note that a request waits, if it waits for long."""
        if seconds > LONG_WAIT_S:
            self.waits[request] = Wait(time.monotonic() + seconds, reason)

    @contextmanager
    def waiting(self, seconds: float, reason: str) -> Iterator[None]:
        """Note that a request waits for about this long, until the end of the context."""
        request = object()
        self.note_wait(request, seconds, reason)
        try:
            yield
        finally:
            self.waits.pop(request, None)


@dataclass(slots=True)
class PromptBound:
    """An upper bound on a model's prompt tokens, corrected by the counts its replies report.

    A local estimate can fall below the true count for unusual languages or tables, so counts are
    scaled by the highest ratio of reported to counted tokens seen so far.

    Attributes:
        count: Counts the tokens of a request locally.
        exact: Whether `count` uses the model's own vocabulary.
        max_ratio: Highest ratio of reported to counted tokens, or None before the first reply.
    """

    count: Callable[[Sequence[Message]], int]
    exact: bool = True
    max_ratio: float | None = None

    @property
    def ratio(self) -> float:
        """The assumed model tokens per counted token."""
        if self.max_ratio is None:
            return 1.0 if self.exact else INITIAL_RATIO
        if self.exact and self.max_ratio <= 1:
            return 1.0
        return max(1.0, self.max_ratio * SAFETY_MARGIN)

    def upper_bound(self, counted: int) -> int:
        """Return the most tokens that `counted` locally counted tokens may stand for."""
        return math.ceil(counted * self.ratio)

    def observe(self, counted: int, reported: int) -> None:
        """Learn from the count in a reply; a count of zero means it reported none."""
        if counted and reported:
            self.max_ratio = max(self.max_ratio or 0.0, reported / counted)
