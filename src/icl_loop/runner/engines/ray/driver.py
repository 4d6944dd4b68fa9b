"""Play sessions on the workers of a cluster and permit each of their requests."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import count

from icl_loop.core.errors import ContextOverflow, StoppedShort
from icl_loop.core.messages import Reply
from icl_loop.core.records import Probe
from icl_loop.experiment import Session
from icl_loop.models.retrying import RequestPolicy
from icl_loop.runner.engines.ray.cluster import WorkerLost, result_of
from icl_loop.runner.engines.ray.session_steps import StepResult
from icl_loop.runner.engines.ray.worker_pool import RemoteWorker, WorkerPool
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry

MAX_LOSSES = 3
"""Workers that a session may lose without finishing a turn; the session may be the cause."""


class _MoveSession(Exception):
    """The session should move to a worker that is less busy."""


@dataclass
class Driver:
    """Plays sessions on workers and applies the request policies of the model pool."""

    pool: ModelPool
    workers: WorkerPool

    async def play(self, session: Session, saved: Sequence[Entry]) -> AsyncGenerator[Entry, None]:
        """Yield the entries of a session; move it if its worker is lost or much busier than others.

        Raises:
            StoppedShort: It lost too many workers without finishing a turn.
        """
        known = list(saved)
        known_events = sum(not isinstance(entry, Probe) for entry in known)
        yielded = losses = 0
        lost: RemoteWorker | None = None
        while True:
            worker = await self.workers.least_busy(lost)
            worker.playing += 1
            try:
                async with aclosing(self._play_on(worker, session, known)) as entries:
                    position = 0
                    async for entry in entries:
                        position += not isinstance(entry, Probe)
                        if isinstance(entry, Probe) or position > known_events:
                            known.append(entry)
                            known_events = max(known_events, position)
                        elif position <= yielded:
                            continue  # another worker yielded it before
                        yielded, losses = position, 0
                        yield entry
            except _MoveSession:
                lost = None
            except WorkerLost as error:
                self.workers.replace(worker)
                lost, losses = worker, losses + 1
                if losses == MAX_LOSSES:
                    raise StoppedShort(
                        f"{losses} workers were lost without finishing a turn; the last error: {error}"
                    ) from None
            else:
                return
            finally:
                worker.playing -= 1

    async def _play_on(
        self, worker: RemoteWorker, session: Session, saved: Sequence[Entry]
    ) -> AsyncGenerator[Entry, None]:
        """Yield the entries of a session on one worker, saved turns and notes included."""
        name, policy = session.file_name, self.pool.policy(session)
        try:
            step: StepResult = await result_of(worker.actor.begin.remote(session, saved))
            while True:
                for entry in step.entries:
                    yield entry
                if (tokens := step.next_tokens) is None:
                    break
                if step.entries and self.workers.is_overloaded(worker):
                    raise _MoveSession
                if policy is None:
                    step = await result_of(worker.actor.step.remote(name, 1))
                else:
                    step = await self._permit(worker, name, policy, tokens)
            if step.error is not None:
                raise step.error
        finally:
            worker.actor.drop.remote(name)

    async def _permit(
        self, worker: RemoteWorker, name: str, policy: RequestPolicy, tokens: int
    ) -> StepResult:
        """Permit a request, and its retries, as soon as the policy allows; return the step."""
        attempts = count(1)
        step = StepResult()

        async def attempt() -> Reply:
            nonlocal step
            step = await result_of(worker.actor.step.remote(name, next(attempts)))
            if isinstance(step.outcome, Reply):
                return step.outcome
            raise step.outcome or StoppedShort("a worker did not make the permitted request")

        with suppress(ContextOverflow):  # the session continues with a shorter request
            await policy.request(tokens, attempt)
        return step
