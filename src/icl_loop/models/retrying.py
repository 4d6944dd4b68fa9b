"""Requests that are retried, rate-limited and kept within the budget."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

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


class RequestPolicy:
    """Sends the requests of one model: retries them, and keeps to the rate limits and the budget."""

    def __init__(
        self,
        *,
        rate_limiter: RateLimiter,
        budget: Budget,
        retry: RetryPolicy,
        prompt_bound: PromptBound,
        max_completion_tokens: int,
        cost: Cost,
    ) -> None:
        """Create the policy of one model.

        Args:
            rate_limiter: Shared by all models of the endpoint.
            budget: Shared by all models of the run.
            retry: How long to retry.
            prompt_bound: Counts the prompt tokens of the model's requests.
            max_completion_tokens: Upper bound on the tokens of a reply.
            cost: Price of the model's tokens.
        """
        self.prompt_bound = prompt_bound
        self._rate_limiter, self._budget, self._retry = rate_limiter, budget, retry
        self._max_completion_tokens, self._cost = max_completion_tokens, cost
        self._backoff = wait_exponential_jitter(
            multiplier=retry.first_wait_s, max=retry.max_wait_s, jitter=retry.first_wait_s
        )

    async def request(self, counted: int, send: SendRequest) -> Reply:
        """Return the reply, with the number of attempts and the seconds the last one took.

        Args:
            counted: Locally counted tokens of the request.
            send: Sends it once.

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
        await self._rate_limiter.wait(self.prompt_bound.upper_bound(counted))
        concurrency = self._rate_limiter.concurrency
        async with concurrency.slot():
            most = Usage(
                self.prompt_bound.upper_bound(counted), completion=self._max_completion_tokens
            )
            with self._budget.reserve(most, self._cost(most)):
                start = time.perf_counter()
                try:
                    reply = await send()
                except ModelUnavailable as error:
                    if error.limited:
                        concurrency.decrease()
                    raise
                latency_s = time.perf_counter() - start
            self._rate_limiter.has_answered = True
            concurrency.increase()
        self.prompt_bound.observe(counted, reply.usage.prompt)
        used = self.usage(counted, reply)
        self._budget.add(used, self._cost(used))
        return replace(reply, latency_s=latency_s)

    def _stop(self, state: RetryCallState) -> bool:
        """Return whether the next retry would start after the allowance has run out.

        The clock starts at the first failure: waiting for the rate limit uses up no allowance.
        """
        now = time.monotonic()
        first_failure: float = state.retry_object.statistics.setdefault("first_failure", now)
        answered = self._rate_limiter.has_answered
        allowance_s = self._retry.allowance_s if answered else self._retry.startup_allowance_s
        return now - first_failure + state.upcoming_sleep > allowance_s

    def _wait(self, state: RetryCallState) -> float:
        """Return the longer of the backoff and the wait that the server asks for."""
        return max(self._backoff(state), _error(state).retry_after_s or 0.0)

    def _count_retry(self, state: RetryCallState) -> None:
        self._budget.retries[str(_error(state))] += 1


def _error(state: RetryCallState) -> ModelUnavailable:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, ModelUnavailable):
        raise TypeError(f"only ModelUnavailable is retried, got {error!r}")
    return error


class RetryingModel:
    """A model whose requests follow a `RequestPolicy`."""

    def __init__(self, model: ChatModel, policy: RequestPolicy) -> None:
        self._model, self._policy = model, policy

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to `messages`; raises as `RequestPolicy.request` does."""
        counted = self._policy.prompt_bound.count(messages)
        return await self._policy.request(counted, partial(self._model.complete, messages))

    async def aclose(self) -> None:
        """Close the model's connections."""
        if isinstance(self._model, Closable):
            await self._model.aclose()
