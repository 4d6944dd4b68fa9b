"""The laws of places: so many at once, the first in rank first, none lost."""

import asyncio

import pytest

from icl_loop.runner.scheduler import Rank, Scheduler


async def take(slots: Scheduler, rank: Rank, tape: list[Rank]) -> None:
    """Hold a place for a moment, noting when it was had."""
    async with slots.slot(rank):
        tape.append(rank)
        await asyncio.sleep(0)


@pytest.mark.parametrize("most", [1, 3])
async def test_the_first_in_rank_comes_first(most: int) -> None:
    """Those who wait are called in the order of their ranks, however they came."""
    slots = Scheduler(most)
    tape: list[Rank] = []
    ranks = [(stream, place) for stream in (2, 0, 1) for place in (1, 0)]
    await asyncio.gather(*(take(slots, rank, tape) for rank in ranks))
    assert tape == sorted(ranks)


async def test_streams_beyond_wait_until_they_are_opened() -> None:
    """A stream beyond those open has no place until it is let in, though places are free."""
    slots = Scheduler(5, last_stream=0)
    tape: list[Rank] = []
    waiting = asyncio.gather(*(take(slots, (stream, 0), tape) for stream in range(3)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert tape == [(0, 0)]
    slots.admit(2)
    await waiting
    assert tape == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("steps", range(4))
async def test_whoever_is_cancelled_loses_no_place(steps: int) -> None:
    """Cancelled before or after the call, one who waited leaves the place to the next."""
    slots = Scheduler(1)
    tape: list[Rank] = []
    gone = asyncio.ensure_future(take(slots, (0, 0), []))
    for _ in range(steps):
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(5):
        await take(slots, (1, 0), tape)
    assert tape == [(1, 0)]
