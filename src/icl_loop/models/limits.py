"""Asking with patience and within limits: retries, rates, concurrency, money.

One `Pace` for each endpoint and one `Budget` for each run are shared by all models of the run;
`Terms` puts both between a session and the request it makes; `Patient` is a model on such terms.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from icl_loop.core.errors import BudgetSpent, ModelUnavailable
from icl_loop.core.messages import Message, Reply, Usage, assistant
from icl_loop.models.chat import ChatModel, Closable

Cost = Callable[[Usage], float]
"""From the tokens of a request to US dollars."""
Once = Callable[[], Awaitable[Reply]]
"""Makes a request once."""
UNTOLD = 2.0
"""What a token counted by estimate is taken to cost until a reply says what it does."""
MARGIN = 1.1
"""How far above the most that it has cost in any reply; the next text may be a worse one."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a turn may be tried.

    Attributes:
        allowance_s: Seconds that all attempts at one turn may take together.
        unproven_s: The same as long as the endpoint has never answered: a wrong address should
            not take minutes to be seen.
        first_wait_s: Seconds before the first retry; they double.
        longest_wait_s: Where they stop doubling. What a server asks for may be longer.
    """

    allowance_s: float = 600.0
    unproven_s: float = 15.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0


class ConcurrencyLimiter:
    """Lets so many requests pass at once; fewer after a rate limit, one more after successes.

    Additive increase, multiplicative decrease (Chiu and Jain 1989).
    """

    def __init__(self, most: int) -> None:
        """Let `most` requests pass at once until told otherwise."""
        self.most = most
        self.limit = float(most)
        self.passing = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Wait for a place, hold it."""
        while self.passing >= max(1, int(self.limit)):
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place
        self.passing += 1
        try:
            yield
        finally:
            self.passing -= 1
            self._call_next()

    def back_off(self) -> None:
        """Halve the limit."""
        self.limit = max(1.0, self.limit / 2)

    def recover(self) -> None:
        """Raise the limit by one over as many successes as it lets pass at once."""
        if self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def _call_next(self) -> None:
        while self._waiting and self.passing < max(1, int(self.limit)):
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return


class RateLimiter:
    """What an endpoint is asked to bear: requests and tokens a minute, requests at once."""

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        at_once: int = 1_000,
    ) -> None:
        """Limit what is not None."""
        self.gate = ConcurrencyLimiter(at_once)
        self.proven = False
        self._requests = AsyncLimiter(requests_per_minute) if requests_per_minute else None
        self._tokens = AsyncLimiter(tokens_per_minute) if tokens_per_minute else None

    async def wait(self, tokens: int) -> None:
        """Wait until a request of so many tokens may be made; one too large waits for all."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))


@dataclass
class Budget:
    """What a run has taken so far, and how much it may take.

    Attributes:
        max_usd: US dollars that may be spent, or None.
        max_tokens: Prompt and completion tokens that may be used, or None.
        spent: Tokens of all requests, by kind, as `Terms.used` has them.
        usd: What they cost at list price; of requests with a known price only.
        in_flight: Requests being waited for.
        retries: Requests that failed and were made again, by reason.
    """

    max_usd: float | None = None
    max_tokens: int | None = None
    spent: Usage = field(default_factory=Usage)
    usd: float = 0.0
    in_flight: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    _held_usd: float = 0.0
    _held_tokens: int = 0

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to stay within."""
        return self.max_usd is not None or self.max_tokens is not None

    def add(self, usage: Usage, usd: float) -> None:
        """Take note of the tokens of a reply."""
        self.spent = Usage(
            prompt=self.spent.prompt + usage.prompt,
            cached=self.spent.cached + usage.cached,
            completion=self.spent.completion + usage.completion,
            reasoning=self.spent.reasoning + usage.reasoning,
        )
        self.usd += usd

    @contextmanager
    def request(self, most: Usage, usd: float) -> Iterator[None]:
        """Hold back what a request may take at the most while it is in flight.

        Raises:
            BudgetSpent: It could pass a limit; it must not be made.
        """
        tokens = most.prompt + most.completion
        used = self.spent.prompt + self.spent.completion + self._held_tokens
        if self.max_tokens is not None and used + tokens > self.max_tokens:
            raise BudgetSpent(
                f"the next request could take {tokens} tokens; {used} of at most"
                f" {self.max_tokens} are used or in flight"
            )
        if self.max_usd is not None and self.usd + self._held_usd + usd > self.max_usd:
            raise BudgetSpent(
                f"the next request could cost ${usd:.4f}; ${self.usd + self._held_usd:.4f} of at"
                f" most ${self.max_usd:.4f} is spent or in flight"
            )
        self._held_tokens += tokens
        self._held_usd += usd
        self.in_flight += 1
        try:
            yield
        finally:
            self._held_tokens -= tokens
            self._held_usd -= usd
            self.in_flight -= 1


