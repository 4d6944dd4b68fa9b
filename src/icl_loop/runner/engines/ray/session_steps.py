"""Play a session on a worker in steps of one request each, as the driver permits.

The driver permits the next request once the previous turn is on disk and the rate limits and the
budget of the whole cluster allow it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from icl_loop.core.errors import ModelError, ModelUnavailable
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.experiment import Session
from icl_loop.models import ChatModel
from icl_loop.runner.model_pool import CountTokens
from icl_loop.runner.session import Entry, play_session

FREE_STEP_ENTRIES = 16
"""Entries of a step if requests need no permission."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step of a session.

    Attributes:
        entries: The entries the session yielded.
        outcome: The outcome of the permitted request; None if no request was made.
        next_tokens: Tokens of the request that now needs permission; 0 if none needs it but the
            session can continue; None if the session has ended.
        error: The error that ended the session, if any.
    """

    entries: tuple[Entry, ...] = ()
    outcome: Reply | ModelError | None = None
    next_tokens: int | None = None
    error: BaseException | None = None


class SessionStepper:
    """Plays one session step by step."""

    def __init__(
        self, session: Session, saved: Sequence[Entry], model: ChatModel, count: CountTokens | None
    ) -> None:
        """Ask permission for every request and state its tokens by `count`; for none if None."""
        self._is_free = count is None
        self._entries: list[Entry] = []
        self.outcome: Reply | ModelError | None = None
        self._permissions: asyncio.Queue[int] = asyncio.Queue()
        self._steps: asyncio.Queue[StepResult] = asyncio.Queue()
        gated = _GatedModel(self, model, count) if count else model
        self._task = asyncio.create_task(self._play(session, saved, gated))
        self._task.add_done_callback(self._end)

    async def step(self, attempt: int | None = None) -> StepResult:
        """Play until permission is needed; `attempt` permits that attempt at the current request."""
        if attempt is not None:
            self._permissions.put_nowait(attempt)
        return await self._steps.get()

    def close(self) -> None:
        """Cancel the session."""
        self._task.cancel()

    async def permission(self, tokens: int) -> int:
        """End the step, wait for permission and return the number of the attempt."""
        self._end_step(next_tokens=tokens)
        return await self._permissions.get()

    async def _play(self, session: Session, saved: Sequence[Entry], model: ChatModel) -> None:
        async for entry in play_session(session, saved, model):
            self._entries.append(entry)
            if self._is_free and len(self._entries) == FREE_STEP_ENTRIES:
                await self.permission(0)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._end_step(None if task.cancelled() else task.exception())

    def _end_step(self, error: BaseException | None = None, next_tokens: int | None = None) -> None:
        step = StepResult(tuple(self._entries), self.outcome, next_tokens, error)
        self._entries, self.outcome = [], None
        self._steps.put_nowait(step)


class _GatedModel:
    """A model that waits for permission before each request."""

    def __init__(self, stepper: SessionStepper, model: ChatModel, count: CountTokens) -> None:
        self._stepper, self._model, self._count = stepper, model, count

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the model's reply; retry, with permission, while the model is unavailable."""
        tokens, failed = self._count(messages), list[Usage]()
        while True:
            attempt = await self._stepper.permission(tokens)
            start = time.perf_counter()
            try:
                reply = await self._model.complete(messages)
            except ModelError as error:
                self._stepper.outcome = error
                failed += [error.usage] if error.usage else []
                if not isinstance(error, ModelUnavailable):
                    raise
            else:
                self._stepper.outcome = reply
                latency_s, usage = time.perf_counter() - start, reply.usage.with_discarded(failed)
                return replace(reply, attempts=attempt, latency_s=latency_s, usage=usage)
