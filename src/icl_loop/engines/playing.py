"""Playing one session: its turns, and the probes where they are due."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from icl_loop.experiment import Session
from icl_loop.loop import play, probe
from icl_loop.models import ChatModel, ReplayModel
from icl_loop.records import Probe, Turn

Event = Turn | Probe
"""What a session yields and a transcript holds."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What is saved of a session.

    Attributes:
        turns: The turns, from the first on.
        probes: The probes, in the order in which they were asked.
    """

    turns: tuple[Turn, ...] = ()
    probes: tuple[Probe, ...] = ()

    def and_then(self, event: Event) -> "Saved":
        """Return the same with one event more; a turn that is there already adds nothing."""
        if isinstance(event, Probe):
            return replace(self, probes=(*self.probes, event))
        if event.index < len(self.turns):
            return self
        return replace(self, turns=(*self.turns, event))


async def events(session: Session, saved: Saved, model: ChatModel) -> AsyncGenerator[Event, None]:
    """Play `session`; what is saved of it is derived again, and no request is made for it.

    Yields:
        Every turn, and every probe that is not saved.

    Raises:
        ContextFull: The window has no room for the next request.
        ModelError: The model did not answer.
        ReplayMismatch: A saved turn does not follow.
    """
    replay = ReplayModel(saved.turns, then=model)
    played: list[Turn] = []
    async for probed in _probes(session, saved, model, played):
        yield probed
    async for turn in play(session.task, replay, session.policy, session.window):
        yield turn
        played.append(turn)
        async for probed in _probes(session, saved, model, played):
            yield probed


async def _probes(
    session: Session, saved: Saved, model: ChatModel, played: Sequence[Turn]
) -> AsyncGenerator[Probe, None]:
    """Ask the probes that are due after the turns played, but for those saved already."""
    if len(played) not in session.task.checkpoints or len(played) < len(saved.turns):
        return
    asked = {each.sample for each in saved.probes if each.after_turn == len(played)}
    for sample in session.task.probes:
        if sample.id not in asked:
            yield await probe(session.task, model, session.policy, played, sample, session.window)
