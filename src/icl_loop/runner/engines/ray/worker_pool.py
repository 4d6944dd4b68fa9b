"""The workers of a run: as many as the cluster has processors, while it grows and shrinks."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.runner.engines.ray.cluster import Lost, Machines, done, library, one_line
from icl_loop.runner.engines.ray.worker import Greeting, Worker
from icl_loop.runner.engines.ray.worker_connection import Hand
from icl_loop.runner.engines.ray.worker_setup import Kit
from icl_loop.transcripts import VERSION

_log = logging.getLogger(__name__)

WAIT_S = 600.0
"""Seconds that a run waits while it has no worker; a cluster that grows by machines takes minutes."""
GATHER_S = 10.0
"""Seconds that it waits for more workers once there is one; those that come later join it."""
LOOK_S = 1.0
"""Seconds between looks at what the cluster consists of."""
POLL_S = 0.1
"""Seconds between looks at whether there is a worker."""
FIRST_WORD_S = 5.0
"""Seconds of waiting after which the first word is said about it."""
NEXT_WORD_S = 30.0
"""Seconds until the next."""
MOST_STARTS = 3
"""Workers in a row that may be lost while they start."""
AT_ONCE = 100_000
"""Steps that may be under way on a worker; the run's own concurrency is the limit."""


def is_crowded(playing: int, least: int) -> bool:
    """Return whether a session should move from a worker to the one that plays the least."""
    return playing - least > 1 + playing // 4


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a worker cannot be used, and Ray's name of the machine if that is known."""

    reason: InputError
    node: str | None = None


