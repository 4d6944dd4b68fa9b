"""What runs on the machines of a cluster: a worker plays parts, each step when it is told to."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from icl_loop.core.errors import InputError
from icl_loop.experiment import Session
from icl_loop.models import ChatModel
from icl_loop.runner.engines.ray.cluster import library
from icl_loop.runner.engines.ray.worker_setup import Kit
from icl_loop.runner.engines.session_steps import Count, Stage, Step
from icl_loop.runner.model_pool import counting, model_key, uncounted
from icl_loop.runner.session import Saved
from icl_loop.transcripts import VERSION


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who answers.

    Attributes:
        version: Of this program.
        node: Ray's name of its machine.
        machine: The address of its machine.
        process: Its number there.
    """

    version: str
    node: str
    machine: str
    process: int

    def __str__(self) -> str:
        return f"the worker on {self.machine}, process {self.process}"


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker is to play.

    Attributes:
        session: The session, with its samples.
        saved: What is saved of it.
        by_leave: Whether its requests need leave.
        counted: Whether their tokens are to be counted.
    """

    session: Session
    saved: Saved
    by_leave: bool
    counted: bool


Order = tuple[int, int]
"""The number of a part that is to go on, and of the attempt at its next request."""


class Worker:
    """Plays parts in a process of its own, each step when it is told to."""

    def __init__(self) -> None:
        self._models: dict[str, ChatModel] = {}
        self._stages: dict[int, Stage] = {}
        self._under_way: dict[asyncio.Task[Step], int] = {}
        self._finished: list[tuple[int, Step | BaseException]] = []
        self._news = asyncio.Event()

    async def greet(self) -> Greeting:
        """Return who this is."""
        ray = library()
        node = ray.get_runtime_context().get_node_id()
        return Greeting(VERSION, node, ray.util.get_node_ip_address(), os.getpid())

    async def open(self, kit: Kit) -> InputError | None:
        """Open the models; return why it failed if it did."""
        try:
            self._models = kit.models()
        except InputError as error:
            return error
        return None

    async def begin(self, number: int, part: Part) -> Step:
        """Begin to play a part under a number."""
        model = self._models[model_key(part.session)]
        self._stages[number] = Stage(part.session, part.saved, model, _count_of(part))
        return await self._stages[number].go_on(1)

    async def go_on(self, orders: Sequence[Order]) -> None:
        """Let these parts go on."""
        for number, attempt in orders:
            if stage := self._stages.get(number):  # it may have been dropped since
                task = asyncio.create_task(stage.go_on(attempt))
                self._under_way[task] = number
                task.add_done_callback(self._finish)

    async def done(self) -> list[tuple[int, Step | BaseException]]:
        """Return the steps that were finished since this was last asked, at least one."""
        await self._news.wait()
        self._news.clear()
        finished, self._finished = self._finished, []
        return finished

    def _finish(self, task: asyncio.Task[Step]) -> None:
        number = self._under_way.pop(task)
        if not task.cancelled():
            self._finished.append((number, task.exception() or task.result()))
            self._news.set()

    async def drop(self, number: int) -> None:
        """Forget the part of this number."""
        if stage := self._stages.pop(number, None):
            stage.close()


def _count_of(part: Part) -> Count | None:
    """Return what counts the tokens of the requests that a part needs leave for."""
    if not part.by_leave:
        return None
    return counting(part.session.window.counter) if part.counted else uncounted
