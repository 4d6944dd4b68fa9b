"""Simulated models that ignore the samples, so none of them can learn; some reply without an answer."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from icl_loop.core.errors import InputError, RequestRefused, nearest
from icl_loop.core.messages import Message, Reply
from icl_loop.models.simulated.simulated_model import SimulatedModel, check_number, check_text


def _equal(labels: Sequence[str]) -> Mapping[str, float]:
    return dict.fromkeys(labels, 1 / len(labels))


class Chance(SimulatedModel):
    """Answers a random label, each equally likely."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with a random label."""
        prompts, system = self.parser.system(messages)
        return Reply(prompts.reply(self.choice(system.labels, "chance", messages)))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the same probability for every label."""
        return _equal(self.parser.system(messages)[1].labels)


@dataclass(eq=False)
class Constant(SimulatedModel):
    """Always answers `label`, or the session's first label if None."""

    _: KW_ONLY
    label: str | None = None

    def __post_init__(self) -> None:
        if self.label is not None:
            check_text("label", self.label)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the label.

        Raises:
            RequestRefused: The session does not have this label.
        """
        (label,) = self.label_probabilities(messages)
        return Reply(self.parser.system(messages)[0].reply(label))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return certainty of the label; see `complete`."""
        labels = self.parser.system(messages)[1].labels
        label = labels[0] if self.label is None else self.label
        if label not in labels:
            raise RequestRefused(f"the session has no label {label!r}: {nearest(label, labels)}")
        return {label: 1.0}


class WinStayLoseShift(SimulatedModel):
    """Repeats its last answer if that was correct, and switches to another label otherwise.

    If the request shows no answer that can be parsed, it answers any label.
    """

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the last label or another one."""
        prompts, options = self.parser.system(messages)[0], [*self.label_probabilities(messages)]
        return Reply(prompts.reply(self.choice(options, "shift", messages)))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return certainty of the last answer, or the same probability for all others."""
        conversation = self.parser.parse(messages)
        last = conversation.examples[-1] if conversation.examples else None
        if last and last.answer and last.feedback.correct:
            return {last.answer: 1.0}
        others = [each for each in conversation.labels if last is None or each != last.answer]
        return _equal(others or conversation.labels)


@dataclass(eq=False)
class LabelCounter(SimulatedModel):
    """Answers the label that was correct least often so far, or the `commonest` if so set.

    It beats chance only if the labels of a session are balanced.
    """

    _: KW_ONLY
    prefer: str = "rarest"

    def __post_init__(self) -> None:
        if self.prefer not in ("rarest", "commonest"):
            hint = nearest(str(self.prefer), ["rarest", "commonest"])
            raise InputError(f"unknown preference {self.prefer!r}: {hint}")

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with one of the preferred labels."""
        prompts, tied = self.parser.system(messages)[0], [*self.label_probabilities(messages)]
        return Reply(prompts.reply(self.choice(tied, "count", messages)))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the same probability for each of the preferred labels."""
        conversation = self.parser.parse(messages)
        counts = Counter(example.known_label for example in conversation.examples)
        best = min if self.prefer == "rarest" else max
        wanted = best(counts[label] for label in conversation.labels)
        return _equal([label for label in conversation.labels if counts[label] == wanted])


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


@dataclass(eq=False)
class FormatLearner(BadFormat):
    """Learns only how to answer: it guesses, in the right form as soon as the request shows an answer.

    Without a past answer that can be parsed, a share `rate` of its replies cannot be parsed either.
    """

    _: KW_ONLY
    rate: float = 0.9

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a guess, or a reply without an answer if the request shows no answer to imitate."""
        if any(example.answer for example in self.parser.parse(messages).examples):
            return await Chance.complete(self, messages)
        return await super().complete(messages)


class Refuser(_FaultyModel):
    """Guesses, but declines a share of the questions, in words or by a content filter."""

    def faults(self, messages: Sequence[Message]) -> dict[str, Reply]:
        """Return the two kinds of refusal."""
        self.parser.system(messages)
        return {
            "filter": Reply("", finish="content_filter"),
            "words": Reply("I'm sorry, I cannot help with this picture."),
        }