@dataclass
class Crew:
    """The workers of a run: one for each processor of the cluster, as long as it is there.

    Attributes:
        kit: What they are sent once.
        most: How many can be of use.
        wait_s: Seconds that may pass without any.
        stopping: Set once the run is to stop.
    """

    kit: Kit
    most: int
    wait_s: float
    stopping: asyncio.Event
    _kit_sent: Any = None
    _machines: Machines = field(default_factory=Machines)
    _hands: list[Hand] = field(default_factory=list)
    _joining: dict[asyncio.Task[None], Any] = field(default_factory=dict)
    _refusals: list[_Refusal] = field(default_factory=list)
    _lost_starts: int = 0
    _gathered: bool = False
    _alone_since: float = field(default_factory=time.monotonic)
    _word_after_s: float = FIRST_WORD_S
    _tending: asyncio.Task[None] | None = None
    _looking: asyncio.Future[Machines] | None = None

    async def gather(self) -> None:
        """Start the workers, wait for the first, and a little for the others.

        Raises:
            InputError: A model cannot be opened there.
            StoppedShort: There is none.
        """
        self._kit_sent = library().put(self.kit)
        self._tending = asyncio.create_task(self._tend())
        await self._some()
        until = time.monotonic() + GATHER_S
        while self._is_incomplete() and time.monotonic() < until:  # noqa: ASYNC110  it may end by much
            await asyncio.sleep(POLL_S)
        if self._refusals and not self.stopping.is_set():
            raise self._refusals[0].reason
        self._gathered = True

    async def hand(self, after: Greeting | None = None) -> Hand:
        """Return the worker that plays the fewest sessions; wait if there is none.

        Args:
            after: The worker that the session lost; one on another machine is the better choice,
                since what was lost may be all of a machine.

        Raises:
            InputError: A model cannot be opened on any.
            StoppedShort: None came in time, or the run is to stop.
        """
        await self._some()
        if not self._hands:
            raise StoppedShort("the run was stopped while the cluster had no worker for it")
        node = after.node if after else None
        return min(self._hands, key=lambda each: (each.greeting.node == node, each.playing))

    def has_room_beside(self, hand: Hand) -> bool:
        """Return whether another worker plays so much less that a session should move to it."""
        least = min((each.playing for each in self._hands), default=hand.playing)
        return is_crowded(hand.playing, least)

    def replace(self, hand: Hand) -> None:
        """Take a lost worker off the list, and call another; the first to miss it does."""
        if hand in self._hands:
            self._hands.remove(hand)
            self._alone_since = time.monotonic()
            hand.end()
            _log.warning("%s is gone; its sessions go on elsewhere", hand.greeting)
            self._grow()

    async def dismiss(self) -> None:
        """End all workers, whatever they are doing."""
        if self._tending is not None:
            self._tending.cancel()
        if self._looking is not None:  # Ray must not be left while it is asked
            await asyncio.wait((self._looking,), timeout=LOOK_S)
        joining = dict(self._joining)
        for task, actor in joining.items():
            task.cancel()
            library().kill(actor)
        await asyncio.gather(*joining, return_exceptions=True)
        for hand in self._hands:
            hand.end()

    async def _some(self) -> None:
        """Wait until there is a worker, or the run is to stop."""
        while not self._hands and not self.stopping.is_set():
            if self._refusals and not self._joining:
                raise self._refusals[0].reason
            if time.monotonic() - self._alone_since > self.wait_s:
                raise StoppedShort(
                    f"no worker of the Ray cluster came in {self.wait_s:.0f} s;"
                    f" the cluster has {self._machines}"
                )
            await asyncio.sleep(POLL_S)

    async def _tend(self) -> None:
        """Call a worker for every processor that joins the cluster."""
        while True:
            await self._look()
            self._grow()
            self._say_if_waiting()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Look at the cluster; where its head does not answer, it is as it was."""
        self._looking = asyncio.ensure_future(asyncio.to_thread(Machines.now))
        with suppress(library().exceptions.RayError, RuntimeError, OSError):
            self._machines = await asyncio.shield(self._looking)

    def _grow(self) -> None:
        """Call as many workers as there are processors for; one at least, which waits for one."""
        while len(self._hands) + len(self._joining) < self._wanted():
            self._call()

    def _wanted(self) -> int:
        """Return how many workers there should be; where one was refused there is room for none."""
        known = self._machines.nodes
        barred = sum(each.node is None or each.node in known for each in self._refusals)
        return min(self.most, max(0 if barred else 1, self._machines.processors - barred))

    def _is_incomplete(self) -> bool:
        return not self.stopping.is_set() and bool(self._joining) and not self._refusals

    def _say_if_waiting(self) -> None:
        """Say what is waited for if it takes long."""
        if self._hands:
            self._word_after_s = FIRST_WORD_S
        elif time.monotonic() - self._alone_since > self._word_after_s:
            self._word_after_s += NEXT_WORD_S
            _log.warning(
                "waiting for a worker with 1 CPU to start, %.0f s at most; the cluster has %s",
                self.wait_s,
                self._machines,
            )

    def _call(self) -> None:
        """Start a worker; it is on the list once it has opened the models."""
        actor = (
            library()
            .remote(Worker)
            .options(
                num_cpus=1, max_restarts=0, max_concurrency=AT_ONCE, scheduling_strategy="SPREAD"
            )
            .remote()
        )
        task = asyncio.create_task(self._join(actor))
        self._joining[task] = actor
        task.add_done_callback(self._joining.pop)

    async def _join(self, actor: Any) -> None:  # noqa: ANN401  a handle of Ray's
        """Take a worker in, or note why not."""
        try:
            greeting: Greeting = await done(actor.greet.remote())
            refused = await self._opened(actor, greeting)
        except (Lost, library().exceptions.RayError) as error:
            self._note_lost(actor, error)
            return
        if refused is None:
            self._lost_starts = 0
            self._hands.append(Hand(actor, greeting))
        else:
            self._refuse(actor, InputError(f"{greeting}: {refused}"), greeting.node)

    async def _opened(self, actor: Any, greeting: Greeting) -> InputError | None:  # noqa: ANN401  a handle of Ray's
        """Send a worker what it needs; return why it cannot be used."""
        if greeting.version != VERSION:
            return InputError(f"it has icl_loop {greeting.version}, this is {VERSION}")
        refused: InputError | None = await done(actor.open.remote(self._kit_sent))
        return refused

    def _note_lost(self, actor: Any, error: Exception) -> None:  # noqa: ANN401  a handle of Ray's
        """Let another start in place of a worker that was lost at its start, unless that is usual."""
        self._lost_starts += 1
        if self._lost_starts < MOST_STARTS:
            library().kill(actor)
        else:
            self._refuse(actor, InputError(f"a worker did not start: {one_line(error)}"))

    def _refuse(self, actor: Any, reason: InputError, node: str | None = None) -> None:  # noqa: ANN401  a handle of Ray's
        self._refusals.append(_Refusal(reason, node))
        library().kill(actor)
        if self._gathered:
            _log.warning("a worker is not used: %s", reason)
