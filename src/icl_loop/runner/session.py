"""Playing one session: its turns and notes, and the probes where they are due."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from icl_loop.context import History
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.experiment import Session
from icl_loop.loop import play_events, probe
from icl_loop.models import ChatModel, ReplayModel

Entry = Event | Probe
"""What a session yields and a transcript holds."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What is saved of a session.

    Attributes:
        events: The turns, and the notes taken between them.
        probes: The probes, in the order in which they were asked.
    """

    events: tuple[Event, ...] = ()
    probes: tuple[Probe, ...] = ()

    @property
    def turns(self) -> int:
        """How many turns are saved."""
        return sum(isinstance(event, Turn) for event in self.events)

    def and_then(self, entry: Entry) -> "Saved":
        """Return the same with one entry more."""
        if isinstance(entry, Probe):
            return replace(self, probes=(*self.probes, entry))
        return replace(self, events=(*self.events, entry))


async def entries(session: Session, saved: Saved, model: ChatModel) -> AsyncGenerator[Entry, None]:
    """Play `session`; what is saved of it is derived again, and no request is made for it.

    What it shares with a parent is yielded as it is.

    Yields:
        Every turn and note, and every probe that is not saved.

    Raises:
        ContextFull: The window has no room for the next request.
        ModelError: The model did not answer.
        ReplayMismatch: A saved turn does not follow.
    """
    replay = ReplayModel(saved.events[len(session.begun) :], then=model)
    history = History.for_task(session.task, session.window)
    async for probed in _probes(session, saved, model, history, 0):
        yield probed
    async for event in _with_shared(session, replay, history):
        yield event
        if isinstance(event, Turn):
            async for probed in _probes(session, saved, model, history, event.index + 1):
                yield probed


async def _with_shared(
    session: Session, model: ChatModel, history: History
) -> AsyncGenerator[Event, None]:
    """Yield what a session shares with its parent, then what is played."""
    for event in session.begun:
        history.add(event)
        yield event
    async for event in play_events(session.task, model, session.policy, history):
        yield event


async def _probes(
    session: Session, saved: Saved, model: ChatModel, history: History, turns: int
) -> AsyncGenerator[Probe, None]:
    """Ask the probes that are due after so many turns, but for those saved already."""
    if turns not in session.task.checkpoints or turns < saved.turns:
        return
    asked = {each.sample for each in saved.probes if each.after_turn == turns}
    for sample in session.task.probes:
        if sample.id not in asked:
            yield await probe(session.task, model, session.policy, history, sample)
