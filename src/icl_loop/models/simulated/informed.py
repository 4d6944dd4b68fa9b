"""Participants that know the right answers: they have the data set, and look the sample up in it."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from icl_loop.core.errors import InputError, RequestRefused
from icl_loop.core.messages import Image, Message, Reply
from icl_loop.models.simulated.simulated_model import STEPS, SimulatedModel, finite, share, text
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import Encoding, get_encoding, prepare_sample
from icl_loop.tasks.prompts import PromptSection


class Oracle(SimulatedModel):
    """Answers the right label, which it finds by looking the sample up in a data set.

    It speaks of the classes by the data set's own names, and knows pictures whose pixels were not
    moved. Of samples that are shown alike it knows the first.
    """

    def __init__(
        self, seed: int = 0, prompt_sets: Sequence[str] = (), *, dataset: str = "digits"
    ) -> None:
        """Know the data set of this name.

        Raises:
            DatasetError: There is no such data set.
        """
        super().__init__(seed, prompt_sets)
        self._dataset = open_dataset(text("dataset", dataset))

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the right label.

        Raises:
            RequestRefused: The sample is not in the data set, or its class is not a label here.
        """
        words, _ = self.listener.frame(messages)
        return Reply(words.reply(self.truth(messages)))

    def truth(self, messages: Sequence[Message]) -> str:
        """Return the right label of the sample asked about; see `complete`."""
        words, frame = self.listener.frame(messages)
        how = get_encoding(frame.encoding)
        heard = self.listener.hear(messages)
        if how.modality == self._dataset.modality:
            side = math.isqrt(heard.features.size) if how.modality == "picture" else 0
            asked = _asked(words.about(frame.encoding), messages)
            label = _answer_key(self._dataset, how, side).get(_digest(asked))
            if label in heard.labels:
                return label
        raise RequestRefused(
            f"this participant knows what is in {self._dataset.name} by its own labels,"
            " and this is not among it"
        )


def _asked(sentences: PromptSection, messages: Sequence[Message]) -> str | Image:
    """Return what the last question of a request shows, which asks one."""
    for message in reversed(messages):
        seen = sentences.hear_picture(message) if message.is_seen else None
        question = seen or sentences.hear_question(message.text)
        if message.role == "user" and question is not None:
            return question[1]
    return ""


@lru_cache(maxsize=8)
def _answer_key(dataset: Dataset, how: Encoding, size: int) -> Mapping[bytes, str]:
    """Return the label of every sample of a data set by the digest of what is shown of it."""
    key: dict[bytes, str] = {}
    for sample in dataset:
        key.setdefault(_digest(how.encode(prepare_sample(sample, how, size))), sample.label)
    return key


def _digest(shown: str | Image) -> bytes:
    return hashlib.sha256(
        shown.png if isinstance(shown, Image) else shown.encode("utf-8", "surrogatepass")
    ).digest()


class _Note(NamedTuple):
    """What a decreed participant says to itself: which turn it is, how far it has wandered."""

    turn: int
    wander: float

    def __str__(self) -> str:
        return f"Turn {self.turn}, wander {self.wander:.4f}."


_NOTE = re.compile(r"Turn (\d{1,9}), wander (-?\d{1,2}\.\d{4})\.")
_FARTHEST = 50.0


class ScheduledAccuracy(Oracle):
    """Is right with a probability that is decreed for every turn, whatever it is told.

    It goes in equal steps from `start` to `end` over the first `turns` turns and stays there. With
    `drift`, its log odds wander besides, as an Ornstein-Uhlenbeck process seen at each turn: normal
    with standard deviation `drift` at any turn, correlated by `memory` between neighbours.

    The messages are all it goes by, so it writes turn and wander into every reply and reads them in
    the newest that it is shown. Where a policy does not show the turn before, it counts on from the
    last one it sees. Where replies are shown without what it wrote, it counts the answers and begins
    to wander anew; where none is shown, every turn is its first.
    """

    def __init__(
        self,
        seed: int = 0,
        prompt_sets: Sequence[str] = (),
        *,
        dataset: str = "digits",
        start: float = 0.1,
        end: float = 0.5,
        turns: int = 200,
        drift: float = 0.0,
        memory: float = 0.95,
    ) -> None:
        """Be right with probabilities from `start` to `end`; see the class."""
        super().__init__(seed, prompt_sets, dataset=dataset)
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
        truth, (words, frame) = self.truth(messages), self.listener.frame(messages)
        note = self._note(messages)
        label = truth
        if self.uniform("decree", messages) >= self._accuracy(note):
            others = [label for label in frame.labels if label != truth]
            label = self.one_of(others or frame.labels, "decreed error", messages)
        return Reply(f"{note}\n{words.reply(label)}")

    def _note(self, messages: Sequence[Message]) -> _Note:
        """Return the note that follows on the newest one shown."""
        fresh = NormalDist().inv_cdf(self.uniform("wander", messages) + 0.5 / STEPS) * self._drift
        before = max(_notes(messages), default=None)
        if before is None:
            answers = sum(message.role == "assistant" for message in messages)
            return _Note(answers, _within_reach(fresh))
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
