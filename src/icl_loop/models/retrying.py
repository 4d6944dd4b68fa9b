"""Requests that are retried, rate-limited and kept within the budget."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from icl_loop.core.errors import ModelUnavailable
from icl_loop.core.messages import Message, Reply, Usage, assistant
from icl_loop.models.chat import ChatModel, Closable
from icl_loop.models.limits import Budget, Cost, PromptBound, RateLimiter

SendRequest = Callable[[], Awaitable[Reply]]
"""Sends a request once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a turn is retried. Waits grow exponentially, with jitter.

    Attributes:
        allowance_s: Maximum seconds of retrying after the first failure.
        startup_allowance_s: The same until the endpoint has answered once, so that a wrong address
            fails quickly.
        first_wait_s: Seconds before the first retry.
        max_wait_s: Maximum seconds between retries, unless the server asks for more.
    """

    allowance_s: float = 600.0
    startup_allowance_s: float = 15.0
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestPolicy:
    """Sends the requests of one model: retries them, and keeps to the rate limits and the budget.

    Attributes:
        rate_limiter: Shared by all models of the endpoint.
        budget: Shared by all models of the run.
        retry: How long to retry.
        prompt_bound: Counts the prompt tokens of the model's requests.
        max_completion_tokens: Upper bound on the tokens of a reply.
        cost: Price of the model's tokens.
    """

    rate_limiter: RateLimiter
    budget: Budget
    retry: RetryPolicy
    prompt_bound: PromptBound
    max_completion_tokens: int
    cost: Cost

    async def request(self, counted: int, send: SendRequest) -> Reply:
        """Return the reply to a request of `counted` locally counted tokens, which `send` sends once.

        It has the number of attempts and the seconds that the last one took.

        Raises:
            ModelUnavailable: The retry allowance is used up.
            BudgetSpent: The request could exceed the budget, and was not sent.
            ModelError: The model refused the request.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ModelUnavailable),
            stop=self._stop,
            wait=self._wait,
            before_sleep=self._count_retry,
            reraise=True,
        )
        reply: Reply = await retrying(self._attempt, counted, send)
        return replace(reply, attempts=retrying.statistics["attempt_number"])

    def usage(self, counted: int, reply: Reply) -> Usage:
        """Return the tokens that `reply` reports, or else an upper bound estimated locally."""
        if reply.usage.prompt:
            return reply.usage
        completion = self.prompt_bound.count([assistant(reply.text)]) if reply.text else 0
        bound = self.prompt_bound.upper_bound
        return Usage(prompt=bound(counted), completion=bound(completion))

    async def _attempt(self, counted: int, send: SendRequest) -> Reply:
        await self.rate_limiter.wait(self.prompt_bound.upper_bound(counted))
        concurrency = self.rate_limiter.concurrency
        async with concurrency.slot():
            prompt = self.prompt_bound.upper_bound(counted)
            most = Usage(prompt, completion=self.max_completion_tokens)
            with self.budget.reserve(most, self.cost(most)):
                start = time.perf_counter()
                try:
                    reply = await send()
                except ModelUnavailable as error:
                    if error.limited:
                        concurrency.decrease()
                    raise
                latency_s = time.perf_counter() - start
            self.rate_limiter.has_answered = True
            concurrency.increase()
        self.prompt_bound.observe(counted, reply.usage.prompt)
        used = self.usage(counted, reply)
        self.budget.add(used, self.cost(used))
        return replace(reply, latency_s=latency_s)

    def _stop(self, state: RetryCallState) -> bool:
        """Return whether the next retry would start after the allowance has run out.

        The clock starts at the first failure: waiting for the rate limit uses up no allowance.
        """
        now = time.monotonic()
        first_failure: float = state.retry_object.statistics.setdefault("first_failure", now)
        answered = self.rate_limiter.has_answered
        allowance_s = self.retry.allowance_s if answered else self.retry.startup_allowance_s
        return now - first_failure + state.upcoming_sleep > allowance_s

    def _wait(self, state: RetryCallState) -> float:
        """Return the longer of the backoff and the wait that the server asks for."""
        first_s = self.retry.first_wait_s
        backoff = wait_exponential_jitter(
            multiplier=first_s, max=self.retry.max_wait_s, jitter=first_s
        )
        return max(backoff(state), _error(state).retry_after_s or 0.0)

    def _count_retry(self, state: RetryCallState) -> None:
        self.budget.retries[str(_error(state))] += 1


def _error(state: RetryCallState) -> ModelUnavailable:
    return cast("ModelUnavailable", state.outcome and state.outcome.exception())


@dataclass(frozen=True, slots=True)
class RetryingModel:
    """A model whose requests follow a `RequestPolicy`."""

    model: ChatModel
    policy: RequestPolicy

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to `messages`; raises as `RequestPolicy.request` does."""
        counted = self.policy.prompt_bound.count(messages)
        return await self.policy.request(counted, partial(self.model.complete, messages))

    async def aclose(self) -> None:
        """Close the model's connections."""
        if isinstance(self.model, Closable):
            await self.model.aclose()
