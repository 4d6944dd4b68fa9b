"""How a learner that is no language model understands the messages of a session."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from icl_loop import answers
from icl_loop.encodings import encoding
from icl_loop.errors import EncodingError, InputError, RequestRefused
from icl_loop.messages import Message
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


_NOTHING = Heard(correct=None, label=None)


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
        asked: NDArray[np.float32] | None = None
        answer: str | None = None
        heard = _NOTHING
        for message in messages[1:]:
            if message.role == "assistant":
                answer = ear.answer(message.text)
                continue
            told, picture = ear.question(message.text)
            if told:
                heard = ear.wording.hear_told(told) or _NOTHING
            if picture is not None:
                if asked is not None:
                    examples.append(Example(asked, answer, heard))
                asked, answer, heard = picture, None, _NOTHING
        if asked is None:
            raise RequestRefused("this request asks about no picture")
        return Conversation(ear.wording, ear.frame.labels, tuple(examples), asked)

    def _tuned(self, text: str) -> "_Ear":
        for words in self._wordings:
            if frame := words.hear_frame(text):
                return _Ear(words, frame)
        raise RequestRefused(
            "this learner understands only conversations in its own wordings,"
            " and this one does not begin like any of them"
        )


class _Ear:
    """Understands the messages that follow one system text."""

    def __init__(self, words: Wording, frame: Frame) -> None:
        self.wording, self.frame = words, frame
        self._encoding = encoding(frame.encoding)
        self.question = lru_cache(16_384)(self._question)
        self.answer = lru_cache(16_384)(self._answer)

    def _question(self, text: str) -> tuple[str, NDArray[np.float32] | None]:
        """Return what is told in a message, and the picture it asks about if it asks."""
        question = self.wording.hear_question(text)
        if question is None:
            return text, None
        told, image = question
        try:
            return told, self._encoding.decode(image).ravel()
        except EncodingError as error:
            raise RequestRefused(str(error)) from None

    def _answer(self, text: str) -> str | None:
        try:
            return answers.read(text, self.frame.labels).answer
        except InputError as error:
            raise RequestRefused(str(error)) from None
