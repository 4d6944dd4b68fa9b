"""Engines: play sessions in this process or on the workers of a Ray cluster."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from icl_loop.experiment import Session
from icl_loop.runner.engines.local import local
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, Saved, play_session

__all__ = ["Engine", "Entry", "PlaySession", "Saved", "local", "play_session"]

PlaySession = Callable[[Session, Saved], AsyncGenerator[Entry, None]]
"""Yields the turns and notes of a session, saved ones included, and the probes not yet saved."""
Engine = Callable[
    [ModelPool, Sequence[Session], asyncio.Event], AbstractAsyncContextManager[PlaySession]
]
"""Opens the models of these sessions where they will be called and returns how to play a session.

Raises InputError if a model cannot be opened. The event is set when the run is told to stop, so
that an engine that is waiting for workers can give up.
"""
