"""Stages: where a worker plays a session in steps, one request each.

Whoever records a session says when it may go on. So no request is made before the turn before it is
written down, and whoever gives leave keeps all limits: pace, gates and budget of a whole cluster.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from icl_loop.core.errors import IclLoopError, ModelError, ModelUnavailable
from icl_loop.core.messages import Message, Reply
from icl_loop.experiment import Session
from icl_loop.models import ChatModel
from icl_loop.runner.session import Entry, Saved, entries

Count = Callable[[Sequence[Message]], int]

FREELY_S = 0.1
"""Seconds that a session plays in one step where its requests need no leave."""
FREELY = 64
"""Most entries of such a step."""


@runtime_checkable
class Pausing(Protocol):
    """A model whose endpoint may ask for a pause."""

    @property
    def pause_s(self) -> float:
        """Seconds until it may be asked again."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What a session did since it was given leave.

    Attributes:
        entries: What it yielded.
        came: What came of the request that it had leave for: a reply, or why there is none.
        wants: Tokens of the request that it wants leave for, as counted; 0 if it only waits to go
            on; None if it is over.
        end: Why it cannot go on, if it is over and was not played to its end.
        pause_s: Seconds for which the endpoint wants to be left alone.
    """

    entries: tuple[Entry, ...] = ()
    came: Reply | ModelError | None = None
    wants: int | None = None
    end: IclLoopError | None = None
    pause_s: float = 0.0


class Stage:
    """Plays one session, step by step."""

    def __init__(
        self, session: Session, saved: Saved, model: ChatModel, count: Count | None
    ) -> None:
        """Ask `model` with leave only, for as many tokens as `count` says; freely if None."""
        self._model, self._is_free = model, count is None
        asked = model if count is None else _ByLeave(self, model, count)
        self._playing = entries(session, saved, asked)
        self._task: asyncio.Task[None] | None = None
        self._step: asyncio.Future[Step]
        self._leave: asyncio.Future[int]
        self._entries: list[Entry] = []
        self._came: Reply | ModelError | None = None
        self._since = 0.0

    async def go_on(self, attempt: int) -> Step:
        """Play until leave is wanted; `attempt` numbers the attempts at the next request."""
        self._since = time.monotonic()
        self._step = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._play())
        else:
            self._leave.set_result(attempt)
        await asyncio.wait((self._task, self._step), return_when=asyncio.FIRST_COMPLETED)
        return self._step.result() if self._step.done() else self._over(self._task)

    def close(self) -> None:
        """Drop what is being done."""
        if self._task is not None:
            self._task.cancel()

    async def leave(self, counted: int) -> int:
        """Say what was done, and wait until it may go on."""
        self._leave = asyncio.get_running_loop().create_future()
        self._step.set_result(self._done(wants=counted))
        return await self._leave

    def take(self, came: Reply | ModelError) -> None:
        """Take note of what came of a request."""
        self._came = came

    async def _play(self) -> None:
        async for entry in self._playing:
            self._entries.append(entry)
            if self._is_free and self._is_long():
                await self.leave(0)

    def _is_long(self) -> bool:
        return len(self._entries) >= FREELY or time.monotonic() - self._since > FREELY_S

    def _over(self, task: asyncio.Task[None]) -> Step:
        """Return the last step; what was not raised on purpose is raised here."""
        error = task.exception()
        if error is not None and not isinstance(error, IclLoopError):
            raise error
        return self._done(end=error)

    def _done(self, wants: int | None = None, end: IclLoopError | None = None) -> Step:
        done, came = tuple(self._entries), self._came
        self._entries, self._came = [], None
        pause_s = self._model.pause_s if isinstance(self._model, Pausing) else 0.0
        return Step(done, came, wants, end, pause_s)


class _ByLeave:
    """A model that is asked as often as there is leave to."""

    def __init__(self, stage: Stage, model: ChatModel, count: Count) -> None:
        self._stage, self._model, self._count = stage, model, count

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the model's reply.

        Raises:
            ModelError: It refused for good; where it may answer later, leave is wanted again.
        """
        counted = self._count(messages)
        while True:
            attempt = await self._stage.leave(counted)
            start = time.perf_counter()
            try:
                reply = await self._model.complete(messages)
            except ModelUnavailable as error:
                self._stage.take(error)
            except ModelError as error:
                self._stage.take(error)
                raise
            else:
                self._stage.take(reply)
                return replace(reply, attempts=attempt, latency_s=time.perf_counter() - start)
