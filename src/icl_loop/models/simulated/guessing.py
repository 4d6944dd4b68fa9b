"""Participants that look at no picture and listen to no feedback."""

from collections.abc import Sequence

from icl_loop.core.errors import RequestRefused, nearest
from icl_loop.core.messages import Message, Reply
from icl_loop.models.simulated.simulated_model import SimulatedModel, text


class Chance(SimulatedModel):
    """Answers any label, each as likely as the others, whatever it is shown."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with a random label."""
        words, frame = self.listener.frame(messages)
        return Reply(words.reply(self.one_of(frame.labels, "chance", messages)))


class Constant(SimulatedModel):
    """Answers one and the same label."""

    def __init__(
        self, seed: int = 0, prompt_sets: Sequence[str] = (), *, label: str | None = None
    ) -> None:
        """Answer `label`, or the first that may be answered if None."""
        super().__init__(seed, prompt_sets)
        self._label = None if label is None else text("label", label)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the label.

        Raises:
            RequestRefused: The label is not one of those that may be answered.
        """
        words, frame = self.listener.frame(messages)
        label = frame.labels[0] if self._label is None else self._label
        if label not in frame.labels:
            raise RequestRefused(
                f"label {label!r} may not be answered here: {nearest(label, frame.labels)}"
            )
        return Reply(words.reply(label))
