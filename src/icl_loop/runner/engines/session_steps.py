"""Play a session on a worker in steps of one request each, as the driver permits.

The driver permits the next request once the previous turn is on disk and the rate limits and the
budget of the whole cluster allow it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from icl_loop.core.errors import ModelError, ModelUnavailable
from icl_loop.core.messages import Message, Reply
from icl_loop.experiment import Session
from icl_loop.models import ChatModel
from icl_loop.runner.session import Entry, Saved, play_session

CountTokens = Callable[[Sequence[Message]], int]

FREE_STEP_S = 0.1
"""Longest step in seconds if requests need no permission."""
FREE_STEP_ENTRIES = 64
"""Most entries of a step without permission."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step of a session.

    Attributes:
        entries: The entries the session yielded.
        outcome: The outcome of the permitted request; None if no request was made.
        next_tokens: Tokens of the request that now needs permission; 0 if none needs it but the
            session can continue; None if the session has ended.
        error: The error that ended the session, if any.
        pause_s: Seconds for which the endpoint asks not to be called.
    """

    entries: tuple[Entry, ...] = ()
    outcome: Reply | ModelError | None = None
    next_tokens: int | None = None
    error: BaseException | None = None
    pause_s: float = 0.0


class SessionStepper:
    """Plays one session step by step."""

    def __init__(
        self, session: Session, saved: Saved, model: ChatModel, count: CountTokens | None
    ) -> None:
        """Ask permission for every request and state its tokens by `count`; for none if None."""
        self._model, self._is_free = model, count is None
        gated = model if count is None else _GatedModel(self, model, count)
        self._playing = play_session(session, saved, gated)
        self._task: asyncio.Task[None] | None = None
        self._step: asyncio.Future[StepResult]
        self._permission: asyncio.Future[int]
        self._entries: list[Entry] = []
        self._started = 0.0
        self.outcome: Reply | ModelError | None = None

    async def step(self, attempt: int) -> StepResult:
        """Play until permission is needed; `attempt` numbers the attempts at the next request."""
        self._started = time.monotonic()
        self._step = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._play())
        else:
            self._permission.set_result(attempt)
        await asyncio.wait((self._task, self._step), return_when=asyncio.FIRST_COMPLETED)
        return self._step.result() if self._step.done() else self._result(self._task.exception())

    def close(self) -> None:
        """Cancel the session."""
        if self._task is not None:
            self._task.cancel()

    async def permission(self, tokens: int) -> int:
        """End the step, wait for permission and return the number of the attempt."""
        self._permission = asyncio.get_running_loop().create_future()
        self._step.set_result(self._result(next_tokens=tokens))
        return await self._permission

    async def _play(self) -> None:
        async for entry in self._playing:
            self._entries.append(entry)
            elapsed = time.monotonic() - self._started
            if self._is_free and (len(self._entries) >= FREE_STEP_ENTRIES or elapsed > FREE_STEP_S):
                await self.permission(0)

    def _result(
        self, error: BaseException | None = None, next_tokens: int | None = None
    ) -> StepResult:
        entries, outcome = tuple(self._entries), self.outcome
        self._entries, self.outcome = [], None
        pause_s = getattr(self._model, "pause_s", 0.0)  # only models of endpoints have one
        return StepResult(entries, outcome, next_tokens, error, pause_s)


class _GatedModel:
    """A model that waits for permission before each request."""

    def __init__(self, stepper: SessionStepper, model: ChatModel, count: CountTokens) -> None:
        self._stepper, self._model, self._count = stepper, model, count

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the model's reply; retry, with permission, while the model is unavailable.

        Raises:
            ModelError: The model rejected the request.
        """
        tokens = self._count(messages)
        while True:
            attempt = await self._stepper.permission(tokens)
            start = time.perf_counter()
            try:
                reply = await self._model.complete(messages)
            except ModelUnavailable as error:
                self._stepper.outcome = error
            except ModelError as error:
                self._stepper.outcome = error
                raise
            else:
                self._stepper.outcome = reply
                return replace(reply, attempts=attempt, latency_s=time.perf_counter() - start)
