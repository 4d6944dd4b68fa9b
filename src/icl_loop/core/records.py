"""The immutable records of a session, and keyed randomness."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply, assistant, user

Outcome = Literal["ok", "unreadable", "out_of_set", "refusal", "truncated"]
Verdicts = Literal["told", "flipped", "shuffled", "removed"]
"""The verdicts that a probe shows on the past answers: as told, or changed in one of three ways."""
Span = tuple[int, int]
"""First and last index of a run of turns, inclusive."""
Modality = Literal["picture", "table", "text"]
"""The kind of a sample."""
LARGEST = 1e300
"""The largest number allowed in a table, so that rounding cannot overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """A row of a table: named numbers.

    Attributes:
        names: Names of the columns.
        values: Float64, shape (columns,), absolute values at most `LARGEST`.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]


Picture = NDArray[np.uint8]
"""uint8, shape (height, width) for grey or (height, width, 3) for RGB; 255 is bright."""
Content = Picture | Measurements | str


def modality(content: Content) -> Modality:
    """Return the kind of `content`."""
    if isinstance(content, str):
        return "text"
    return "table" if isinstance(content, Measurements) else "picture"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image, table row or text of a data set.

    Attributes:
        id: Its place in the data set, such as `mnist:test/7`.
        content: The image, row or text.
        label: Its class, as the data set names it.
    """

    id: str
    content: Content
    label: str

    @property
    def modality(self) -> Modality:
        """The kind of the sample."""
        return modality(self.content)

    @property
    def image(self) -> Picture:
        """The image.

        Raises:
            InputError: The sample is not an image.
        """
        if not isinstance(self.content, np.ndarray):
            raise InputError(f"{self.id} is a {self.modality}, not an image")
        return self.content


@dataclass(frozen=True, slots=True)
class Feedback:
    """Whether an answer is correct, for analysis, and the words that the model is told."""

    correct: bool
    told: str


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A sample with its right answer, which every request shows before the turns; it is never scored.

    Attributes:
        sample: Id of the sample.
        label: The correct label, as the model is shown it.
    """

    sample: str
    label: str
    question: Message
    reply: str
    told: str

    @property
    def messages(self) -> tuple[Message, Message, Message]:
        """Question, reply and feedback."""
        return self.question, assistant(self.reply), user(self.told)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and the model's reply.

    Attributes:
        kept: The past turns that the request showed, as runs (first, last).
        request: Fingerprint of the request; empty if the request, and with it `kept`, is not known,
            as in imported sessions.
        overflows: How many longer requests the model rejected before it answered this one.
        limit: The most tokens of later requests, counted locally, if longer ones were rejected.
        counted: Tokens of the request, counted locally.
        prefix: Leading tokens that are those of the previous request, or of the one that chose the
            sample if more, so a prompt cache can serve them.
    """

    kept: tuple[Span, ...]
    request: str
    reply: Reply
    overflows: int = 0
    limit: int | None = None
    counted: int | None = None
    prefix: int | None = None


@dataclass(frozen=True)
class Turn(Exchange):
    """One sample asked, answered, scored and fed back.

    Attributes:
        index: Position in the session, from 0.
        sample: Id of the sample.
        label: The correct label, as the model was shown it.
        answer: The label parsed from the reply, or None.
        echo: The reply as later requests show it, if they do not show it verbatim.
        calibration: Tokens reported by the endpoint per token counted locally, estimated from the
            previous turns, by which the request was fitted to the window.
    """

    index: int
    sample: str
    label: str
    question: Message
    answer: str | None
    outcome: Outcome
    feedback: Feedback
    echo: str | None = None
    calibration: float = 1.0

    @cached_property
    def messages(self) -> tuple[Message, Message, Message]:
        """The turn as later requests show it: question, reply, feedback."""
        shown = self.reply.text if self.echo is None else self.echo
        return self.question, assistant(shown), user(self.feedback.told)


@dataclass(frozen=True)
class Probe(Exchange):
    """A held-out sample asked in a fork of the session after a number of turns, and never appended.

    Attributes:
        verdicts: The verdicts that the fork shows on the past answers.
    """

    after_turn: int
    sample: str
    label: str
    answer: str | None
    outcome: Outcome
    correct: bool
    verdicts: Verdicts = "told"


@dataclass(frozen=True)
class Note(Exchange):
    """The model's summary of the turns so far, requested between turns.

    Attributes:
        after_turn: How many turns had been played.
        text: The note as later requests show it: the reply, cut to the token limit of notes.
    """

    after_turn: int
    text: str


@dataclass(frozen=True)
class Choice(Exchange):
    """The model's choice of the sample of the next turn, requested before that turn.

    Attributes:
        after_turn: How many turns had been played.
        candidates: Ids of the samples offered, in the order of their numbers from 1.
        number: The number parsed from the reply, or None; then a random candidate was taken.
        sample: Id of the sample taken.
    """

    after_turn: int
    candidates: tuple[str, ...]
    number: int | None
    outcome: Outcome
    sample: str


Event = Turn | Note | Choice
"""An entry of a session's history: a turn, or a note or a choice requested between turns."""


def keyed_bits(count: int, *key: str | int) -> NDArray[np.uint64]:
    """Return `count` random 64-bit integers that are a function of `key` alone.

    The key names the seed, the purpose, and the stream or turn. The bits are the raw output of
    PCG64 (O'Neill 2014), which numpy promises never to change, seeded by SHA-256 of the key.
    """
    return np.random.PCG64(_digest(key)).random_raw(count)


def keyed_index(size: int, *key: str | int) -> int:
    """Return an integer in [0, size) that is a function of `key` alone.

    The modulo of 256 uniform bits is biased by less than size / 2**256.
    """
    return _digest(key) % size


def keyed_order(size: int, *key: str | int) -> NDArray[np.intp]:
    """Return a permutation of range(size) that is a function of `key` alone."""
    return np.argsort(keyed_bits(size, *key), kind="stable")


def _digest(key: tuple[str | int, ...]) -> int:
    """Return SHA-256 of `key` as an integer.

    It hashes `ascii(key)`, because the characters that `repr` escapes depend on the Python version.
    """
    return int.from_bytes(hashlib.sha256(ascii(key).encode()).digest(), "big")
