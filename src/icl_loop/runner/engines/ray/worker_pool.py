"""The workers of a run: one per processor of the cluster, while it grows and shrinks."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.runner.engines.ray.cluster import (
    ClusterResources,
    WorkerLost,
    import_ray,
    last_line,
    result_of,
)
from icl_loop.runner.engines.ray.worker import Worker, WorkerSetup
from icl_loop.transcripts.header import VERSION

_log = logging.getLogger(__name__)

START_S = 10.0
"""Seconds to wait for further workers after the first; later ones join during the run."""
REFRESH_S = 1.0
"""Seconds between queries of the cluster's resources."""
POLL_S = 0.1
"""Seconds between checks for a worker."""
FIRST_NOTICE_S = 5.0
"""Seconds without a worker before the first message about it."""
NOTICE_EVERY_S = 30.0
"""Seconds between further messages."""
MAX_FAILED_STARTS = 3
"""Workers in a row that may die while they start."""
MAX_STEPS = 100_000
"""Concurrent calls per worker; in effect unlimited, since the run limits concurrency itself."""


def is_overloaded(playing: int, least: int) -> bool:
    """Return whether a worker that plays `playing` sessions should hand one to the least busy."""
    return playing - least > 1 + playing // 4


@dataclass(eq=False, slots=True)
class RemoteWorker:
    """A worker's actor, Ray's id of its machine, its name, and how many sessions it is playing."""

    actor: Any
    node: str
    name: str
    playing: int = 0


@dataclass
class WorkerPool:
    """Keeps one worker per processor of the cluster, up to `max_workers`.

    It waits at most `wait_s` seconds without any worker, or until `stopping` is set.
    """

    setup: WorkerSetup
    max_workers: int
    wait_s: float
    stopping: asyncio.Event
    _shared_setup: Any = None
    _resources: ClusterResources = field(default_factory=ClusterResources)
    _workers: list[RemoteWorker] = field(default_factory=list)
    _starting: dict[asyncio.Task[None], Any] = field(default_factory=dict)
    _rejections: list[tuple[InputError, str | None]] = field(default_factory=list)
    """Why workers cannot be used, and Ray's ids of their machines if known."""
    _failed_starts: int = 0
    _started: bool = False
    _idle_since: float = field(default_factory=time.monotonic)
    _notice_after_s: float = FIRST_NOTICE_S
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _monitor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the workers; wait for the first one, and up to `START_S` for the others.

        Raises:
            InputError: A worker cannot be used, for example because it cannot open a model.
            StoppedShort: No worker started in time.
        """
        self._shared_setup = import_ray().put(self.setup)
        self._monitor = asyncio.create_task(self._watch_cluster())
        await self._wait_for_worker()
        deadline = time.monotonic() + START_S
        while self._starting and not self._rejections and time.monotonic() < deadline:
            if self.stopping.is_set():
                break
            await asyncio.sleep(POLL_S)
        if self._rejections and not self.stopping.is_set():
            raise self._rejections[0][0]
        self._started = True

    async def least_busy(self, lost: RemoteWorker | None = None) -> RemoteWorker:
        """Return the worker that plays the fewest sessions; wait if there is none.

        Other machines than that of the `lost` worker are preferred: the whole machine may be down.

        Raises:
            InputError: No worker can be used.
            StoppedShort: No worker started in time, or the run was told to stop.
        """
        await self._wait_for_worker()
        if not self._workers:
            raise StoppedShort("the run was stopped while it waited for a worker")
        node = lost.node if lost else None
        return min(self._workers, key=lambda each: (each.node == node, each.playing))

    def is_overloaded(self, worker: RemoteWorker) -> bool:
        """Return whether a session of this worker should move to a less busy one."""
        least = min((each.playing for each in self._workers), default=worker.playing)
        return is_overloaded(worker.playing, least)

    def replace(self, worker: RemoteWorker) -> None:
        """Remove a lost worker, unless that was done, and start another."""
        if worker in self._workers:
            self._workers.remove(worker)
            self._idle_since = time.monotonic()
            import_ray().kill(worker.actor)
            _log.warning("%s was lost; its sessions continue on other workers", worker.name)
            self._start_missing()

    async def close(self) -> None:
        """Kill all workers."""
        self._closing.set()
        if self._monitor is not None:  # Ray must not be shut down while the monitor queries it
            await asyncio.wait((self._monitor,), timeout=REFRESH_S)
            self._monitor.cancel()
        starting = dict(self._starting)
        for task in starting:
            task.cancel()
        for actor in (*starting.values(), *(worker.actor for worker in self._workers)):
            import_ray().kill(actor)
        await asyncio.gather(*starting, return_exceptions=True)

    async def _wait_for_worker(self) -> None:
        while not self._workers and not self.stopping.is_set():
            if self._rejections and not self._starting:
                raise self._rejections[0][0]
            if time.monotonic() - self._idle_since > self.wait_s:
                raise StoppedShort(
                    f"no worker started within {self.wait_s:.0f} s; the Ray cluster has"
                    f" {self._resources}"
                )
            await asyncio.sleep(POLL_S)

    async def _watch_cluster(self) -> None:
        while not self._closing.is_set():
            with suppress(import_ray().exceptions.RayError, RuntimeError, OSError):
                self._resources = await asyncio.to_thread(ClusterResources.now)
            self._start_missing()
            self._log_waiting()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), REFRESH_S)

    def _start_missing(self) -> None:
        """Start the workers that are missing: at least one, and at most one per usable processor.

        A processor whose worker was rejected is not usable.
        """
        nodes = (None, *self._resources.nodes)
        rejected = sum(node in nodes for _, node in self._rejections)
        wanted = max(0 if rejected else 1, self._resources.cpus - rejected)
        for _ in range(min(self.max_workers, wanted) - len(self._workers) - len(self._starting)):
            actor_class = import_ray().remote(Worker)
            actor = actor_class.options(
                num_cpus=1, max_restarts=0, max_concurrency=MAX_STEPS, scheduling_strategy="SPREAD"
            ).remote()
            task = asyncio.create_task(self._connect(actor))
            self._starting[task] = actor
            task.add_done_callback(self._starting.pop)

    def _log_waiting(self) -> None:
        if self._workers:
            self._notice_after_s = FIRST_NOTICE_S
        elif time.monotonic() - self._idle_since > self._notice_after_s:
            self._notice_after_s += NOTICE_EVERY_S
            _log.warning(
                "waiting up to %.0f s for a free CPU; the Ray cluster has %s",
                self.wait_s,
                self._resources,
            )

    async def _connect(self, actor: Any) -> None:  # noqa: ANN401  a Ray handle
        """Add a worker once it has opened the models; otherwise kill it and note the reason."""
        try:
            version, node, name = await result_of(actor.identify.remote())
            if version == VERSION:
                error = await result_of(actor.open.remote(self._shared_setup))
            else:
                error = f"it runs icl_loop {version}, this machine {VERSION}"
        except (WorkerLost, import_ray().exceptions.RayError) as lost:
            import_ray().kill(actor)
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self._reject(InputError(f"a worker did not start: {last_line(lost)}"))
            return
        if error is None:
            self._failed_starts = 0
            self._workers.append(RemoteWorker(actor, node, name))
        else:
            import_ray().kill(actor)
            self._reject(InputError(f"{name}: {error}"), node)

    def _reject(self, reason: InputError, node: str | None = None) -> None:
        self._rejections.append((reason, node))
        if self._started:
            _log.warning("a worker cannot be used: %s", reason)
