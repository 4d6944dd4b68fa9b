"""Participants whose replies hold no answer, now and then."""

from collections.abc import Callable, Sequence

from icl_loop.core.messages import Message, Reply
from icl_loop.models.simulated.guessing import Chance
from icl_loop.models.simulated.simulated_model import share
from icl_loop.tasks.prompts import Frame, PromptSet


class FormatBreaker(Chance):
    """Guesses, but a share of its replies has another form than was asked for.

    One in four of these says nothing of use, one names a label that does not exist, one names two,
    and one is cut off at its length limit.
    """

    def __init__(
        self, seed: int = 0, prompt_sets: Sequence[str] = (), *, rate: float = 0.2
    ) -> None:
        """Break the form of a share `rate` of the replies."""
        super().__init__(seed, prompt_sets)
        self._rate = share("rate", rate)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess, or a reply that cannot be read as an answer."""
        if self.uniform("break", messages) >= self._rate:
            return await super().complete(messages)
        words, frame = self.listener.frame(messages)
        return _BREAKS[self.one_of(list(_BREAKS), "way to break", messages)](words, frame)


def _empty_words(words: PromptSet, frame: Frame) -> Reply:  # noqa: ARG001  one way among others
    return Reply("Hm.")


def _foreign_label(words: PromptSet, frame: Frame) -> Reply:
    foreign = "other"
    while foreign in {label.casefold() for label in frame.labels}:
        foreign += "r"
    return Reply(words.reply(foreign))


def _two_labels(words: PromptSet, frame: Frame) -> Reply:
    return Reply(words.reply(" or ".join((*frame.labels[:1], *frame.labels[-1:]))))


def _cut_off(words: PromptSet, frame: Frame) -> Reply:
    return Reply(words.reply(frame.labels[0])[:-1], finish="length")


_BREAKS: dict[str, Callable[[PromptSet, Frame], Reply]] = {
    "empty words": _empty_words,
    "foreign label": _foreign_label,
    "two labels": _two_labels,
    "cut off": _cut_off,
}


class Refuser(Chance):
    """Guesses, but declines a share of the questions: in words, or by its filter, as often."""

    def __init__(
        self, seed: int = 0, prompt_sets: Sequence[str] = (), *, rate: float = 0.2
    ) -> None:
        """Decline a share `rate` of the questions."""
        super().__init__(seed, prompt_sets)
        self._rate = share("rate", rate)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess or a refusal."""
        if self.uniform("refuse", messages) >= self._rate:
            return await super().complete(messages)
        self.listener.frame(messages)
        filtered = self.one_of(["filter", "words"], "way to refuse", messages) == "filter"
        return Reply("", finish="content_filter") if filtered else Reply(_REFUSAL)


_REFUSAL = "I'm sorry, I cannot help with this picture."
