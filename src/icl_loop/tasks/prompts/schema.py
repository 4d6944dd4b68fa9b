"""The schema of a prompt set: every sentence a model reads, and how it becomes a message."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Image, Message, Text, user
from icl_loop.tasks.encodings import ENCODINGS, PngEncoding
from icl_loop.tasks.prompts.templates import (
    AgoTemplate,
    EncodingDescription,
    ImageQuestionTemplate,
    LabelTemplate,
    OptionalSentence,
    QuestionTemplate,
    Sentence,
    SystemTemplate,
    fill,
    with_placeholders,
)

LABEL_SEPARATOR = ", "


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
    """The sentences about one kind of sample: how it is introduced and asked about.

    Attributes:
        system: The system text; contains {labels}, {encoding}, {answer} and {feedback}.
        question: Asks about a sample; contains {sample}.
        encodings: What to say about each encoding; may contain {size} and may be empty.
    """

    system: SystemTemplate
    question: QuestionTemplate
    encodings: dict[str, EncodingDescription]

    def ask(self, sample: str | Image) -> Message:
        """Return the message that asks about an encoded sample; an image is its last part."""
        if isinstance(sample, str):
            return user(fill(self.question, sample=sample))
        caption = self.caption
        return Message("user", (*([Text(caption)] if caption else []), sample))

    @property
    def caption(self) -> str:
        """The text that precedes an image."""
        return fill(self.question, sample="").strip()


class ImageSection(PromptSection):
    """The sentences about images that the model sees."""

    question: ImageQuestionTemplate


class PromptSet(_Table):
    """Every sentence that a model reads in one session.

    Attributes:
        answer: The final line of a reply; contains {label}.
        placeholder: Stands for the label where `answer` is explained.
        announced: How feedback is announced, by kind.
        told: What the model is told after an answer.
        image_text: About images written as text.
        image: About images that are seen.
        table: About table rows.
        text: About texts.
        notes: About the model's own notes.
    """

    answer: LabelTemplate
    placeholder: Sentence
    announced: Announcements
    told: FeedbackPhrases
    image_text: PromptSection | None = None
    image: ImageSection | None = None
    table: PromptSection | None = None
    text: PromptSection | None = None
    notes: NotePrompts | None = None

    def __hash__(self) -> int:
        return hash(self.answer)

    def sections(self) -> Iterator[PromptSection]:
        """Yield the sections that the set has."""
        for section in (self.image_text, self.image, self.table, self.text):
            if section is not None:
                yield section

    def section_for(self, encoding: str) -> PromptSection:
        """Return the section that describes an encoding.

        Raises:
            InputError: No section does.
        """
        for section in self.sections():
            if encoding in section.encodings:
                return section
        name = section_name(encoding)
        if name is not None and getattr(self, name) is None:
            raise InputError(
                f"the prompt set has no section [{name}], which the encoding {encoding!r} needs"
            )
        known = [each for section in self.sections() for each in section.encodings]
        raise InputError(
            f"the prompt set does not describe the encoding {encoding!r}:"
            f" {nearest(encoding, known)}"
        )

    def system_text(self, labels: Sequence[str], encoding: str, size: int, feedback: str) -> str:
        """Return the system text for these labels and this kind of feedback.

        Args:
            labels: The labels that may be answered.
            encoding: Name of the encoding.
            size: Side of an encoded image in pixels.
            feedback: One of the fields of `Announcements`.

        Raises:
            InputError: The set does not describe the encoding or the kind of feedback.
        """
        section = self.section_for(encoding)
        if feedback not in Announcements.model_fields:
            raise InputError(
                f"unknown announcement {feedback!r}: {nearest(feedback, Announcements.model_fields)}"
            )
        return fill(
            section.system,
            labels=LABEL_SEPARATOR.join(labels),
            encoding=fill(section.encodings[encoding], size=str(size)),
            answer=self.reply(self.placeholder),
            feedback=getattr(self.announced, feedback),
        )

    def reply(self, label: str) -> str:
        """Return the final line that answers `label`."""
        return fill(self.answer, label=label)

    def tell(self, phrase: str, label: str, ago: int = 0) -> str:
        """Return a feedback phrase.

        Args:
            phrase: One of the fields of `FeedbackPhrases`.
            label: The correct label, for phrases that reveal it.
            ago: How many answers before the last one the phrase is about.
        """
        return fill(getattr(self.told, phrase), label=label, ago=str(ago))


def section_name(encoding: str) -> str | None:
    """Return the name of the section for a shipped encoding, or None for any other."""
    known = ENCODINGS.get(encoding)
    if known is None:
        return None
    if known.modality != "picture":
        return known.modality
    return "image" if isinstance(known, PngEncoding) else "image_text"
