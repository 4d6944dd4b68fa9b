"""The way back from a sentence to its meaning.

A reference learner reads the same messages as a model, so it has to parse them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Image, Message
from icl_loop.tasks.prompts.schema import (
    LABEL_SEPARATOR,
    PromptSection,
    PromptSet,
)
from icl_loop.tasks.prompts.templates import fill, pattern

_CORRECT = {
    "correct": True,
    "incorrect": False,
    "revealed_correct": True,
    "revealed_incorrect": False,
    "recorded": None,
    "earlier_correct": True,
    "earlier_incorrect": False,
}


@dataclass(frozen=True, slots=True)
class ParsedFeedback:
    """The meaning of a feedback phrase.

    Attributes:
        correct: Whether the answer was right; None if the phrase does not say.
        label: The correct label; None if the phrase does not reveal it.
        ago: How many answers before the last one the phrase is about.
    """

    correct: bool | None
    label: str | None
    ago: int = 0


@dataclass(frozen=True, slots=True)
class ParsedSystem:
    """The meaning of a system text: the labels, and the name of the encoding."""

    labels: tuple[str, ...]
    encoding: str


class PromptParser:
    """Parses the messages that a prompt set can produce."""

    def __init__(self, prompts: PromptSet) -> None:
        self.prompts = prompts

    def parse_system(self, text: str, encoding: str | None = None) -> ParsedSystem | None:
        """Return the meaning of a system text, or None if it is not from this prompt set.

        Args:
            text: The text.
            encoding: The encoding to expect; any if None. It decides between encodings that have
                the same description.
        """
        for section in self.prompts.sections():
            for name in section.encodings:
                if encoding in (None, name) and (labels := self._labels(text, section, name)):
                    return ParsedSystem(labels, name)
        return None

    def _labels(self, text: str, section: PromptSection, encoding: str) -> tuple[str, ...] | None:
        """Return the labels in a system text about this encoding, or None if it is not one."""
        for announcement in self.prompts.announced.model_dump().values():
            template = fill(
                section.system,
                encoding=section.encodings[encoding],
                answer=self.prompts.reply(self.prompts.placeholder),
                feedback=announcement,
            )
            if match := pattern(template).fullmatch(text):
                return tuple(match["labels"].split(LABEL_SEPARATOR))
        return None

    def parse_feedback(self, text: str) -> ParsedFeedback | None:
        """Return the meaning of a feedback phrase, or None if `text` is none.

        If several phrases match, the one with the shortest label wins.
        """
        found = [
            ParsedFeedback(_CORRECT[name], values.get("label"), int(values.get("ago", 0)))
            for name, phrase in self.prompts.told.model_dump().items()
            if (values := _parse(phrase, text)) is not None
        ]
        return min(found, key=lambda each: len(each.label or ""), default=None)

    def parse_question(self, text: str, encoding: str) -> tuple[str, str] | None:
        """Return the text before a question and the encoded sample, or None if it asks nothing.

        Neighbouring messages of one role may have been merged, so feedback or notes can precede
        the question.
        """
        question = self.prompts.section_for(encoding).question
        splits = list(_splits(text))
        known = [(before, rest) for before, rest in splits if self._may_precede(before)]
        for before, rest in [*known, ("", text), *splits]:
            if (values := _parse(question, rest)) is not None:
                return before, values["sample"]
        return None

    def parse_image_question(self, message: Message, encoding: str) -> tuple[str, Image] | None:
        """Return the text before a question and the image that is its last part, or None."""
        caption = self.prompts.section_for(encoding).caption
        *others, last = message.parts
        if any(isinstance(part, Image) for part in others) or not isinstance(last, Image):
            return None
        if not message.text.endswith(caption):
            return None
        return message.text.removesuffix(caption).rstrip(), last

    def parse_notes_request(self, text: str) -> str | None:
        """Return the text before a request for notes, or None if `text` does not end in one."""
        if self.prompts.notes is not None:
            for before, rest in [("", text), *_splits(text)]:
                if _parse(self.prompts.notes.asked, rest) is not None:
                    return before
        return None

    def _may_precede(self, text: str) -> bool:
        """Return whether `text` can be a message that was merged with the question after it."""
        notes = self.prompts.notes
        is_notes = notes is not None and _parse(notes.shown, text) is not None
        return is_notes or self.parse_feedback(text) is not None


@lru_cache(16)
def parser(prompts: PromptSet) -> PromptParser:
    """Return the parser of a prompt set."""
    return PromptParser(prompts)


def check_distinct(prompts: PromptSet) -> None:
    """Raise InputError if two feedback phrases of a prompt set cannot be told apart."""
    label, ago = "7", 3
    for phrase, correct in _CORRECT.items():
        text = prompts.tell(phrase, label, ago)
        meaning = ParsedFeedback(
            correct,
            label if phrase.startswith("revealed") else None,
            ago if phrase.startswith("earlier") else 0,
        )
        if PromptParser(prompts).parse_feedback(text) != meaning:
            others = [
                n for n, each in prompts.told if n != phrase and _parse(each, text) is not None
            ]
            raise InputError(
                f"told.{phrase} and told.{others[0]} cannot be told apart: both can read {text!r}"
            )


def _parse(template: str, text: str) -> dict[str, str] | None:
    """Return the values with which `template` becomes `text`, or None if it cannot."""
    match = pattern(template).fullmatch(text)
    return match.groupdict() if match else None


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to split `text` where two messages may have been merged, last one first."""
    end = text.rfind(JOIN)
    while end >= 0:
        yield text[:end], text[end + len(JOIN) :]
        end = text.rfind(JOIN, 0, end)
