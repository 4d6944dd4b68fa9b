"""How a learner that is no language model understands the messages of a session."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from icl_loop.core.errors import EncodingError, InputError, RequestRefused
from icl_loop.core.messages import JOIN, Image, Message, Reply
from icl_loop.core.records import Modality
from icl_loop.models.features import Features, Perceived, perceived, standardised
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.encodings import PngEncoding, get_encoding
from icl_loop.tasks.prompts import Frame, ParsedFeedback, PromptSet, open_prompt_set, shipped


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A past turn as it is shown: the sample, the answer given, what was told of it.

    Attributes:
        features: What the sample is compared by, float32, shape (features,).
        answer: The label that was answered, or None if none can be read.
        heard: What the told phrase means; nothing if it was not understood.
    """

    features: Features
    answer: str | None
    heard: ParsedFeedback

    @property
    def pixels(self) -> Features:
        """The features, which are the pixels row by row if the sample is a picture."""
        return self.features


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A request as it is understood.

    Attributes:
        prompts: The set of sentences in which it is held.
        labels: The labels that may be answered.
        examples: The past turns shown, oldest first.
        features: What the sample asked about is compared by, float32, shape (features,).
        shown: The text or picture that is shown of it.
    """

    prompts: PromptSet
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    features: Features
    shown: str | Image

    @property
    def pixels(self) -> Features:
        """The features, which are the pixels row by row if the sample is a picture."""
        return self.features


_NOUNS: Mapping[Modality, str] = {"picture": "picture", "table": "record", "text": "text"}
_UNLIKE: Mapping[Modality, str] = {
    "picture": "the pictures of this request differ in size",
    "table": "the records of this request differ in what was measured",
    "text": "the texts of this request cannot be compared",
}
_NOTHING = ParsedFeedback(correct=None, label=None)


def signature(messages: Sequence[Message]) -> str:
    """Return what keys the random choices about a request.

    It is made of how many answers are shown, the last of them, and all that was said since. So it
    is the same whether neighbours of one role arrive as one message or apart.
    """
    since: list[str] = []
    for message in reversed(messages):
        since += _pieces(message)
        if message.role == "assistant":
            break
    answers_shown = sum(message.role == "assistant" for message in messages)
    said = JOIN.join(reversed(since))
    return hashlib.sha256(f"{answers_shown} {said}".encode()).hexdigest()


def _pieces(message: Message) -> list[str]:
    """Return what a message says, its last piece first; a picture is said by its digest."""
    if not message.is_seen:
        return [message.text]
    return [
        hashlib.sha256(part.png).hexdigest() if isinstance(part, Image) else part.text
        for part in reversed(message.parts)
    ]


class ConversationParser:
    """Understands conversations held in known prompt sets; what was understood once is remembered."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Listen for the prompt sets called `names`, or for all shipped ones."""
        self._promptss = [open_prompt_set(name) for name in names or shipped()]
        self._ear = lru_cache(64)(self._tuned)

    def frame(self, messages: Sequence[Message]) -> tuple[PromptSet, Frame]:
        """Return the prompt set of a request and what its system text says.

        Raises:
            RequestRefused: No prompt set that is listened for begins like this.
        """
        ear = self._ear(messages[0].text if messages else "")
        return ear.prompts, ear.frame

    def hear(self, messages: Sequence[Message]) -> Conversation:
        """Return the request as understood.

        Told phrases may stand in messages of their own or before the next question.

        Raises:
            RequestRefused: It is not a conversation of ours, or asks about nothing.
        """
        ear = self._ear(messages[0].text if messages else "")
        examples, asked, _, _ = _listen(ear, messages[1:])
        if asked is None:
            raise RequestRefused(f"this request asks about no {ear.noun}")
        return ear.compared(tuple(examples), asked)

    def notes(self, messages: Sequence[Message]) -> Reply | None:
        """Return the reply to a request that asks for notes; None to any other.

        A learner that is no language model writes down how often each label was right.
        """
        ear = self._ear(messages[0].text if messages else "")
        if not ear.prompts.asks_for_notes(messages[-1].text):
            return None
        examples, asked, answer, heard = _listen(ear, messages[1:])
        if asked is not None:
            examples.append(Example(asked.features, answer, heard))
        right = Counter(map(known_label, examples))
        return Reply("\n".join(f"{label}: {right[label]}" for label in ear.frame.labels))

    def _tuned(self, text: str) -> "_SystemParser":
        for words in self._promptss:
            if frame := words.hear_frame(text):
                return _SystemParser(words, frame)
        raise RequestRefused(
            "this learner understands only conversations in its own prompt sets,"
            " and this one does not begin like any of them"
        )


