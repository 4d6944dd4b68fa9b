"""Participants that listen to what is told but look at no picture: none of them can learn."""

from collections import Counter
from collections.abc import Sequence

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Message, Reply
from icl_loop.models.reference import known_label
from icl_loop.models.simulated.simulated_model import SimulatedModel, text


class WinStayLoseShift(SimulatedModel):
    """Repeats its last answer if that was told correct, else answers any other label.

    With nothing to go on, no answer shown or none that can be read, any label may come.
    """

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the label kept or changed."""
        heard = self.listener.hear(messages)
        last = heard.examples[-1] if heard.examples else None
        if last and last.answer and last.heard.correct:
            return Reply(heard.prompts.reply(last.answer))
        others = [label for label in heard.labels if last is None or label != last.answer]
        return Reply(heard.prompts.reply(self.one_of(others or heard.labels, "shift", messages)))


_PREFERENCES = {"rarest": min, "commonest": max}


class LabelCounter(SimulatedModel):
    """Answers the label that was right least often so far, as far as it was told.

    It is right more often than by chance wherever the labels of a session are balanced, and only
    there.
    """

    def __init__(
        self, seed: int = 0, prompt_sets: Sequence[str] = (), *, prefer: str = "rarest"
    ) -> None:
        """Prefer the `rarest` label or the `commonest`."""
        super().__init__(seed, prompt_sets)
        if text("prefer", prefer) not in _PREFERENCES:
            raise InputError(f"unknown preference {prefer!r}: {nearest(prefer, _PREFERENCES)}")
        self._prefer = _PREFERENCES[prefer]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with one of the labels preferred."""
        heard = self.listener.hear(messages)
        counts = Counter(known_label(example) for example in heard.examples)
        preferred = self._prefer(counts[label] for label in heard.labels)
        equals = [label for label in heard.labels if counts[label] == preferred]
        return Reply(heard.prompts.reply(self.one_of(equals, "count", messages)))
