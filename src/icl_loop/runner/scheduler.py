"""Places in which sessions play: so many at once, the first in rank first."""

import asyncio
import heapq
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

Rank = tuple[int, int]
"""What is needed first comes first: the stream that needs a session, and its place there."""


class Scheduler:
    """Lets so many sessions play at once, in the order of their ranks, up to a stream."""

    def __init__(self, most: int, *, upto: float = math.inf) -> None:
        """Let `most` play at once, of the streams up to `upto` until told otherwise."""
        self._free = most
        self._upto = upto
        self._numbers = count()
        self._waiting: list[tuple[Rank, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self, rank: Rank) -> AsyncIterator[None]:
        """Wait for a place, hold it."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._numbers), called))
        asyncio.get_running_loop().call_soon(self._call)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():  # it was called, and will not come
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._free += 1
        self._call()

    def open(self, upto: float) -> None:
        """Let sessions of the streams up to `upto` play, too."""
        self._upto = max(self._upto, upto)
        self._call()

    def _call(self) -> None:
        """Call those whose turn it is; a session that was given up is passed over."""
        while self._free and self._waiting and self._waiting[0][0][0] <= self._upto:
            _, _, called = heapq.heappop(self._waiting)
            if not called.done():
                self._free -= 1
                called.set_result(None)
