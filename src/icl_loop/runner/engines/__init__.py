"""Engines: play sessions in this process or on the workers of a Ray cluster."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from icl_loop.experiment import Session
from icl_loop.models import ChatModel, Closable, SharedModel
from icl_loop.models.retrying import RetryingModel
from icl_loop.runner.model_pool import ModelPool, model_key
from icl_loop.runner.session import Entry, PlaySession, play_session

Engine = Callable[
    [ModelPool, Sequence[Session], asyncio.Event], AbstractAsyncContextManager[PlaySession]
]
"""Opens the models of these sessions where they will be called and returns how to play a session.

Raises InputError if a model cannot be opened. The event is set when the run is told to stop, so
that an engine that is waiting for workers can give up.
"""


@asynccontextmanager
async def local(
    pool: ModelPool, sessions: Sequence[Session], _stopping: asyncio.Event
) -> AsyncIterator[PlaySession]:
    """Play all sessions in this process, in one event loop."""
    models: dict[str, ChatModel] = {}
    try:
        for session in sessions:
            if (key := model_key(session)) not in models:
                models[key] = pool.factory(session)()
                pool.policy(session)  # fail early if a price is unknown
        yield lambda session, saved: _play(pool, models[model_key(session)], session, saved)
    finally:
        for model in models.values():
            if isinstance(model, Closable):
                await model.aclose()


async def _play(
    pool: ModelPool, model: ChatModel, session: Session, saved: Sequence[Entry]
) -> AsyncGenerator[Entry, None]:
    """Play a session with a prompt cache of its own, if the model can keep one."""
    policy = pool.policy(session)
    with pool.slot(session) as slot:
        if isinstance(model, SharedModel):
            model = model.for_session(session.cache_name, slot)
        if policy:
            model = RetryingModel(model, policy)
        async with aclosing(play_session(session, saved, model)) as entries:
            async for entry in entries:
                yield entry
