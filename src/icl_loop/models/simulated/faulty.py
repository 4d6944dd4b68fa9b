"""Simulated models whose replies sometimes contain no valid answer."""

from collections.abc import Sequence

from icl_loop.core.messages import Message, Reply
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.simulated.guessing import Chance
from icl_loop.models.simulated.simulated_model import probability


class BadFormat(Chance):
    """Guesses, but a share of its replies cannot be parsed.

    A quarter of those contain no answer, a quarter name an unknown label, a quarter name two labels,
    and a quarter are cut off at the length limit.
    """

    def __init__(
        self, seed: int = 0, parser: ConversationParser | None = None, *, rate: float = 0.2
    ) -> None:
        """Break the format with probability `rate`."""
        super().__init__(seed, parser)
        self._rate = probability("rate", rate)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess, or a reply that cannot be parsed."""
        if self.uniform("break", messages) >= self._rate:
            return await super().complete(messages)
        prompts, system = self.parser.system(messages)
        first, last = system.labels[0], system.labels[-1]
        replies = {
            "no answer": Reply("Hm."),
            "unknown label": Reply(prompts.reply(_unknown_label(system.labels))),
            "two labels": Reply(prompts.reply(f"{first} or {last}" if first != last else first)),
            "cut off": Reply(prompts.reply(first)[:-1], finish="length"),
        }
        return replies[self.choice(list(replies), "way to break", messages)]


def _unknown_label(labels: Sequence[str]) -> str:
    unknown = "other"
    while unknown in {label.casefold() for label in labels}:
        unknown += "r"
    return unknown


class Refuser(Chance):
    """Guesses, but declines a share of the questions, half in words and half by a content filter."""

    def __init__(
        self, seed: int = 0, parser: ConversationParser | None = None, *, rate: float = 0.2
    ) -> None:
        """Decline with probability `rate`."""
        super().__init__(seed, parser)
        self._rate = probability("rate", rate)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess or a refusal."""
        if self.uniform("refuse", messages) >= self._rate:
            return await super().complete(messages)
        self.parser.system(messages)
        if self.choice(["filter", "words"], "way to refuse", messages) == "filter":
            return Reply("", finish="content_filter")
        return Reply("I'm sorry, I cannot help with this picture.")
