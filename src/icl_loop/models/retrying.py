"""Requests that are retried, rate-limited and kept within the budget."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn, cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from icl_loop.core.errors import ModelError, ModelUnavailable
from icl_loop.core.messages import Message, Reply, Usage, assistant
from icl_loop.models.chat import ChatModel, Closable
from icl_loop.models.limits import LONG_WAIT_S, Budget, Cost, PromptBound, RateLimiter

SendRequest = Callable[[], Awaitable[Reply]]
"""Sends a request once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a turn is retried. Waits grow exponentially, with jitter.

    Attributes:
        allowance_s: Maximum seconds of retrying after the first failure.
        startup_allowance_s: The same until the endpoint has answered or reported a failure once, so
            that a wrong address fails quickly.
        first_wait_s: Seconds before the first retry.
        max_wait_s: Maximum seconds between retries, unless the server asks for more.
    """

    allowance_s: float = 600.0
    startup_allowance_s: float = 15.0
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0


@dataclass(kw_only=True, eq=False)
class RequestPolicy:
    """Sends the requests of one model: retries them, and keeps to the rate limits and the budget.

    Attributes:
        rate_limiter: Shared by all models of the endpoint.
        budget: Shared by all models of the run.
        retry: How long to retry.
        prompt_bound: Counts the prompt tokens of the model's requests.
        max_completion_tokens: Most tokens of a reply: the limit that is requested, or the longest
            reply so far if an endpoint exceeds it.
        cost: Price of the model's tokens.
        is_measured: Whether any reply has shown how many tokens a request takes.
    """

    rate_limiter: RateLimiter
    budget: Budget
    retry: RetryPolicy
    prompt_bound: PromptBound
    max_completion_tokens: int
    cost: Cost
    is_measured: bool = field(default=False, init=False)

    async def request(self, counted: int, send: SendRequest) -> Reply:
        """Return the reply to a request of `counted` locally counted tokens, which `send` sends once.

        It has the number of attempts, the seconds that the last one took, and the tokens of the
        others.

        Raises:
            ModelUnavailable: The retry allowance is used up, or the endpoint asks for a longer wait.
            BudgetSpent: The request could exceed the budget, and was not sent.
            ModelError: The model refused the request.
        """
        failed: list[Usage] = []
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ModelUnavailable),
            stop=self._stop,
            wait=self._wait,
            before_sleep=self._note_retry,
            retry_error_callback=self._give_up,
        )
        try:
            reply: Reply = await retrying(self._attempt, counted, send, failed)
        except BaseException:
            for usage in failed:
                used = self.usage(counted, Reply("", usage=usage))
                self.budget.on_unsaved(used, self.cost(used))
            raise
        finally:
            self.budget.waits.pop(retrying, None)
        usage = reply.usage.with_discarded(failed) if failed else reply.usage
        return replace(reply, attempts=retrying.statistics["attempt_number"], usage=usage)

    def charge(self, counted: int, reply: Reply) -> None:
        """Charge the budget for a reply, and learn from it how many tokens the next may take."""
        self.prompt_bound.observe(counted, reply.usage.prompt)
        self.max_completion_tokens = max(self.max_completion_tokens, reply.usage.completion)
        self.is_measured = True
        used = self.usage(counted, reply)
        self.budget.add(used, self.cost(used))

    def usage(self, counted: int, reply: Reply) -> Usage:
        """Return the tokens that `reply` reports, or else an upper bound estimated locally."""
        reported, bound = reply.usage, self.prompt_bound.upper_bound
        said = [text for text in (reply.text, reply.reasoning_text) if text]
        if reported.prompt >= max(reported.cached, 1) and (reported.completion or not said):
            return reported
        prompt, completion = reported.prompt or bound(counted), reported.completion
        if said and not completion:
            completion = bound(self.prompt_bound.count([assistant(text) for text in said]))
        cached = min(reported.cached, prompt)
        return replace(reported, prompt=prompt, cached=cached, completion=completion)

    async def _attempt(self, counted: int, send: SendRequest, failed: list[Usage]) -> Reply:
        """Send the request once, alone if no reply has shown how many tokens a request takes."""
        if self.budget.is_limited and not self.is_measured:
            async with self.budget.first_request:
                if not self.is_measured:
                    return await self._send(counted, send, failed)
        return await self._send(counted, send, failed)

    async def _send(self, counted: int, send: SendRequest, failed: list[Usage]) -> Reply:
        """Send the request once the rate limits and the budget allow it, and charge for it."""
        concurrency = self.rate_limiter.concurrency
        await self.rate_limiter.wait(self.prompt_bound.upper_bound(counted), self.budget)
        async with concurrency.slot():
            prompt = self.prompt_bound.upper_bound(counted)
            most = Usage(prompt, completion=self.max_completion_tokens)
            with self.budget.reserve(most, self.cost(most)):
                start = time.perf_counter()
                try:
                    reply = await send()
                except ModelError as error:
                    self._note_failure(counted, error, failed)
                    raise
                latency_s = time.perf_counter() - start
                self.charge(counted, reply)
            self.rate_limiter.has_answered = True
            concurrency.increase()
        return replace(reply, latency_s=latency_s)

    def _note_failure(self, counted: int, error: ModelError, failed: list[Usage]) -> None:
        """Charge the budget for a failed attempt, and learn from its error about the endpoint."""
        if error.usage is not None:
            self.charge(counted, Reply("", usage=error.usage))
            failed.append(error.usage)
        if isinstance(error, ModelUnavailable):
            if error.reached:
                self.rate_limiter.has_answered = True
            if error.limited:
                self.rate_limiter.concurrency.decrease()

    def _stop(self, state: RetryCallState) -> bool:
        """Return whether the next retry would start after the allowance has run out.

        The clock starts at the first failure: waiting for the rate limit uses up no allowance.
        """
        now = time.monotonic()
        first_failure: float = state.retry_object.statistics.setdefault("first_failure", now)
        return now - first_failure + state.upcoming_sleep > self._allowance_s

    @property
    def _allowance_s(self) -> float:
        answered = self.rate_limiter.has_answered
        return self.retry.allowance_s if answered else self.retry.startup_allowance_s

    def _wait(self, state: RetryCallState) -> float:
        """Return the longer of the backoff and the wait that the server asks for."""
        first_s = self.retry.first_wait_s
        backoff = wait_exponential_jitter(
            multiplier=first_s, max=self.retry.max_wait_s, jitter=first_s
        )
        return max(backoff(state), _error(state).retry_after_s or 0.0)

    def _note_retry(self, state: RetryCallState) -> None:
        error, wait_s = _error(state), state.upcoming_sleep
        self.budget.retries[str(error)] += 1
        asked = wait_s == error.retry_after_s
        reason = f"as the endpoint asks: {error}" if asked else f"before the next attempt: {error}"
        self.budget.note_wait(state.retry_object, wait_s, reason)

    def _give_up(self, state: RetryCallState) -> NoReturn:
        """Raise the last error, with the wait that the endpoint asks for if that is why it is the last."""
        error = _error(state)
        asked_s = error.retry_after_s or 0.0
        if asked_s < max(state.upcoming_sleep, LONG_WAIT_S):
            raise error
        minutes = f" ({asked_s / 60:,.0f} min)" if asked_s >= 120 else ""
        raise ModelUnavailable(
            f"{error}; it asks to wait {asked_s:,.0f} s{minutes}, and all attempts together may take"
            f" {self._allowance_s:,.0f} s (limits.allowance_s)",
            retry_after_s=error.retry_after_s,
            limited=error.limited,
            reached=error.reached,
            usage=error.usage,
        ) from None


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
        return await self.policy.request(counted, partial(self._send, messages))

    async def _send(self, messages: Sequence[Message]) -> Reply:
        """Send the request once, and show it if the model first waits until its endpoint is ready."""
        pause_s: float = getattr(self.model, "pause_s", 0.0)
        if not pause_s:
            return await self.model.complete(messages)
        with self.policy.budget.waiting(pause_s, "as the endpoint's rate limit is used up"):
            return await self.model.complete(messages)

    async def aclose(self) -> None:
        """Close the model's connections."""
        if isinstance(self.model, Closable):
            await self.model.aclose()