def _listen(
    ear: "_SystemParser", messages: Sequence[Message]
) -> tuple[list[Example], Perceived | None, str | None, ParsedFeedback]:
    """Return the past turns shown, and the last sample asked about with its answer and verdict."""
    examples: list[Example] = []
    asked: Perceived | None = None
    answer: str | None = None
    heard = _NOTHING
    for message in messages:
        if message.role == "assistant":
            answer = ear.answer(message.text)
            continue
        told, shown = ear.told_and_asked(message)
        if told is not None and told.ago:
            _hear_late(examples, told)
        else:
            heard = told or heard
        if shown is not None:
            if asked is not None:
                if shown.form != asked.form:
                    raise RequestRefused(ear.unlike)
                examples.append(Example(asked.features, answer, heard))
            asked, answer, heard = shown, None, _NOTHING
    return examples, asked, answer, heard


def known_label(example: Example) -> str | None:
    """Return the label that was revealed, or the answer that was confirmed."""
    if example.heard.label is not None:
        return example.heard.label
    return example.answer if example.heard.correct else None


def _hear_late(examples: list[Example], told: ParsedFeedback) -> None:
    """Add what is told of an earlier answer, if its turn is among those shown."""
    place = len(examples) - told.ago
    if place >= 0:
        examples[place] = replace(examples[place], heard=told)


class _SystemParser:
    """Understands the messages that follow one system text."""

    def __init__(self, words: PromptSet, frame: Frame) -> None:
        """Listen for what `words` say about samples in the encoding and labels of `frame`.

        Raises:
            RequestRefused: There is no such encoding, or the labels cannot be told apart.
        """
        self.prompts, self.frame = words, frame
        try:
            self._encoding = get_encoding(frame.encoding)
            parse_answer("", frame.labels, form=words.answer)
        except InputError as error:
            raise RequestRefused(str(error)) from None
        self._sentences = words.about(frame.encoding)
        self.noun, self.unlike = _NOUNS[self._encoding.modality], _UNLIKE[self._encoding.modality]
        self._sees = isinstance(self._encoding, PngEncoding)
        self._of_text = lru_cache(16_384)(self._told_and_written)
        self._of_picture = lru_cache(16_384)(self._told_and_seen)
        self.answer = lru_cache(16_384)(self._answer)

    def told_and_asked(self, message: Message) -> tuple[ParsedFeedback | None, Perceived | None]:
        """Return what a message tells of the answer before it, and the sample it asks about.

        Raises:
            RequestRefused: What it shows is not written in the encoding.
        """
        if self._sees and message.is_seen:
            return self._of_picture(message)
        return self._of_text(message.text)

    def compared(self, examples: tuple[Example, ...], asked: Perceived) -> Conversation:
        """Return the conversation, its features standardised if they were measured."""
        features = asked.features
        if self._encoding.modality == "table":
            *others, features = standardised([*(each.features for each in examples), features])
            examples = tuple(
                replace(each, features=scaled)
                for each, scaled in zip(examples, others, strict=True)
            )
        return Conversation(self.prompts, self.frame.labels, examples, features, asked.shown)

    def _told_and_written(self, text: str) -> tuple[ParsedFeedback | None, Perceived | None]:
        told = self._told(text)
        question = None if told or self._sees else self._sentences.hear_question(text)
        if question is None:
            return told or self._told_before_notes(text), None
        before, written = question
        return self._told(before), self._perceive(written)

    def _told_before_notes(self, text: str) -> ParsedFeedback | None:
        """Return what is told before notes are asked for, if they are."""
        notes = self.prompts.notes
        asking = notes.request.fullmatch(text) if notes else None
        return self._told(asking["before"].rstrip()) if asking else None

    def _told_and_seen(self, message: Message) -> tuple[ParsedFeedback | None, Perceived | None]:
        question = self._sentences.hear_picture(message)
        if question is None:
            raise RequestRefused("a message of this request shows a picture in other words")
        before, picture = question
        return self._told(before), self._perceive(picture)

    def _perceive(self, shown: str | Image) -> Perceived:
        try:
            return perceived(shown, self._encoding.decode(shown))
        except EncodingError as error:
            raise RequestRefused(str(error)) from None

    def _told(self, text: str) -> ParsedFeedback | None:
        heard = self.prompts.hear_told(text)
        known = heard is None or heard.label is None or heard.label in self.frame.labels
        return heard if known else None

    def _answer(self, text: str) -> str | None:
        return parse_answer(text, self.frame.labels, form=self.prompts.answer).answer
