"""Play one session: its turns and notes, and the probes at its checkpoints."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from icl_loop.context import History
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.experiment import Session
from icl_loop.loop import play_events, probe
from icl_loop.models import ChatModel, ReplayModel

Entry = Event | Probe
"""What a session yields and its transcript holds."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The saved part of a session.

    Attributes:
        events: The turns, and the notes written between them.
        probes: The probes, in the order in which they were asked.
    """

    events: tuple[Event, ...] = ()
    probes: tuple[Probe, ...] = ()

    @property
    def turns(self) -> int:
        """How many turns are saved."""
        return sum(isinstance(event, Turn) for event in self.events)

    def with_entry(self, entry: Entry) -> "Saved":
        """Return a copy with one more entry."""
        if isinstance(entry, Probe):
            return replace(self, probes=(*self.probes, entry))
        return replace(self, events=(*self.events, entry))


async def play_session(
    session: Session, saved: Saved, model: ChatModel
) -> AsyncGenerator[Entry, None]:
    """Play `session`, answering from what is saved before the first request to `model`.

    The turns that a branch shares with its parent are yielded unchanged.

    Yields:
        Every turn and note, and every probe that is not saved.

    Raises:
        ContextFull: The next request does not fit the context window.
        ModelError: The model did not answer.
        ReplayMismatch: A saved turn differs from the one derived now.
    """
    history = History.for_task(session.task, session.window)
    replay = ReplayModel(saved.events[len(session.begun) :], then=model)
    for event in session.begun:
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
    session: Session, saved: Saved, model: ChatModel, history: History
) -> AsyncGenerator[Probe, None]:
    """Ask the probes that are due after the turns in `history` and not saved."""
    turns = len(history.turns)
    if turns not in session.task.checkpoints or turns < saved.turns:
        return
    asked = {each.sample for each in saved.probes if each.after_turn == turns}
    for sample in session.task.probes:
        if sample.id not in asked:
            yield await probe(session.task, model, session.policy, history, sample)
