"""Simulated models whose replies sometimes contain no valid answer."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from icl_loop.core.messages import Message, Reply
from icl_loop.models.simulated.heuristics import Chance
from icl_loop.models.simulated.simulated_model import check_number


@dataclass(eq=False)
class _FaultyModel(Chance):
    """Guesses, but with probability `rate` its reply contains no answer."""

    _: KW_ONLY
    rate: float = 0.2

    def __post_init__(self) -> None:
        check_number("rate", self.rate, highest=1)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess or a reply without an answer."""
        if self.uniform("fault", messages) >= self.rate:
            return await super().complete(messages)
        faults = self.faults(messages)
        return faults[self.choice(list(faults), "kind of fault", messages)]

    @abstractmethod
    def faults(self, messages: Sequence[Message]) -> dict[str, Reply]:
        """Return the equally likely replies without an answer."""


class BadFormat(_FaultyModel):
    """Guesses, but a share of its replies cannot be parsed."""

    def faults(self, messages: Sequence[Message]) -> dict[str, Reply]:
        """Return replies without an answer, with an unknown label, with two labels, and cut off."""
        prompts, system = self.parser.system(messages)
        first, last = system.labels[0], system.labels[-1]
        unknown = "other"
        while unknown in {label.casefold() for label in system.labels}:
            unknown += "r"
        return {
            "no answer": Reply("Hm."),
            "unknown label": Reply(prompts.reply(unknown)),
            "two labels": Reply(prompts.reply(f"{first} or {last}")),
            "cut off": Reply(prompts.reply(first)[:-1], finish="length"),
        }


class Refuser(_FaultyModel):
    """Guesses, but declines a share of the questions, in words or by a content filter."""

    def faults(self, messages: Sequence[Message]) -> dict[str, Reply]:
        """Return the two kinds of refusal."""
        self.parser.system(messages)
        return {
            "filter": Reply("", finish="content_filter"),
            "words": Reply("I'm sorry, I cannot help with this picture."),
        }
