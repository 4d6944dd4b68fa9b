"""Has sessions played by the workers of a cluster, and gives leave for every request."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import count

from icl_loop.core.errors import ContextOverflow, StoppedShort
from icl_loop.core.messages import Reply
from icl_loop.core.records import Probe
from icl_loop.experiment import Session
from icl_loop.models.retrying import RequestPolicy
from icl_loop.runner.engines.ray.cluster import Lost
from icl_loop.runner.engines.ray.worker import Greeting, Part
from icl_loop.runner.engines.ray.worker_connection import Hand
from icl_loop.runner.engines.ray.worker_pool import Crew
from icl_loop.runner.engines.session_steps import Step
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, Saved

MOST_LOSSES = 3
"""Workers that a session may lose without a turn between; it may be what kills them."""


class _Moved(Exception):
    """A session is to go on on a worker that plays less."""


@dataclass
class Driver:
    """Has sessions played by a crew; gives leave for every request, within what the pool allows."""

    pool: ModelPool
    crew: Crew
    _numbers: Iterator[int] = field(default_factory=count)
    _not_before: dict[RequestPolicy, float] = field(default_factory=dict)

    async def play(self, session: Session, saved: Saved) -> AsyncGenerator[Entry, None]:
        """Yield what the session yields, on another worker where one is lost, or plays much less.

        Raises:
            StoppedShort: It lost too many workers in one place.
            IclLoopError: As the session itself.
        """
        known, yielded, losses = saved, 0, 0
        after: Greeting | None = None
        while True:
            hand = await self.crew.hand(after)
            hand.playing += 1
            try:
                async with aclosing(self._on(hand, session, known)) as entries:
                    place = 0
                    async for entry in entries:
                        place += not isinstance(entry, Probe)
                        if isinstance(entry, Probe) or place > len(known.events):
                            known = known.and_then(entry)
                        elif place <= yielded:
                            continue  # it was yielded on another worker
                        yielded, losses = place, 0
                        yield entry
            except _Moved:
                after = None
            except Lost as error:
                self.crew.replace(hand)
                after, losses = hand.greeting, losses + 1
                if losses == MOST_LOSSES:
                    raise StoppedShort(
                        f"{losses} workers were lost in one place, the last one so: {error}"
                    ) from None
            else:
                return
            finally:
                hand.playing -= 1

    async def _on(self, hand: Hand, session: Session, saved: Saved) -> AsyncGenerator[Entry, None]:
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
                if step.entries and self.crew.has_room_beside(hand):
                    raise _Moved
                if terms is None:
                    step = await hand.go_on(number, 1)
                else:
                    step = await self._asked(hand, number, terms, wants)
            if step.end is not None:
                raise step.end
        finally:
            hand.drop(number)

    async def _asked(self, hand: Hand, number: int, terms: RequestPolicy, counted: int) -> Step:
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
            await terms.request(counted, once)
        return step
