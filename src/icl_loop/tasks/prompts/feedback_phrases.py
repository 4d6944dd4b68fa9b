"""Feedback in every form: what a model is told about its answers, filled and parsed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from icl_loop.tasks.prompts.templates import (
    AgoTemplate,
    LabelTemplate,
    OptionalSentence,
    Sentence,
    fill,
    has_words,
    match,
    with_placeholders,
)

Form = Literal["plain", "echo", "reason", "reward"]
"""How a verdict is worded: plainly, repeating the answer, with a reason, or as a number."""


@dataclass(frozen=True, slots=True)
class ParsedFeedback:
    """The meaning of feedback on one answer.

    Attributes:
        correct: Whether the answer was right; None if the phrase does not say.
        label: The correct label; None if the phrase does not reveal it.
        ago: How many answers before the last one the phrase is about.
        answer: The answer, if the phrase repeats it.
        reason: The reason given with the verdict.
    """

    correct: bool | None
    label: str | None
    ago: int = 0
    answer: str | None = None
    reason: str | None = None


class Reading(NamedTuple):
    """A phrase: the name of its key, its template, and the verdict that it gives."""

    name: str
    template: str
    correct: bool | None

    def parse(self, text: str) -> ParsedFeedback | None:
        """Return what `text` says if it is this phrase."""
        values = match(self.template, text)
        if values is None:
            return None
        ago, answer = int(values.get("ago", 0)), values.get("answer")
        return ParsedFeedback(self.correct, values.get("label"), ago, answer, values.get("reason"))


class PromptTable(BaseModel):
    """A table of sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class FeedbackPhrases(PromptTable):
    """What the model is told after an answer."""

    correct: Sentence
    incorrect: Sentence
    revealed_correct: LabelTemplate
    revealed_incorrect: LabelTemplate
    recorded: Sentence
    earlier_correct: AgoTemplate
    earlier_incorrect: AgoTemplate

    def readings(self) -> Sequence[Reading]:
        """Return the phrases with their verdicts."""
        return [Reading(f"told.{name}", phrase, _verdict_of(name)) for name, phrase in self]

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        """Raise ValueError if two phrases can be the same text."""
        readings = self.readings()
        for reading in readings:
            text = fill(reading.template, label="7", ago="3")
            others = [
                each
                for each in readings
                if each != reading and match(each.template, text) is not None
            ]
            named = [
                each
                for each in others
                if has_words(each.template) and "{label}" not in reading.template
            ]
            if named or parse_readings(readings, text) != (reading.parse(text),):
                raise ValueError(
                    f"{reading.name} and {[*named, *others][0].name} cannot be told apart: both can"
                    f" read {text!r}"
                )
        return self


def _verdict_of(name: str) -> bool | None:
    return None if name.endswith("recorded") else not name.endswith("incorrect")


class Announcements(PromptTable):
    """What the system text says about each kind of feedback."""

    correctness: OptionalSentence
    label: OptionalSentence
    none: OptionalSentence
    positive: OptionalSentence
    negative: OptionalSentence
    delayed: OptionalSentence
    demonstrations: OptionalSentence


class FormAnnouncements(PromptTable):
    """What the system text says about the form of feedback, after the kind is announced."""

    reason: Annotated[str, with_placeholders("announced")]
    reward: Annotated[str, with_placeholders("announced")]
    batch: Annotated[str, with_placeholders("announced", "every")]


class EchoPhrases(PromptTable):
    """Verdicts that repeat the answer."""

    correct: Annotated[str, with_placeholders("answer")]
    incorrect: Annotated[str, with_placeholders("answer")]
    recorded: Annotated[str, with_placeholders("answer")]


class RewardPhrases(PromptTable):
    """Verdicts that are numbers."""

    correct: Sentence
    incorrect: Sentence
    recorded: Sentence


class FeedbackForms(PromptTable):
    """How feedback is worded in forms other than the plain one."""

    announced: FormAnnouncements
    echo: EchoPhrases
    reward: RewardPhrases
    reason: Annotated[str, with_placeholders("verdict", "reason")]
    revealed: Annotated[str, with_placeholders("verdict", "label")]
    earlier: Annotated[str, with_placeholders("verdict", "ago")]

    def readings(self, told: FeedbackPhrases) -> Iterator[Reading]:
        """Yield the phrases in all forms with their verdicts, each template once."""
        known = {template for _, template, _ in told.readings()}
        flags = (False, True)
        for form, correct, *rest in product(
            ("plain", "echo", "reward", "reason"), (True, False, None), flags, flags, flags
        ):
            template = phrase_template(told, self, form, correct, *rest)
            if template not in known:
                known.add(template)
                yield Reading(f"forms.{form}", template, correct)


def phrase_template(
    told: FeedbackPhrases,
    forms: FeedbackForms | None,
    form: str,
    correct: bool | None,  # noqa: FBT001
    reveals: bool,  # noqa: FBT001
    earlier: bool,  # noqa: FBT001
    batched: bool,  # noqa: FBT001
) -> str:
    """Return the template of a phrase.

    Args:
        told: The plain phrases.
        forms: The words of the other forms; None if only plain phrases are told.
        form: A `Form`.
        correct: The verdict; None says that the answer was recorded.
        reveals: Whether the label is revealed, if there is a verdict.
        earlier: Whether it is about an earlier answer.
        batched: Whether it is one of several lines.
    """
    verdict = {True: "correct", False: "incorrect", None: "recorded"}[correct]
    reveals = reveals and correct is not None
    is_plain = form in ("plain", "reason")
    if is_plain and reveals:
        template = getattr(told, f"revealed_{verdict}")
    elif is_plain and earlier and not batched:
        template = told.recorded if correct is None else getattr(told, f"earlier_{verdict}")
        earlier = False
    else:
        template = getattr(told if is_plain else getattr(forms, form), verdict)
    if forms is None:
        return str(template)
    if reveals and not is_plain:
        template = fill(forms.revealed, verdict=template)
    if earlier:
        template = fill(forms.earlier, verdict=template)
    return fill(forms.reason, verdict=template) if form == "reason" else template


def parse_readings(
    readings: Sequence[Reading], text: str, labels: Sequence[str] | None = None
) -> tuple[ParsedFeedback, ...]:
    """Return the meanings of the phrases that `text` consists of, one on each line; else none.

    If several phrases are possible, the one with the fewest characters of its own choice wins, after
    those that repeat an answer among `labels`. Phrases that reveal another label are not possible.
    """
    one = [meaning for each in readings if (meaning := each.parse(text))]
    if labels:
        one = [each for each in one if each.label is None or each.label in labels]
    if one:
        known = {None, *(labels or ())}
        return (min(one, key=lambda each: (each.answer not in known, _free_characters(each))),)
    breaks = max(each.template.count("\n") for each in readings)
    end = -1
    for _ in range(breaks + 1):
        end = text.find("\n", end + 1)
        if end < 0:
            return ()
        first = parse_readings(readings, text[:end], labels)
        if first and (rest := parse_readings(readings, text[end + 1 :], labels)):
            return (*first, *rest)
    return ()


def _free_characters(told: ParsedFeedback) -> int:
    return sum(len(each or "") for each in (told.label, told.answer, told.reason))
