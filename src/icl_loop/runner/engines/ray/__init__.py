"""The engine of a Ray cluster: sessions play on workers, and this process writes them down.

A worker plays a session up to its next request and hands over what was answered; this process
writes it down, waits until pace and budget allow the request, and gives leave. No disk is shared: a
session travels with its samples, what its model reads from files is sent once, and its turns come
back.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from icl_loop.experiment import Session
from icl_loop.runner.engines.ray.cluster import cluster, library
from icl_loop.runner.engines.ray.driver import Driver
from icl_loop.runner.engines.ray.worker import Part, Worker
from icl_loop.runner.engines.ray.worker_pool import WAIT_S, Crew
from icl_loop.runner.engines.ray.worker_setup import Kit
from icl_loop.runner.model_pool import ModelPool

if TYPE_CHECKING:
    from icl_loop.runner.engines import Engine, Play

__all__ = ["WAIT_S", "Kit", "Part", "Worker", "cluster", "on_ray"]


def on_ray(address: str | None = None, wait_s: float = WAIT_S) -> "Engine":
    """Return the engine that plays on the Ray cluster at `address`.

    Args:
        address: HOST:PORT, or `auto` for the one that this machine belongs to. If None, what
            RAY_ADDRESS says, or else a cluster of this machine's own for as long as the run takes.
        wait_s: Seconds that the run waits while the cluster has no worker for it.

    Raises:
        InputError: Ray is not installed.
    """
    library()

    @asynccontextmanager
    async def engine(
        pool: ModelPool, sessions: Sequence[Session], stopping: asyncio.Event
    ) -> AsyncIterator["Play"]:
        kit = Kit.of(pool, sessions)
        for session in sessions:
            pool.terms(session)
        with cluster(address):
            crew = Crew(kit, min(len(sessions), pool.at_once), wait_s, stopping)
            try:
                await crew.gather()
                yield Driver(pool, crew).play
            finally:
                await crew.dismiss()

    return engine
