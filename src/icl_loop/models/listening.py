"""How a learner that is no language model understands the messages of a session."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from icl_loop import answers
from icl_loop.encodings import encoding
from icl_loop.errors import EncodingError, InputError, RequestRefused
from icl_loop.messages import JOIN, Message
from icl_loop.wording import Frame, Heard, Wording, open_wording, shipped


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A past turn as it is shown: the picture, the answer given, what was told of it.

    Attributes:
        pixels: Float32, shape (rows * columns,).
        answer: The label that was answered, or None if none can be read.
        heard: What the told phrase means; nothing if it was not understood.
    """

    pixels: NDArray[np.float32]
    answer: str | None
    heard: Heard


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A request as it is understood.

    Attributes:
        wording: The set of sentences in which it is held.
        labels: The labels that may be answered.
        examples: The past turns shown, oldest first.
        pixels: The picture asked about, float32, shape (rows * columns,).
    """

    wording: Wording
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    pixels: NDArray[np.float32]


Picture = NDArray[np.float32]
_NOTHING = Heard(correct=None, label=None)


def signature(messages: Sequence[Message]) -> str:
    """Return what keys the random choices about a request.

    It is made of how many answers are shown, the last of them, and all that was said since. So it
    is the same whether neighbours of one role arrive as one message or apart.
    """
    since: list[str] = []
    for message in reversed(messages):
        since.append(message.text)
        if message.role == "assistant":
            break
    answers_shown = sum(message.role == "assistant" for message in messages)
    said = JOIN.join(reversed(since))
    return hashlib.sha256(f"{answers_shown} {said}".encode()).hexdigest()


class Listener:
    """Understands conversations held in known wordings; what was understood once is remembered."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Listen for the wordings called `names`, or for all shipped ones."""
        self._wordings = [open_wording(name) for name in names or shipped()]
        self._ear = lru_cache(64)(self._tuned)

    def frame(self, messages: Sequence[Message]) -> tuple[Wording, Frame]:
        """Return the wording of a request and what its system text says.

        Raises:
            RequestRefused: No wording that is listened for begins like this.
        """
        ear = self._ear(messages[0].text if messages else "")
        return ear.wording, ear.frame

    def hear(self, messages: Sequence[Message]) -> Conversation:
        """Return the request as understood.

        Told phrases may stand in messages of their own or before the next question.

        Raises:
            RequestRefused: It is not a conversation of ours, or asks about no picture.
        """
        ear = self._ear(messages[0].text if messages else "")
        examples: list[Example] = []
        asked: Picture | None = None
        answer: str | None = None
        heard = _NOTHING
        for message in messages[1:]:
            if message.role == "assistant":
                answer = ear.answer(message.text)
                continue
            told, picture = ear.told_and_asked(message.text)
            if told is not None and told.ago:
                _hear_late(examples, told)
            else:
                heard = told or heard
            if picture is not None:
                if asked is not None:
                    if picture.shape != asked.shape:
                        raise RequestRefused("the pictures of this request differ in size")
                    examples.append(Example(asked.ravel(), answer, heard))
                asked, answer, heard = picture, None, _NOTHING
        if asked is None:
            raise RequestRefused("this request asks about no picture")
        return Conversation(ear.wording, ear.frame.labels, tuple(examples), asked.ravel())

    def _tuned(self, text: str) -> "_Ear":
        for words in self._wordings:
            if frame := words.hear_frame(text):
                return _Ear(words, frame)
        raise RequestRefused(
            "this learner understands only conversations in its own wordings,"
            " and this one does not begin like any of them"
        )


def _hear_late(examples: list[Example], told: Heard) -> None:
    """Add what is told of an earlier answer, if its turn is among those shown."""
    place = len(examples) - told.ago
    if place >= 0:
        examples[place] = replace(examples[place], heard=told)


class _Ear:
    """Understands the messages that follow one system text."""

    def __init__(self, words: Wording, frame: Frame) -> None:
        """Listen for what `words` say about pictures in the encoding and labels of `frame`.

        Raises:
            RequestRefused: There is no such encoding, or the labels cannot be told apart.
        """
        self.wording, self.frame = words, frame
        try:
            self._encoding = encoding(frame.encoding)
            answers.read("", frame.labels, form=words.answer)
        except InputError as error:
            raise RequestRefused(str(error)) from None
        self.told_and_asked = lru_cache(16_384)(self._told_and_asked)
        self.answer = lru_cache(16_384)(self._answer)

    def _told_and_asked(self, text: str) -> tuple[Heard | None, Picture | None]:
        """Return what a message tells of the answer before it, and the picture it asks about."""
        question = None if self._told(text) else self.wording.hear_question(text)
        if question is None:
            return self._told(text), None
        told, image = question
        try:
            return self._told(told), self._encoding.decode(image)
        except EncodingError as error:
            raise RequestRefused(str(error)) from None

    def _told(self, text: str) -> Heard | None:
        heard = self.wording.hear_told(text)
        known = heard is None or heard.label is None or heard.label in self.frame.labels
        return heard if known else None

    def _answer(self, text: str) -> str | None:
        return answers.read(text, self.frame.labels, form=self.wording.answer).answer
