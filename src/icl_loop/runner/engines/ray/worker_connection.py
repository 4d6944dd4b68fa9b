"""The connection to one worker; permissions and steps travel in batches."""

import asyncio
from typing import Any

from icl_loop.experiment import Session
from icl_loop.runner.engines.ray.cluster import WorkerLost, import_ray, result_of
from icl_loop.runner.engines.ray.worker import Permission, WorkerIdentity
from icl_loop.runner.engines.session_steps import StepResult
from icl_loop.runner.session import Saved


class WorkerConnection:
    """Sends sessions and permissions to a worker and receives their steps.

    Attributes:
        identity: The worker.
        playing: How many sessions it is playing.
    """

    def __init__(self, actor: Any, identity: WorkerIdentity) -> None:  # noqa: ANN401  a Ray handle
        """Connect to the worker behind `actor`."""
        self.identity = identity
        self.playing = 0
        self._actor = actor
        self._permissions: list[Permission] = []
        self._awaited: dict[int, asyncio.Future[StepResult]] = {}
        self._receiving = asyncio.create_task(self._receive())
        self._receiving.add_done_callback(self._fail_awaited)

    async def begin(
        self, number: int, session: Session, saved: Saved, *, gated: bool, counted: bool
    ) -> StepResult:
        """Begin a session; see `Worker.begin`.

        Raises:
            WorkerLost: The worker is lost.
        """
        call = self._actor.begin.remote(number, session, saved, gated=gated, counted=counted)
        step: StepResult = await result_of(call)
        return step

    async def step(self, number: int, attempt: int) -> StepResult:
        """Let a session continue.

        Raises:
            WorkerLost: The worker is lost.
        """
        if self._receiving.done():
            raise WorkerLost("the connection is closed")
        loop = asyncio.get_running_loop()
        awaited: asyncio.Future[StepResult] = loop.create_future()
        self._awaited[number] = awaited
        if not self._permissions:
            loop.call_soon(self._send)
        self._permissions.append((number, attempt))
        try:
            return await awaited
        finally:
            del self._awaited[number]

    def drop(self, number: int) -> None:
        """Cancel a session on the worker."""
        self._actor.drop.remote(number)

    def close(self) -> None:
        """Kill the worker."""
        self._receiving.cancel()
        import_ray().kill(self._actor)

    def _send(self) -> None:
        permissions, self._permissions = self._permissions, []
        self._actor.step.remote(permissions)

    async def _receive(self) -> None:
        while True:
            for number, step in await result_of(self._actor.finished.remote()):
                awaited = self._awaited.get(number)
                if awaited is not None and not awaited.done():
                    awaited.set_result(step)

    def _fail_awaited(self, receiving: asyncio.Task[None]) -> None:
        error = None if receiving.cancelled() else receiving.exception()
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_exception(error or WorkerLost("the connection was closed"))
