"""Simulated models that use the feedback but ignore the samples, so none of them can learn."""

from collections import Counter
from collections.abc import Sequence

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Message, Reply
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.simulated.simulated_model import SimulatedModel, text


class WinStayLoseShift(SimulatedModel):
    """Repeats its last answer if that was correct, and switches to another label otherwise.

    If the request shows no answer that can be parsed, it answers any label.
    """

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the last label or another one."""
        conversation = self.parser.parse(messages)
        labels, reply = conversation.labels, conversation.prompts.reply
        last = conversation.examples[-1] if conversation.examples else None
        if last and last.answer and last.feedback.correct:
            return Reply(reply(last.answer))
        others = [label for label in labels if last is None or label != last.answer]
        return Reply(reply(self.choice(others or labels, "shift", messages)))


_PREFERENCES = {"rarest": min, "commonest": max}


class LabelCounter(SimulatedModel):
    """Answers the label that was correct least often so far, or most often.

    It beats chance only if the labels of a session are balanced.
    """

    def __init__(
        self, seed: int = 0, parser: ConversationParser | None = None, *, prefer: str = "rarest"
    ) -> None:
        """Prefer the `rarest` label or the `commonest`."""
        super().__init__(seed, parser)
        if text("prefer", prefer) not in _PREFERENCES:
            raise InputError(f"unknown preference {prefer!r}: {nearest(prefer, _PREFERENCES)}")
        self._prefer = _PREFERENCES[prefer]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with one of the preferred labels."""
        conversation = self.parser.parse(messages)
        counts = Counter(example.known_label for example in conversation.examples)
        wanted = self._prefer(counts[label] for label in conversation.labels)
        tied = [label for label in conversation.labels if counts[label] == wanted]
        return Reply(conversation.prompts.reply(self.choice(tied, "count", messages)))
