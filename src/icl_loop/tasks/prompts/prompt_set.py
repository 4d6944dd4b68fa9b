"""The schema of a prompt set: every sentence a model reads, filled and parsed.

A reference learner reads the same messages as a model, so every sentence can be parsed again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Annotated, Self, get_args

from pydantic import Field, field_validator, model_validator

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Image, Message, Text, user
from icl_loop.tasks.prompts.feedback_phrases import (
    Announcements,
    FeedbackForms,
    FeedbackPhrases,
    Form,
    ParsedFeedback,
    PromptTable,
    Reading,
    parse_readings,
    phrase_template,
)
from icl_loop.tasks.prompts.side_requests import ChoicePrompts, NotePrompts
from icl_loop.tasks.prompts.templates import (
    LabelTemplate,
    Sentence,
    fill,
    first_line,
    has_sentences,
    has_words,
    match,
    with_placeholders,
)

_LABEL_SEPARATOR = ", "


@dataclass(frozen=True, slots=True)
class ParsedSystem:
    """The meaning of a system text: the labels, none if they are not listed, and the encoding."""

    labels: tuple[str, ...]
    encoding: str


class PromptSection(PromptTable):
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


class PromptSet(PromptTable):
    """Every sentence that a model reads in one session; docs/prompts.md describes the keys."""

    answer: LabelTemplate
    placeholder: Sentence
    no_reply: Sentence = "(no reply)"
    unlisted: Sentence = "(not listed)"
    announced: Announcements
    told: FeedbackPhrases
    forms: FeedbackForms | None = None
    image_text: PromptSection | None = None
    image: ImageSection | None = None
    table: PromptSection | None = None
    text: PromptSection | None = None
    notes: NotePrompts | None = None
    choice: ChoicePrompts | None = None

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

    def openings(self, form: Form = "plain", every: int = 1) -> tuple[str, ...]:
        """Return the lines, as templates, that feedback of this form and questions begin with."""
        phrases = list(dict(self.told).values())
        if self.forms is not None and (form != "plain" or every > 1):
            phrases += [reading.template for reading in self.forms.readings(self.told)]
        questions = [section.question for section in self._sections()]
        return tuple(dict.fromkeys(filter(None, map(first_line, [*phrases, *questions]))))

    @cached_property
    def _readings(self) -> Sequence[Reading]:
        """All phrases that can be told."""
        return [*self.told.readings(), *(self.forms.readings(self.told) if self.forms else ())]

    def check_forms(self, form: Form, every: int) -> None:
        """Raise InputError if the set cannot word feedback of this form."""
        if form == "plain" and every == 1:
            return
        if self.forms is None:
            raise InputError("the prompt set has no table [forms]")
        for name, template, correct in self._readings:
            text = fill(template, label="7", ago="3", answer="5", reason="size")
            answers = map(partial(match, self.answer), text.splitlines())
            if has_words(self.answer) and any(values is not None for values in answers):
                raise InputError(f"{name} and answer cannot be told apart: both can read {text!r}")
            read = self.parse_feedback(text)
            if read != (Reading(name, template, correct).parse(text),):
                raise InputError(f"{name} cannot be told apart from other feedback: {text!r}")

    # ---- sentences ----

    def announce(self, feedback: str, form: Form = "plain", every: int = 1) -> str:
        """Return the announcement of `feedback`, a field of `Announcements`, in this form."""
        return fill(self._announcement(feedback, form, every > 1), every=str(every))

    def _announcement(self, feedback: str, form: Form, batched: bool) -> str:  # noqa: FBT001  one of many
        announced: str = getattr(self.announced, feedback)
        for used, name in ((form in ("reward", "reason"), form), (batched, "batch")):
            if used and self.forms is not None:
                announced = fill(getattr(self.forms.announced, name), announced=announced)
        return announced

    def system_text(
        self,
        labels: Sequence[str],
        encoding: str,
        size: int,
        feedback: str,
        form: Form = "plain",
        every: int = 1,
    ) -> str:
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
            feedback=self.announce(feedback, form, every),
        )

    def reply(self, label: str) -> str:
        """Return the final line that answers `label`."""
        return fill(self.answer, label=label)

    def tell(self, phrase: str, label: str, ago: int = 0) -> str:
        """Return `phrase`, a field of `FeedbackPhrases`, about the answer `ago` before the last."""
        return fill(getattr(self.told, phrase), label=label, ago=str(ago))

    def word(self, told: ParsedFeedback, form: Form = "plain", *, batched: bool = False) -> str:
        """Return the words of feedback; `batched` if it is one of several lines.

        Without an answer to repeat or a reason to give, the form is plain.
        """
        values = {"label": told.label, "ago": str(told.ago)}
        values |= {"answer": told.answer, "reason": told.reason}
        missing = {"echo": told.answer, "reason": told.reason}.get(form, "") is None
        named = (told.correct, told.label is not None, told.ago > 0, batched)
        template = phrase_template(self.told, self.forms, "plain" if missing else form, *named)
        return fill(template, **{name: value for name, value in values.items() if value})

    # ---- their inverses ----

    def parse_system(self, text: str, encoding: str | None = None) -> ParsedSystem | None:
        """Return the meaning of a system text, or None if it is not from this prompt set.

        If an encoding is given, only this one is expected; it may be described like another.
        """
        for section in self._sections():
            for name, description in section.encodings.items():
                if encoding not in (None, name):
                    continue
                for announcement in self._announcements:
                    if not has_sentences(announcement, text):
                        continue
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

    @cached_property
    def _announcements(self) -> Sequence[str]:
        """All announcements, as templates."""
        forms = get_args(Form) if self.forms else ("plain",)
        batched = (False, True) if self.forms else (False,)
        kinds = Announcements.model_fields
        return [self._announcement(*each) for each in product(kinds, forms, batched)]

    def parse_feedback(
        self, text: str, labels: Sequence[str] | None = None
    ) -> tuple[ParsedFeedback, ...]:
        """Return the meaning of feedback, one for each answer that it is about; none if it is none.

        If the labels are given, feedback that names others is not understood.
        """
        return parse_readings(self._readings, text, labels)

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

    @property
    def choice_prompts(self) -> ChoicePrompts:
        """The prompts that ask for a choice; raise InputError if the set has none."""
        if self.choice is None:
            raise InputError("the prompt set has no [choice] table, which task.choice needs")
        return self.choice

    def parse_choice(self, text: str) -> tuple[str, list[str]] | None:
        """Return the text before a request to choose and the encoded samples, or None."""
        if self.choice is not None:
            for before, rest in [("", text), *_splits(text)]:
                if (samples := self.choice.parse(rest)) is not None:
                    return before, samples
        return None

    def _may_precede(self, text: str) -> bool:
        """Return whether `text` can be a message that was merged with the question after it."""
        is_notes = self.notes is not None and match(self.notes.shown, text) is not None
        return is_notes or bool(self.parse_feedback(text))


def section_of(encoding: str) -> str:
    """Return the name of the section that should describe an encoding."""
    return {"png": "image", "table": "table", "text": "text"}.get(encoding, "image_text")


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to split `text` where two messages may have been merged, last one first."""
    end = text.rfind(JOIN)
    while end >= 0:
        yield text[:end], text[end + len(JOIN) :]
        end = text.rfind(JOIN, 0, end + len(JOIN) - 1)  # runs of line breaks overlap
