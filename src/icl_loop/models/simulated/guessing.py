"""Simulated models that ignore both the samples and the feedback."""

from collections.abc import Sequence

from icl_loop.core.errors import RequestRefused, nearest
from icl_loop.core.messages import Message, Reply
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.simulated.simulated_model import SimulatedModel, text


class Chance(SimulatedModel):
    """Answers a random label, each equally likely."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with a random label."""
        prompts, system = self.parser.system(messages)
        return Reply(prompts.reply(self.choice(system.labels, "chance", messages)))


class Constant(SimulatedModel):
    """Always answers the same label."""

    def __init__(
        self, seed: int = 0, parser: ConversationParser | None = None, *, label: str | None = None
    ) -> None:
        """Answer `label`, or the session's first label if None."""
        super().__init__(seed, parser)
        self._label = None if label is None else text("label", label)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the label.

        Raises:
            RequestRefused: The session does not have this label.
        """
        prompts, system = self.parser.system(messages)
        label = system.labels[0] if self._label is None else self._label
        if label not in system.labels:
            raise RequestRefused(
                f"the session has no label {label!r}: {nearest(label, system.labels)}"
            )
        return Reply(prompts.reply(label))
