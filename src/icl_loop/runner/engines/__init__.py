"""Engines: where sessions are played, in this process or on the workers of a cluster.

An engine is a value that can be called with the models and the sessions of a run, and with what says
that it is to stop. It gives a way to play: from a session, and what is saved of it, to the entries
that a recorder writes down.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from icl_loop.experiment import Session
from icl_loop.runner.engines.local import local
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, Saved, entries

__all__ = ["Engine", "Entry", "Play", "Saved", "entries", "local"]

Play = Callable[[Session, Saved], AsyncGenerator[Entry, None]]
"""Yields every turn and note of a session, saved ones included, and the probes that are not saved."""
Engine = Callable[[ModelPool, Sequence[Session], asyncio.Event], AbstractAsyncContextManager[Play]]
"""Opens the models of these sessions where they are to be asked; raises InputError if it cannot.

The event is set once the run is to stop: whatever else is waited for then, no turn is in flight.
"""
