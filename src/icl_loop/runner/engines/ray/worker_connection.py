"""The line to one worker, on which orders and steps go in groups."""

import asyncio
from typing import Any

from icl_loop.runner.engines.ray.cluster import Lost, done, library
from icl_loop.runner.engines.ray.worker import Greeting, Order, Part
from icl_loop.runner.engines.session_steps import Step


class Hand:
    """A worker that answers, and the line to it."""

    def __init__(self, actor: Any, greeting: Greeting) -> None:  # noqa: ANN401  a handle of Ray's
        """Listen to the worker that greeted so."""
        self.greeting = greeting
        self.playing = 0
        self._actor = actor
        self._orders: list[Order] = []
        self._awaited: dict[int, asyncio.Future[Step]] = {}
        self._listening = asyncio.create_task(self._listen())
        self._listening.add_done_callback(self._give_up)

    async def begin(self, number: int, part: Part) -> Step:
        """Have a part played up to its first request.

        Raises:
            Lost: The worker is gone.
        """
        step: Step = await done(self._actor.begin.remote(number, part))
        return step

    async def go_on(self, number: int, attempt: int) -> Step:
        """Have a part played on.

        Raises:
            Lost: The worker is gone.
        """
        if self._listening.done():
            raise Lost("it had ended before")
        awaited: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
        self._awaited[number] = awaited
        if not self._orders:
            asyncio.get_running_loop().call_soon(self._send)
        self._orders.append((number, attempt))
        try:
            return await awaited
        finally:
            del self._awaited[number]

    def drop(self, number: int) -> None:
        """Have a part forgotten."""
        self._actor.drop.remote(number)

    def end(self) -> None:
        """End the worker, whatever it is doing."""
        self._listening.cancel()
        library().kill(self._actor)

    def _send(self) -> None:
        orders, self._orders = self._orders, []
        self._actor.go_on.remote(orders)

    async def _listen(self) -> None:
        while True:
            for number, step in await done(self._actor.done.remote()):
                awaited = self._awaited.get(number)
                if awaited is None or awaited.done():
                    continue
                if isinstance(step, Step):
                    awaited.set_result(step)
                else:
                    awaited.set_exception(step)

    def _give_up(self, listening: asyncio.Task[None]) -> None:
        """Let nobody wait for a worker that is not listened to any more."""
        error = None if listening.cancelled() else listening.exception()
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_exception(error or Lost("it was ended"))
