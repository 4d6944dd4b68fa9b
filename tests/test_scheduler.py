"""Tests of the scheduler: the number of slots, the order in which they are granted, cancellation."""

import asyncio

import pytest

from icl_loop.runner.scheduler import Rank, Scheduler


async def take_slot(scheduler: Scheduler, rank: Rank, granted: list[Rank]) -> None:
    """Hold a slot for a moment and note when it was granted."""
    async with scheduler.slot(rank):
        granted.append(rank)
        await asyncio.sleep(0)


@pytest.mark.parametrize("slots", [1, 3])
async def test_slots_are_granted_by_rank(slots: int) -> None:
    """Sessions that wait together get slots in the order of their ranks."""
    scheduler = Scheduler(slots)
    granted: list[Rank] = []
    ranks = [(stream, place) for stream in (2, 0, 1) for place in (1, 0)]
    await asyncio.gather(*(take_slot(scheduler, rank, granted) for rank in ranks))
    assert granted == sorted(ranks)


async def test_later_streams_wait_until_they_are_admitted() -> None:
    """A session of a stream beyond the last one admitted gets no slot, even if slots are free."""
    scheduler = Scheduler(5, last_stream=0)
    granted: list[Rank] = []
    waiting = asyncio.gather(*(take_slot(scheduler, (stream, 0), granted) for stream in range(3)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert granted == [(0, 0)]
    scheduler.admit(2)
    await waiting
    assert granted == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancelled_session_frees_its_slot(steps: int) -> None:
    """Cancelled before or after its slot was granted, a session leaves the slot to the next one."""
    scheduler = Scheduler(1)
    granted: list[Rank] = []
    cancelled = asyncio.ensure_future(take_slot(scheduler, (0, 0), []))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    async with asyncio.timeout(5):
        await take_slot(scheduler, (1, 0), granted)
    assert granted == [(1, 0)]
