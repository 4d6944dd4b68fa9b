"""The engine of a Ray cluster: sessions play on workers, and this process writes them down.

A worker plays a session up to its next request and hands over what was answered; this process
writes it down, waits until pace and budget allow the request, and gives leave. No disk is shared: a
session travels with its samples, and its turns come back.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from icl_loop.engines.playing import Entry, Saved
from icl_loop.engines.stage import Count, Stage, Step
from icl_loop.errors import ContextOverflow, InputError, StoppedShort
from icl_loop.experiment import Session
from icl_loop.messages import Reply
from icl_loop.models import ChatModel
from icl_loop.models.limits import Terms
from icl_loop.pool import ModelPool, Opening, counting, model_key, uncounted
from icl_loop.records import Probe
from icl_loop.transcripts import VERSION

if TYPE_CHECKING:
    from icl_loop.engines import Engine, Play

OWN_CLUSTER = "local"
"""What Ray calls a cluster of its own on this machine."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray is going to do anyway, without a warning
}
CONNECT_S = 10.0
"""Seconds in which the machine of an address has to answer."""
GATHER_S = 10.0
"""Seconds that a run waits for more workers once there is one."""
JOIN_S = 600.0
"""Seconds that it waits for one; a cluster that grows by machines takes minutes."""
MOST_LOSSES = 3
"""Workers that a session may lose without a turn between; it may be what kills them."""
AT_ONCE = 100_000
"""Steps that may be under way on a worker; the run's own concurrency is the limit."""


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

    async def open(self, openings: Mapping[str, Opening]) -> tuple[str, InputError | None]:
        """Open the models by their keys; return the version of this program, or why it failed."""
        try:
            self._models = {key: opening() for key, opening in openings.items()}
        except InputError as error:
            return VERSION, error
        return VERSION, None

    async def begin(self, number: int, part: Part) -> Step:
        """Begin to play a part under a number."""
        model = self._models[model_key(part.session)]
        try:
            self._stages[number] = Stage(part.session, part.saved, model, _count_of(part))
        except InputError as error:  # the vocabulary of its token counter is not here
            return Step(end=error)
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


def on_ray(address: str | None = None) -> "Engine":
    """Return the engine that plays on the Ray cluster at `address`.

    Args:
        address: HOST:PORT, or `auto` for the one that this machine belongs to. If None, what
            RAY_ADDRESS says, or else a cluster of this machine's own for as long as the run takes.

    Raises:
        InputError: Ray is not installed.
    """
    _ray()

    @asynccontextmanager
    async def engine(pool: ModelPool, sessions: Sequence[Session]) -> AsyncIterator["Play"]:
        openings = {model_key(session): pool.opening(session) for session in sessions}
        for session in sessions:
            pool.terms(session)
        with cluster(address):
            crew = _Crew(openings, most=min(len(sessions), pool.at_once))
            try:
                await crew.gather()
                yield _Driver(pool, crew).play
            finally:
                await crew.dismiss()

    return engine


def _ray() -> Any:  # noqa: ANN401  a module that need not be installed
    """Return Ray, which is not imported before it is asked for."""
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "the engine ray needs the extra [ray]: pip install 'icl-loop[ray]'"
        ) from None
    return ray


@contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[None]:  # noqa: ANN401  Ray's own
    """Join a cluster, or start one, and leave it in the end; one joined before is stayed in.

    Args:
        address: As for `on_ray`.
        options: Of `ray.init`.

    Raises:
        InputError: There is no cluster at the address.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER
    _check(address)
    own = {"include_dashboard": False} if address == OWN_CLUSTER else {}
    with _sigterm_kept():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **own, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster at {address}: {_one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise InputError if there can be no cluster at `address`; Ray would take minutes to see it."""
    if address in (OWN_CLUSTER, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        raise InputError(
            f"a Ray cluster is joined from one of its machines, by HOST:PORT or auto, got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}") from None


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back, which Ray replaces by one that ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if held is not None:  # else it is no handler of Python's
            signal.signal(signal.SIGTERM, held)


def _one_line(error: Exception) -> str:
    """Return what an error of Ray's says, without the traceback that it begins with."""
    return str(error).strip().split("\n")[-1][:300]


class _Lost(Exception):
    """A worker is gone, and with it what it was doing."""


class _Hand:
    """A worker that answers, and the line to it, on which orders and steps go in groups."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401  a handle of Ray's
        self.actor = actor
        self.playing = 0
        self._orders: list[Order] = []
        self._awaited: dict[int, asyncio.Future[Step]] = {}
        self._listening = asyncio.create_task(self._listen())
        self._listening.add_done_callback(self._give_up)

    async def begin(self, number: int, part: Part) -> Step:
        """Have a part played up to its first request.

        Raises:
            _Lost: The worker is gone.
        """
        step: Step = await _done(self.actor.begin.remote(number, part))
        return step

    async def go_on(self, number: int, attempt: int) -> Step:
        """Have a part played on.

        Raises:
            _Lost: The worker is gone.
        """
        if self._listening.done():
            raise _Lost("it had ended before")
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
        self.actor.drop.remote(number)

    def end(self) -> None:
        """End the worker, whatever it is doing."""
        self._listening.cancel()
        _ray().kill(self.actor)

    def _send(self) -> None:
        orders, self._orders = self._orders, []
        self.actor.go_on.remote(orders)

    async def _listen(self) -> None:
        while True:
            for number, step in await _done(self.actor.done.remote()):
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
                awaited.set_exception(error or _Lost("it was ended"))


@dataclass
class _Crew:
    """The workers of a run: one for each processor of the cluster, each lost one replaced."""

    openings: Mapping[str, Opening]
    most: int
    _hands: list[_Hand] = field(default_factory=list)
    _joining: dict[asyncio.Task[None], Any] = field(default_factory=dict)
    _joined: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: InputError | None = None

    async def gather(self) -> None:
        """Start the workers, wait for the first, and a little for the others.

        Raises:
            InputError: A model cannot be opened there.
            StoppedShort: There is none.
        """
        processors = int(_ray().cluster_resources().get("CPU", 1))
        for _ in range(max(1, min(self.most, processors))):
            self._call()
        await self.hand()
        if self._joining:
            await asyncio.wait(self._joining, timeout=GATHER_S)
        if self._refused is not None:
            raise self._refused

    async def hand(self) -> _Hand:
        """Return the worker that plays the fewest sessions; wait if there is none.

        Raises:
            InputError: A model cannot be opened on any.
            StoppedShort: None came in time.
        """
        until = time.monotonic() + JOIN_S
        while not self._hands:
            if not self._joining and self._refused is not None:
                raise self._refused
            if time.monotonic() > until:
                raise StoppedShort(f"no worker of the Ray cluster answered in {JOIN_S:.0f} s")
            self._joined.clear()
            waiting = asyncio.ensure_future(self._joined.wait())
            await asyncio.wait((waiting, *self._joining), timeout=1, return_when="FIRST_COMPLETED")
            waiting.cancel()
        return min(self._hands, key=_playing)

    def replace(self, hand: _Hand) -> None:
        """Take a lost worker off the list and call another; the first to miss it does."""
        if hand in self._hands:
            self._hands.remove(hand)
            hand.end()
            self._call()

    async def dismiss(self) -> None:
        """End all workers, whatever they are doing."""
        joining = dict(self._joining)
        for task, actor in joining.items():
            task.cancel()
            _ray().kill(actor)
        await asyncio.gather(*joining, return_exceptions=True)
        for hand in self._hands:
            hand.end()

    def _call(self) -> None:
        """Start a worker; it is on the list once it has opened the models."""
        actor = (
            _ray()
            .remote(Worker)
            .options(num_cpus=1, max_restarts=0, max_concurrency=AT_ONCE)
            .remote()
        )
        task = asyncio.create_task(self._join(actor))
        self._joining[task] = actor
        task.add_done_callback(self._joining.pop)

    async def _join(self, actor: Any) -> None:  # noqa: ANN401  a handle of Ray's
        try:
            version, refused = await _done(actor.open.remote(self.openings))
        except (_Lost, _ray().exceptions.RayError) as error:
            version, refused = VERSION, InputError(f"a worker did not start: {_one_line(error)}")
        if version != VERSION:
            refused = InputError(
                f"a worker of the Ray cluster has icl_loop {version}, this is {VERSION}"
            )
        if refused is None:
            self._hands.append(_Hand(actor))
            self._joined.set()
        else:
            self._refused = refused
            _ray().kill(actor)


def _playing(hand: _Hand) -> int:
    return hand.playing


async def _done(result: Awaitable[Any]) -> Any:  # noqa: ANN401  whatever the worker returns
    """Return what a worker returns.

    Raises:
        _Lost: It is gone, or what it returned is.
    """
    errors = _ray().exceptions
    try:
        return await result
    except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError) as error:
        raise _Lost(_one_line(error)) from None


@dataclass
class _Driver:
    """Has sessions played by a crew; gives leave for every request, within what the pool allows."""

    pool: ModelPool
    crew: _Crew
    _numbers: Iterator[int] = field(default_factory=count)
    _not_before: dict[Terms, float] = field(default_factory=dict)

    async def play(self, session: Session, saved: Saved) -> AsyncGenerator[Entry, None]:
        """Yield what the session yields, on another worker where one is lost.

        Raises:
            StoppedShort: It lost too many workers in one place.
            IclLoopError: As the session itself.
        """
        known, yielded, losses = saved, 0, 0
        while True:
            hand = await self.crew.hand()
            hand.playing += 1
            try:
                async with aclosing(self._on(hand, session, known)) as entries:
                    place = 0
                    async for entry in entries:
                        place += not isinstance(entry, Probe)
                        if isinstance(entry, Probe) or place > len(known.events):
                            known = known.and_then(entry)
                        elif place <= yielded:
                            continue  # it was yielded before its worker was lost
                        yielded, losses = place, 0
                        yield entry
            except _Lost as error:
                self.crew.replace(hand)
                losses += 1
                if losses == MOST_LOSSES:
                    raise StoppedShort(
                        f"{losses} workers were lost in one place, the last one so: {error}"
                    ) from None
            else:
                return
            finally:
                hand.playing -= 1

    async def _on(self, hand: _Hand, session: Session, saved: Saved) -> AsyncGenerator[Entry, None]:
        """Yield what the session yields on one worker, the saved turns again."""
        number, terms = next(self._numbers), self.pool.terms(session)
        part = Part(session, saved, by_leave=terms is not None, counted=self.pool.is_counted)
        try:
            step: Step = await hand.begin(number, part)
            while True:
                for entry in step.entries:
                    yield entry
                if (wants := step.wants) is None:
                    break
                if terms is None:
                    step = await hand.go_on(number, 1)
                else:
                    step = await self._asked(hand, number, terms, wants)
            if step.end is not None:
                raise step.end
        finally:
            hand.drop(number)

    async def _asked(self, hand: _Hand, number: int, terms: Terms, counted: int) -> Step:
        """Give leave for a request as soon as the terms allow; return the step that it led to."""
        attempts = count(1)
        step = Step()

        async def once() -> Reply:
            nonlocal step
            await asyncio.sleep(self._not_before.get(terms, 0.0) - time.monotonic())
            step = await hand.go_on(number, next(attempts))
            self._not_before[terms] = max(
                self._not_before.get(terms, 0.0), time.monotonic() + step.pause_s
            )
            if isinstance(step.came, Reply):
                return step.came
            raise step.came or StoppedShort("a worker was given leave, but asked nothing")

        with suppress(ContextOverflow):  # the session goes on with a shorter request
            await terms.ask(counted, once)
        return step
