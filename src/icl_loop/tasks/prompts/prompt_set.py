"""The schema of a prompt set: every sentence a model reads, filled and parsed.

A reference learner reads the same messages as a model, so every sentence can be parsed again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Image, Message, Text, user
from icl_loop.tasks.prompts.templates import (
    AgoTemplate,
    LabelTemplate,
    OptionalSentence,
    Sentence,
    fill,
    first_line,
    has_words,
    match,
    with_placeholders,
)

_LABEL_SEPARATOR = ", "


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
    """The meaning of a system text: the labels, none if they are not listed, and the encoding."""

    labels: tuple[str, ...]
    encoding: str


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class FeedbackPhrases(_Table):
    """What the model is told after an answer."""

    correct: Sentence
    incorrect: Sentence
    revealed_correct: LabelTemplate
    revealed_incorrect: LabelTemplate
    recorded: Sentence
    earlier_correct: AgoTemplate
    earlier_incorrect: AgoTemplate

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        """Raise ValueError if two phrases can be the same text."""
        for name, phrase in self:
            text = fill(phrase, label="7", ago="3")
            others = [n for n, each in self if n != name and match(each, text) is not None]
            named = [n for n in others if has_words(getattr(self, n)) and "{label}" not in phrase]
            if named or self.parse(text) != _meaning(name, phrase, text):
                raise ValueError(
                    f"told.{name} and told.{[*named, *others][0]} cannot be told apart: both can"
                    f" read {text!r}"
                )
        return self

    def parse(self, text: str) -> ParsedFeedback | None:
        """Return the meaning of a feedback phrase, or None if `text` is not one.

        If several phrases match, the one with the shortest label wins.
        """
        found = [meaning for name, phrase in self if (meaning := _meaning(name, phrase, text))]
        return min(found, key=lambda each: len(each.label or ""), default=None)


def _meaning(name: str, phrase: str, text: str) -> ParsedFeedback | None:
    """Return what `text` says if it is this phrase."""
    values = match(phrase, text)
    if values is None:
        return None
    correct = None if name == "recorded" else not name.endswith("incorrect")
    return ParsedFeedback(correct, values.get("label"), int(values.get("ago", 0)))


class Announcements(_Table):
    """What the system text says about each kind of feedback."""

    correctness: OptionalSentence
    label: OptionalSentence
    none: OptionalSentence
    positive: OptionalSentence
    negative: OptionalSentence
    delayed: OptionalSentence
    demonstrations: OptionalSentence


class NotePrompts(_Table):
    """How the model is asked for notes, and how later requests show them."""

    asked: Annotated[str, with_placeholders("tokens")]
    shown: Annotated[str, with_placeholders("notes")]

    def ask(self, tokens: int) -> str:
        """Return the request for notes of at most `tokens` tokens."""
        return fill(self.asked, tokens=str(tokens))

    def show(self, notes: str) -> str:
        """Return the text that stands for the turns before the notes."""
        return fill(self.shown, notes=notes)


class PromptSection(_Table):
    """The sentences about one kind of sample: how it is introduced and asked about."""

    system: Annotated[str, with_placeholders("labels", "encoding", "answer", "feedback")]
    question: Annotated[str, with_placeholders("sample")]
    encodings: dict[str, Annotated[str, Field(min_length=0), with_placeholders(optional="size")]]

    def ask(self, sample: str | Image) -> Message:
        """Return the message that asks about an encoded sample; an image is its last part."""
        if isinstance(sample, str):
            return user(fill(self.question, sample=sample))
        caption = [Text(self.caption)] if self.caption else []
        return Message("user", (*caption, sample))

    @property
    def caption(self) -> str:
        """The text that precedes an image."""
        return fill(self.question, sample="").strip()


class ImageSection(PromptSection):
    """The sentences about images that the model sees."""

    @field_validator("question")
    @classmethod
    def _check_end(cls, question: str) -> str:
        if not question.endswith("{sample}"):
            raise ValueError(
                "must end in {sample}, because the image is the last part of the message"
            )
        return question


class PromptSet(_Table):
    """Every sentence that a model reads in one session; docs/prompts.md describes the keys."""

    answer: LabelTemplate
    placeholder: Sentence
    no_reply: Sentence = "(no reply)"
    unlisted: Sentence = "(not listed)"
    announced: Announcements
    told: FeedbackPhrases
    image_text: PromptSection | None = None
    image: ImageSection | None = None
    table: PromptSection | None = None
    text: PromptSection | None = None
    notes: NotePrompts | None = None

    def __hash__(self) -> int:
        return hash(self.answer)

    @model_validator(mode="after")
    def _check_answer(self) -> Self:
        """Raise ValueError if feedback can be read as an answer."""
        for name, phrase in self.told if has_words(self.answer) else ():
            for line in fill(phrase, label="7", ago="3").splitlines():
                if match(self.answer, line) is not None:
                    raise ValueError(
                        f"told.{name} and answer cannot be told apart: both can read {line!r}"
                    )
        return self

    def _sections(self) -> list[PromptSection]:
        sections = (self.image_text, self.image, self.table, self.text)
        return [section for section in sections if section is not None]

    def section_for(self, encoding: str) -> PromptSection:
        """Return the section that describes an encoding.

        Raises:
            InputError: No section does.
        """
        for section in self._sections():
            if encoding in section.encodings:
                return section
        raise InputError(
            f"the prompt set does not describe the encoding {encoding!r}; add it to its section"
            f" [{section_of(encoding)}]"
        )

    @cached_property
    def openings(self) -> tuple[str, ...]:
        """The lines, as templates, that feedback and questions begin with."""
        questions = [section.question for section in self._sections()]
        return tuple(filter(None, map(first_line, [*dict(self.told).values(), *questions])))

    # ---- sentences ----

    def system_text(self, labels: Sequence[str], encoding: str, size: int, feedback: str) -> str:
        """Return the system text, which announces `feedback`, a field of `Announcements`.

        Without `labels` it says that they are not listed.

        Raises:
            InputError: The set does not describe the encoding.
        """
        section = self.section_for(encoding)
        return fill(
            section.system,
            labels=_LABEL_SEPARATOR.join(labels) or self.unlisted,
            encoding=fill(section.encodings[encoding], size=str(size)),
            answer=self.reply(self.placeholder),
            feedback=getattr(self.announced, feedback),
        )

    def reply(self, label: str) -> str:
        """Return the final line that answers `label`."""
        return fill(self.answer, label=label)

    def tell(self, phrase: str, label: str, ago: int = 0) -> str:
        """Return `phrase`, a field of `FeedbackPhrases`, about the answer `ago` before the last."""
        return fill(getattr(self.told, phrase), label=label, ago=str(ago))

    # ---- their inverses ----

    def parse_system(self, text: str, encoding: str | None = None) -> ParsedSystem | None:
        """Return the meaning of a system text, or None if it is not from this prompt set.

        If an encoding is given, only this one is expected; it may be described like another.
        """
        for section in self._sections():
            for name, description in section.encodings.items():
                if encoding not in (None, name):
                    continue
                for _, announcement in self.announced:
                    template = fill(
                        section.system,
                        encoding=description,
                        answer=self.reply(self.placeholder),
                        feedback=announcement,
                    )
                    if values := match(template, text):
                        listed = values["labels"]
                        labels = listed.split(_LABEL_SEPARATOR) if listed != self.unlisted else ()
                        return ParsedSystem(tuple(labels), name)
        return None

    def parse_feedback(self, text: str) -> ParsedFeedback | None:
        """Return the meaning of a feedback phrase, or None if `text` is not one."""
        return self.told.parse(text)

    def parse_question(self, text: str, encoding: str) -> tuple[str, str] | None:
        """Return the text before a question and the encoded sample, or None if it asks nothing.

        Neighbouring messages of one role may have been merged, so feedback or notes can precede
        the question.
        """
        question = self.section_for(encoding).question
        splits = [("", text), *_splits(text)]
        for before, rest in sorted(splits, key=lambda split: not self._may_precede(split[0])):
            if (values := match(question, rest)) is not None:
                return before, values["sample"]
        return None

    def parse_image_question(self, message: Message, encoding: str) -> tuple[str, Image] | None:
        """Return the text before a question and the image that is its last part, or None."""
        caption = self.section_for(encoding).caption
        *others, last = message.parts
        if any(isinstance(part, Image) for part in others) or not isinstance(last, Image):
            return None
        if not message.text.endswith(caption):
            return None
        return message.text.removesuffix(caption).rstrip(), last

    def parse_notes_request(self, text: str) -> str | None:
        """Return the text before a request for notes, or None if `text` does not end in one."""
        if self.notes is not None:
            for before, rest in [("", text), *_splits(text)]:
                if match(self.notes.asked, rest) is not None:
                    return before
        return None

    def _may_precede(self, text: str) -> bool:
        """Return whether `text` can be a message that was merged with the question after it."""
        is_notes = self.notes is not None and match(self.notes.shown, text) is not None
        return is_notes or self.parse_feedback(text) is not None


def section_of(encoding: str) -> str:
    """Return the name of the section that should describe an encoding."""
    return {"png": "image", "table": "table", "text": "text"}.get(encoding, "image_text")


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to split `text` where two messages may have been merged, last one first."""
    end = text.rfind(JOIN)
    while end >= 0:
        yield text[:end], text[end + len(JOIN) :]
        end = text.rfind(JOIN, 0, end + len(JOIN) - 1)  # runs of line breaks overlap
