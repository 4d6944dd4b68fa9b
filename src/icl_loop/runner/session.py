"""Play one session and save its entries as they come."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from icl_loop.context.history import History
from icl_loop.core.errors import ContextFull
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.experiment import Session
from icl_loop.loop import ask_probes, play_events
from icl_loop.models import ChatModel, ReplayModel
from icl_loop.models.chat import AnnealedModel
from icl_loop.transcripts import TranscriptWriter

Entry = Event | Probe
"""What a session yields and its transcript holds."""


PlaySession = Callable[[Session, Sequence[Entry]], AsyncGenerator[Entry, None]]
"""Yields the turns and notes of a session, saved ones included, and the probes not yet saved.

The second argument is the saved part of the session.
"""
OnTurn = Callable[[Session, Turn], None]


async def save_session(
    session: Session,
    play: PlaySession,
    writer: TranscriptWriter,
    on_turn: OnTurn,
    stopping: asyncio.Event,
) -> bool:
    """Play a session into its transcript; return whether it was played to its end.

    `on_turn` is called with every saved turn. If `stopping` is set, the session stops after the
    current turn.
    """
    if writer.end:
        for turn in writer.saved:
            on_turn(session, turn)
        return True
    events = turns = 0
    try:
        async with aclosing(play(session, (*writer.events, *writer.probes))) as entries:
            async for entry in writer.record(entries):
                events += not isinstance(entry, Probe)
                if isinstance(entry, Turn):
                    turns += 1
                    on_turn(session, entry)
                await asyncio.sleep(0)  # a model that never waits must not starve the others
                if stopping.is_set() and events >= len(writer.events):
                    return False
    except ContextFull:
        writer.finish("context_full", turns)
        return False
    # a yoked session ends where its donor did
    writer.finish("complete" if turns == session.turns else "context_full", turns)
    return True


async def play_session(
    session: Session, saved: Sequence[Entry], model: ChatModel
) -> AsyncGenerator[Entry, None]:
    """Play a session: yield every turn and note, and every probe that is not saved.

    Saved replies are used before `model` is asked. A branch yields the shared turns unchanged.

    Raises:
        ContextFull: The next request does not fit the context window.
        ModelError: The model did not answer.
        ReplayMismatch: A saved turn differs from the one derived now.
    """
    history = History.for_task(session.task, session.window)
    if annealing := session.settings.model.annealing:
        model = AnnealedModel(model, lambda: annealing.temperature(len(history.turns)))
    events = [entry for entry in saved if not isinstance(entry, Probe)]
    replay = ReplayModel(events[len(session.shared_events) :], then=model)
    for event in session.shared_events:
        history.add(event)
        yield event
    async for asked in _due_probes(session, saved, model, history):
        yield asked
    async for event in play_events(session.task, replay, session.policy, history):
        yield event
        if isinstance(event, Turn):
            async for asked in _due_probes(session, saved, model, history):
                yield asked


async def _due_probes(
    session: Session, saved: Sequence[Entry], model: ChatModel, history: History
) -> AsyncGenerator[Probe, None]:
    """Ask the probes that are due after the turns in `history` and not saved."""
    if len(history.turns) < sum(isinstance(entry, Turn) for entry in saved):
        return
    probes = [entry for entry in saved if isinstance(entry, Probe)]
    async for asked in ask_probes(session.task, model, session.policy, history, probes):
        yield asked
