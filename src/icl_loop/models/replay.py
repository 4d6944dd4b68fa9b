"""A model that answers from a saved session and rejects any other request."""

from collections.abc import Sequence

from icl_loop.core.errors import ContextOverflow, ReplayMismatch
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.models.chat import ChatModel


class ReplayModel:
    """Returns the saved replies in order, then those of a live model.

    Without a live model it replays a session; with one it resumes it.
    """

    def __init__(self, saved: Sequence[Event | Probe], then: ChatModel | None = None) -> None:
        self._saved, self._then = saved, then
        self._next = self._overflows = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the next saved reply, or that of the live model after the last one.

        Raises:
            ContextOverflow: The model rejected a request as too long at this point of the session.
            ReplayMismatch: The request differs from the saved one, or the session has no more
                replies and there is no live model.
        """
        if self._next == len(self._saved):
            if self._then is not None:
                return await self._then.complete(messages)
            last = self._saved[-1] if self._saved else None
            ended = 0 if last is None else _turn_of(last) + isinstance(last, Turn)
            raise ReplayMismatch(ended, "type", expected="turn", found="end")
        saved = self._saved[self._next]
        if self._overflows < saved.overflows:
            self._overflows += 1
            raise ContextOverflow("the model rejected this request as too long")
        self._next, self._overflows = self._next + 1, 0
        request = fingerprint(messages)
        if request != saved.request:
            raise ReplayMismatch(_turn_of(saved), "request", request, saved.request)
        return saved.reply


def _turn_of(saved: Event | Probe) -> int:
    """Return the index of a turn, or of the turn that follows a note or probe."""
    return saved.index if isinstance(saved, Turn) else saved.after_turn
