"""The engine that plays all sessions in this process, in one event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from icl_loop.experiment import Session
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, Saved, play_session


@asynccontextmanager
async def local(
    pool: ModelPool, sessions: Sequence[Session], _stopping: asyncio.Event
) -> AsyncIterator[Callable[[Session, Saved], AsyncGenerator[Entry, None]]]:
    """Play sessions in this process.

    Raises:
        InputError: An API key is missing, or the cost is limited and a price unknown.
    """
    pool.open(sessions)
    yield lambda session, saved: play_session(session, saved, pool[session])