@dataclass(slots=True)
class PromptBound:
    """The prompt tokens of a model's requests from above, as its replies so far make likely.

    Counting by estimate bounds the texts of this package, but not those of others, in tables and
    texts of any language. So a counted token is taken to cost the most that it has in any reply.

    Attributes:
        count: Counts the tokens of a request.
        exact: Whether a counted token is a token of the model, as long as no reply says otherwise.
        worst: The largest ratio of reported to counted tokens in any reply, None before the first.
    """

    count: Callable[[Sequence[Message]], int]
    exact: bool = True
    worst: float | None = None

    @property
    def scale(self) -> float:
        """What one counted token is taken to cost."""
        if self.worst is None:
            return 1.0 if self.exact else UNTOLD
        if self.exact and self.worst <= 1:
            return 1.0
        return max(1.0, self.worst * MARGIN)

    def over(self, counted: int) -> int:
        """Return the tokens that a request of so many counted ones may have."""
        return math.ceil(counted * self.scale)

    def learn(self, counted: int, reported: int) -> None:
        """Take note of what the endpoint counted; one that says nothing teaches nothing."""
        if counted and reported:
            self.worst = max(self.worst or 0.0, reported / counted)


class RequestPolicy:
    """On what terms a model is asked: with patience, within pace and budget."""

    def __init__(
        self,
        *,
        pace: RateLimiter,
        meter: Budget,
        patience: RetryPolicy,
        bound: PromptBound,
        most_completion: int,
        cost: Cost,
    ) -> None:
        """Bind the requests of one model.

        Args:
            pace: Of its endpoint.
            meter: Of the run.
            patience: How long a turn may be tried.
            bound: Bounds the prompt tokens of its requests, and learns from all its replies.
            most_completion: Bounds the tokens of a reply.
            cost: Prices the tokens of a request.
        """
        self.pace, self.bound = pace, bound
        self._meter, self._patience = meter, patience
        self._most_completion, self._cost = most_completion, cost
        self._backoff = wait_exponential_jitter(
            multiplier=patience.first_wait_s,
            max=patience.longest_wait_s,
            jitter=patience.first_wait_s,
        )

    async def ask(self, counted: int, once: Once) -> Reply:
        """Return the reply, with the attempts it took and the seconds of the last one.

        Args:
            counted: Tokens of the request.
            once: Makes it once.

        Raises:
            ModelUnavailable: The allowance is used up.
            BudgetSpent: The request could pass a limit; it was not made.
            ModelError: The model refused for good.
        """
        try:
            return await self._attempt(counted, once)
        except ModelUnavailable as error:
            failed = [error]

        async def attempt() -> Reply:
            if failed:  # the first attempt is behind us; tenacity takes it from there
                raise failed.pop()
            return await self._attempt(counted, once)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ModelUnavailable),
            stop=self._is_over,
            wait=self._wait,
            before_sleep=self._note_retry,
            reraise=True,
        )
        reply: Reply = await retrying(attempt)
        return replace(reply, attempts=retrying.statistics["attempt_number"])

    async def _attempt(self, counted: int, once: Once) -> Reply:
        await self.pace.wait(self.bound.over(counted))
        async with self.pace.gate.passage():
            most = Usage(prompt=self.bound.over(counted), completion=self._most_completion)
            with self._meter.request(most, self._cost(most)):
                start = time.perf_counter()
                try:
                    reply = await once()
                except ModelUnavailable as error:
                    if error.limited:
                        self.pace.gate.back_off()
                    raise
            self.pace.proven = True
            self.pace.gate.recover()
        self.bound.learn(counted, reply.usage.prompt)
        used = self.used(counted, reply)
        self._meter.add(used, self._cost(used))
        return replace(reply, latency_s=time.perf_counter() - start)

    def used(self, counted: int, reply: Reply) -> Usage:
        """Return the tokens of a request: as reported, or else as counted here, from above."""
        if reply.usage.prompt:
            return reply.usage
        said = self.bound.count([assistant(reply.text)]) if reply.text else 0
        return Usage(self.bound.over(counted), completion=self.bound.over(said))

    def _is_over(self, state: RetryCallState) -> bool:
        """Return whether the next wait would pass the allowance."""
        patience = self._patience
        allowance = patience.allowance_s if self.pace.proven else patience.unproven_s
        return (state.seconds_since_start or 0.0) + self._wait(state) > allowance

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds to wait: what the server asks for, or the back-off if it is longer."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, ModelUnavailable) else None
        return max(self._backoff(state), asked or 0.0)

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._meter.retries[str(error)] += 1


class RetryingModel:
    """Asks a model until it answers or its allowance is used up, within pace and budget."""

    def __init__(self, model: ChatModel, terms: RequestPolicy) -> None:
        """Ask `model`, which asks once, on these terms."""
        self._model, self._terms = model, terms

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply, with the attempts it took and the seconds of the last one.

        Raises:
            ModelUnavailable: The allowance is used up.
            BudgetSpent: The request could pass a limit; it was not made.
            ModelError: The model refused for good.
        """
        counted = self._terms.bound.count(messages)
        return await self._terms.ask(counted, partial(self._model.complete, messages))

    async def aclose(self) -> None:
        """Close the model's connections."""
        if isinstance(self._model, Closable):
            await self._model.aclose()
