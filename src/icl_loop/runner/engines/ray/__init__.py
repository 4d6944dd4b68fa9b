"""The engine that plays sessions on the workers of a Ray cluster.

A worker plays a session up to its next request and returns the finished turns. This process saves
them, waits until rate limits and budget allow the request, and permits it. Machines share no disk:
sessions are sent with their samples, and files that models read are sent once per worker.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from icl_loop.experiment import Session
from icl_loop.runner.engines import Engine
from icl_loop.runner.engines.ray.cluster import cluster, import_ray
from icl_loop.runner.engines.ray.driver import Driver
from icl_loop.runner.engines.ray.worker import WorkerSetup
from icl_loop.runner.engines.ray.worker_pool import WorkerPool
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import PlaySession

WAIT_S = 600.0
"""Seconds that a run waits while it has no worker; adding a machine to a cluster takes minutes."""


def on_ray(address: str | None = None, wait_s: float = WAIT_S) -> Engine:
    """Return the engine for the Ray cluster at `address`.

    Args:
        address: HOST:PORT, or `auto` for the cluster this machine belongs to. If None, the value
            of RAY_ADDRESS, or else a temporary cluster on this machine.
        wait_s: Seconds to wait while the cluster has no free processor.

    Raises:
        InputError: Ray is not installed.
    """
    import_ray()

    @asynccontextmanager
    async def engine(
        pool: ModelPool, sessions: Sequence[Session], stopping: asyncio.Event
    ) -> AsyncIterator[PlaySession]:
        setup = WorkerSetup.of(pool, sessions)
        for session in sessions:
            pool.policy(session)  # fail early if a price is unknown
        with cluster(address):
            workers = WorkerPool(setup, min(len(sessions), pool.concurrency), wait_s, stopping)
            try:
                await workers.start()
                yield Driver(pool, workers).play
            finally:
                await workers.close()

    return engine
