"""Participants that know the right answers: they have the data set, and find the sample in it."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from icl_loop.datasets import open_dataset
from icl_loop.encodings import MAX_SIDE, encoding, prepared
from icl_loop.errors import InputError, RequestRefused
from icl_loop.messages import Image, Message, Reply
from icl_loop.models.listening import Conversation
from icl_loop.models.participants.participant import STEPS, Participant, finite, share, text


class Perfect(Participant):
    """Answers the right label, which it finds by looking the sample up in a data set.

    It speaks of the classes by the data set's own names. Of samples that are shown alike it knows
    the first.
    """

    def __init__(
        self, seed: int = 0, wordings: Sequence[str] = (), *, dataset: str = "digits"
    ) -> None:
        """Know the data set of this name.

        Raises:
            DatasetError: There is no such data set.
        """
        super().__init__(seed, wordings)
        self._dataset = open_dataset(text("dataset", dataset)).name

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the right label.

        Raises:
            RequestRefused: The sample is not in the data set, or its class is not a label here.
        """
        heard = self.listener.hear(messages)
        return Reply(heard.wording.reply(self.truth(heard, messages)))

    def truth(self, heard: Conversation, messages: Sequence[Message]) -> str:
        """Return the right label of the sample asked about; see `complete`."""
        _, frame = self.listener.frame(messages)
        side = max(1, min(math.isqrt(heard.features.size), MAX_SIDE))
        label = _answer_key(self._dataset, frame.encoding, side).get(_digest(heard.shown))
        if label in heard.labels:
            return label
        raise RequestRefused(
            f"this participant knows the samples of {self._dataset} by their own labels,"
            " and this is none of them"
        )


@lru_cache(maxsize=8)
def _answer_key(dataset: str, encoding_name: str, side: int) -> Mapping[bytes, str]:
    """Return the label of every sample of a data set by the digest of what is shown of it.

    Pictures are shown with this side; an encoding for samples of another modality shows none.
    """
    how, samples = encoding(encoding_name), open_dataset(dataset)
    key: dict[bytes, str] = {}
    for sample in samples if samples.modality == how.modality else ():
        key.setdefault(_digest(how.encode(prepared(sample, how, side))), sample.label)
    return key


def _digest(shown: str | Image) -> bytes:
    data = shown.encode() if isinstance(shown, str) else shown.png
    return hashlib.sha256(data).digest()


class _Note(NamedTuple):
    """What a decreed participant says to itself: which turn it is, how far it has wandered."""

    turn: int
    wander: float

    def __str__(self) -> str:
        return f"Turn {self.turn}, wander {self.wander:.4f}."


_NOTE = re.compile(r"Turn (\d{1,9}), wander (-?\d{1,2}\.\d{4})\.")
_FARTHEST = 50.0


class Decreed(Perfect):
    """Is right with a probability that is decreed for every turn, whatever it is told.

    It goes in equal steps from `start` to `end` over the first `turns` turns and stays there. With
    `drift`, its log odds wander besides, as an Ornstein-Uhlenbeck process seen at each turn: normal
    with standard deviation `drift` at any turn, correlated by `memory` between neighbours.

    The messages are all it goes by, so it writes turn and wander into every reply and reads them in
    the newest that it is shown. Where a policy does not show the turn before, it counts on from the
    last one it sees; where none is shown, every turn is its first.
    """

    def __init__(
        self,
        seed: int = 0,
        wordings: Sequence[str] = (),
        *,
        dataset: str = "digits",
        start: float = 0.1,
        end: float = 0.5,
        turns: int = 200,
        drift: float = 0.0,
        memory: float = 0.95,
    ) -> None:
        """Be right with probabilities from `start` to `end`; see the class."""
        super().__init__(seed, wordings, dataset=dataset)
        self._start, self._end = share("start", start), share("end", end)
        self._drift, self._memory = finite("drift", drift), share("memory", memory)
        if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
            raise InputError(f"turns is a whole number of at least 1, got {turns!r}")
        self._turns = turns

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return a note on the turn, and the stated final line with the right label or another.

        Raises:
            RequestRefused: The sample is not in the data set, or its class is not a label here.
        """
        heard = self.listener.hear(messages)
        truth = self.truth(heard, messages)
        note = self._note(messages)
        label = truth
        if self.uniform("decree", messages) >= self._accuracy(note):
            others = [label for label in heard.labels if label != truth]
            label = self.one_of(others or heard.labels, "decreed error", messages)
        return Reply(f"{note}\n{heard.wording.reply(label)}")

    def _note(self, messages: Sequence[Message]) -> _Note:
        """Return the note that follows on the newest one shown."""
        fresh = NormalDist().inv_cdf(self.uniform("wander", messages) + 0.5 / STEPS) * self._drift
        before = max(_notes(messages), default=None)
        if before is None:
            return _Note(0, _within_reach(fresh))
        kept = self._memory * before.wander
        step = math.sqrt(1 - self._memory**2) * fresh
        return _Note(before.turn + 1, _within_reach(kept + step))

    def _accuracy(self, note: _Note) -> float:
        """Return the decreed probability, its odds multiplied by what the wander stands for."""
        done = min(note.turn / max(self._turns - 1, 1), 1.0)
        decreed = self._start + (self._end - self._start) * done
        moved = decreed * math.exp(note.wander)
        return moved / (moved + 1 - decreed)


def _notes(messages: Sequence[Message]) -> Iterator[_Note]:
    for message in messages:
        if message.role == "assistant" and (said := _NOTE.match(message.text)):
            yield _Note(int(said[1]), float(said[2]))


def _within_reach(wander: float) -> float:
    return round(min(max(wander, -_FARTHEST), _FARTHEST), 4)
