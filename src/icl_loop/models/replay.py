"""Replay is a model: it answers from a saved session, and refuses any other conversation."""

from collections.abc import Sequence

from icl_loop.core.errors import ContextOverflow, ReplayMismatch
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.models.chat import ChatModel


class ReplayModel:
    """Answers the turns of a saved session in order, then hands over to a live model.

    With no live model behind it, it replays; with one, it resumes.
    """

    def __init__(self, saved: Sequence[Event | Probe], then: ChatModel | None = None) -> None:
        self._saved = saved
        self._then = then
        self._next = 0
        self._refused = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the saved reply of the next turn or note.

        Raises:
            ContextOverflow: The saved turn was refused as too long this many times; so it is again.
            ReplayMismatch: The request is not the one that was saved, or the session has ended
                and there is no live model.
        """
        index = self._next
        if index < len(self._saved) and self._refused < self._saved[index].overflows:
            self._refused += 1
            raise ContextOverflow("the saved session was told that this is too long")
        self._next, self._refused = index + 1, 0
        if index < len(self._saved):
            saved = self._saved[index]
            request = fingerprint(messages)
            if request != saved.request:
                raise ReplayMismatch(_turn_of(saved), "request", request, saved.request)
            return saved.reply
        if self._then is None:
            last = self._saved[-1] if self._saved else None
            ended = 0 if last is None else _turn_of(last) + isinstance(last, Turn)
            raise ReplayMismatch(ended, "type", expected="turn", found="end")
        return await self._then.complete(messages)


def _turn_of(saved: Event | Probe) -> int:
    """Return the turn that was played, or that would have come next."""
    return saved.index if isinstance(saved, Turn) else saved.after_turn
