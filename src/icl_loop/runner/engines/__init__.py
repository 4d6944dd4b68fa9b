"""Engines: play sessions in this process or on the workers of a Ray cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from icl_loop.experiment import Session
from icl_loop.models import ChatModel, Closable
from icl_loop.models.retrying import RetryingModel
from icl_loop.runner.model_pool import ModelPool, model_key
from icl_loop.runner.session import PlaySession, play_session

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
                model, policy = pool.factory(session)(), pool.policy(session)
                models[key] = RetryingModel(model, policy) if policy else model
        yield lambda session, saved: play_session(session, saved, models[model_key(session)])
    finally:
        for model in models.values():
            if isinstance(model, Closable):
                await model.aclose()
