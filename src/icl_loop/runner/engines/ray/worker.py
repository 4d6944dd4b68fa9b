"""The Ray actor that plays sessions, one step per permission."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from icl_loop.core.errors import InputError
from icl_loop.experiment import Session
from icl_loop.models import ChatModel
from icl_loop.runner.engines.ray.cluster import import_ray
from icl_loop.runner.engines.ray.worker_setup import WorkerSetup
from icl_loop.runner.engines.session_steps import SessionStepper, StepResult
from icl_loop.runner.model_pool import count_nothing, model_key, request_counter
from icl_loop.runner.session import Saved
from icl_loop.transcripts import VERSION


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Identifies a worker.

    Attributes:
        version: Its version of icl_loop.
        node: Ray's id of its machine.
        address: The address of its machine.
        pid: Its process id.
    """

    version: str
    node: str
    address: str
    pid: int

    def __str__(self) -> str:
        return f"the worker on {self.address}, process {self.pid}"


Permission = tuple[int, int]
"""The number of a session that may continue, and of the attempt at its next request."""


class Worker:
    """Plays any number of sessions in its own process, each step when it is permitted."""

    def __init__(self) -> None:
        self._models: dict[str, ChatModel] = {}
        self._sessions: dict[int, SessionStepper] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._finished: asyncio.Queue[tuple[int, StepResult]] = asyncio.Queue()

    async def identify(self) -> WorkerIdentity:
        """Return the identity of this worker."""
        ray = import_ray()
        node = ray.get_runtime_context().get_node_id()
        return WorkerIdentity(VERSION, node, ray.util.get_node_ip_address(), os.getpid())

    async def open(self, setup: WorkerSetup) -> InputError | None:
        """Open the models; return the error if one cannot be opened."""
        try:
            self._models = setup.open_models()
        except InputError as error:
            return error
        return None

    async def begin(
        self, number: int, session: Session, saved: Saved, *, gated: bool, counted: bool
    ) -> StepResult:
        """Begin a session and play it up to its first request.

        Args:
            number: Identifies the session in later calls.
            session: The session, with its samples.
            saved: The part of it that is saved.
            gated: Whether its requests need permission.
            counted: Whether their tokens are counted.
        """
        count = request_counter(session.window.counter) if counted else count_nothing
        self._sessions[number] = SessionStepper(
            session, saved, self._models[model_key(session)], count if gated else None
        )
        return await self._sessions[number].step(1)

    async def step(self, permissions: Sequence[Permission]) -> None:
        """Let these sessions continue; `finished` returns their steps."""
        for number, attempt in permissions:
            if session := self._sessions.get(number):  # it may have been dropped
                task = asyncio.create_task(self._step(number, session, attempt))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def finished(self) -> list[tuple[int, StepResult]]:
        """Wait for at least one step and return all steps finished since the last call."""
        finished = [await self._finished.get()]
        while not self._finished.empty():
            finished.append(self._finished.get_nowait())
        return finished

    async def drop(self, number: int) -> None:
        """Cancel a session."""
        if session := self._sessions.pop(number, None):
            session.close()

    async def _step(self, number: int, session: SessionStepper, attempt: int) -> None:
        self._finished.put_nowait((number, await session.step(attempt)))
