"""Limit how many sessions play at the same time, and choose which plays next."""

import asyncio
import heapq
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

Rank = tuple[int, int]
"""Priority of a session, lowest first: the stream that needs it, and its position in that stream."""
_FILES_OF_A_SESSION, _OTHER_FILES = 3, 24
"""Open files of a session (its transcript, a connection, and one that is idle) and of the process."""


def playable_at_once(sessions: int) -> int:
    """Return how many of `sessions` can play at once with the files that this process may open."""
    allowed = allow_open_files(_OTHER_FILES + _FILES_OF_A_SESSION * sessions)
    return max(1, min(sessions, (allowed - _OTHER_FILES) // _FILES_OF_A_SESSION))


def allow_open_files(count: int) -> int:
    """Return how many files this process may open, at most `count`.

    The soft limit is raised for that as far as the hard limit allows.
    """
    try:
        import resource  # noqa: PLC0415  not available on Windows
    except ImportError:
        return count
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= count:
        return count
    with suppress(OSError, ValueError):
        raised = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        limit = raised
    return limit


class Scheduler:
    """Hands out slots to sessions in the order of their ranks, up to a last stream."""

    def __init__(self, slots: int, *, last_stream: float = math.inf) -> None:
        """Start with this many free slots, for streams up to `last_stream`."""
        self._free = slots
        self._last_stream = last_stream
        self._arrivals = count()
        self._waiting: list[tuple[Rank, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def slot(self, rank: Rank) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), granted))
        loop.call_soon(self._grant)  # once all sessions that start together are waiting
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release()
            raise
        try:
            yield
        finally:
            self._release()

    def admit(self, last_stream: float) -> None:
        """Let sessions of all streams up to `last_stream` play."""
        self._last_stream = max(self._last_stream, last_stream)
        self._grant()

    def _release(self) -> None:
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting and self._waiting[0][0][0] <= self._last_stream:
            _, _, granted = heapq.heappop(self._waiting)
            if not granted.done():  # its session may have been cancelled
                self._free -= 1
                granted.set_result(None)
