"""Simulated models that know the right answers, because they look them up in the data set."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from statistics import NormalDist

from icl_loop.core.errors import InputError, RequestRefused
from icl_loop.core.messages import Image, Message, Reply
from icl_loop.models.simulated.simulated_model import (
    STEPS,
    SimulatedModel,
    check_number,
    check_text,
)
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import Encoding, get_encoding, prepare_sample


@dataclass(eq=False)
class Oracle(SimulatedModel):
    """Always answers the right label.

    It uses the data set's own label names and finds only unchanged samples. If several samples are
    encoded alike, it knows the label of the first.

    Raises:
        DatasetError: There is no such data set.
    """

    _: KW_ONLY
    dataset: str = "digits"

    def __post_init__(self) -> None:
        check_text("dataset", self.dataset)
        self._dataset = open_dataset(self.dataset)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the right label.

        Raises:
            RequestRefused: The sample is not in the data set, or its label is not in the session.
        """
        prompts, _ = self.parser.system(messages)
        return Reply(prompts.reply(self.truth(messages)))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return certainty of the right label."""
        return {self.truth(messages): 1.0}

    def truth(self, messages: Sequence[Message]) -> str:
        """Return the right label of the sample asked about; see `complete`."""
        conversation = self.parser.parse(messages)
        asked, how = conversation.asked, get_encoding(conversation.encoding)
        if how.modality == self._dataset.modality:
            size = math.isqrt(asked.features.size) if how.modality == "picture" else 0
            label = _answer_key(self._dataset, how, size).get(_digest(asked.shown))
            if label in conversation.labels:
                return label
        raise RequestRefused(
            f"the sample is not in the data set {self._dataset.name}, or its label is not in the"
            " session"
        )


@lru_cache(maxsize=8)
def _answer_key(dataset: Dataset, how: Encoding, size: int) -> Mapping[bytes, str]:
    """Return the label of every sample of a data set by the digest of the encoded sample."""
    key: dict[bytes, str] = {}
    for sample in dataset:
        key.setdefault(_digest(how.encode(prepare_sample(sample, how, size))), sample.label)
    return key


def _digest(shown: str | Image) -> bytes:
    return hashlib.sha256(
        shown.png if isinstance(shown, Image) else shown.encode("utf-8", "surrogatepass")
    ).digest()


_STATE = re.compile(r"Turn (\d{1,9}), drift (-?\d{1,2}\.\d{4})\.")
"""What the model writes into every reply: the turn and the drift of its log odds."""


@dataclass(eq=False)
class ScheduledAccuracy(Oracle):
    """Is right with a scheduled probability, whatever the feedback says.

    The probability changes linearly from `start` to `end` over the first `turns` turns and stays
    there. With `drift`, the log odds also follow an Ornstein-Uhlenbeck process: normally distributed
    with standard deviation `drift` at any turn, with correlation `memory` between neighbouring turns.

    The model keeps its state in its own replies and reads it back from the newest one that a request
    shows. If the previous turn is not shown, it continues from the last one that is. If replies are
    shown without the state, it counts them and draws a new drift; if none is shown, every turn is
    turn 0.
    """

    _: KW_ONLY
    start: float = 0.1
    end: float = 0.5
    turns: int = 200
    drift: float = 0.0
    memory: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "end", "memory"):
            check_number(name, getattr(self, name), highest=1)
        check_number("drift", self.drift)
        if isinstance(self.turns, bool) or not isinstance(self.turns, int) or self.turns < 1:
            raise InputError(f"turns must be a whole number of at least 1, got {self.turns!r}")

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the state and the final line with the right label or another one.

        Raises:
            RequestRefused: The sample is not in the data set, or its label is not in the session.
        """
        label, (prompts, system) = self.truth(messages), self.parser.system(messages)
        turn, drift = self._next_state(messages)
        if self.uniform("correct", messages) >= self._accuracy(turn, drift):
            others = [each for each in system.labels if each != label]
            label = self.choice(others or system.labels, "wrong label", messages)
        return Reply(f"Turn {turn}, drift {drift:.4f}.\n{prompts.reply(label)}")

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the scheduled probability of the right label; the others share the rest equally."""
        truth, labels = self.truth(messages), self.parser.system(messages)[1].labels
        share = self._accuracy(*self._next_state(messages))
        others = [each for each in labels if each != truth]
        rest = dict.fromkeys(others, (1 - share) / max(len(others), 1))
        return {truth: share if others else 1.0, **rest}

    def _next_state(self, messages: Sequence[Message]) -> tuple[int, float]:
        """Return the turn and drift that follow the newest ones shown."""
        step = NormalDist().inv_cdf(self.uniform("drift", messages) + 0.5 / STEPS) * self.drift
        replies = [message.text for message in messages if message.role == "assistant"]
        states = [(int(each[1]), float(each[2])) for each in map(_STATE.match, replies) if each]
        turn, drift = len(replies), step
        if states:
            turn, before = max(states)
            turn, drift = turn + 1, self.memory * before + math.sqrt(1 - self.memory**2) * step
        return turn, round(min(max(drift, -50.0), 50.0), 4) + 0.0  # no minus zero

    def _accuracy(self, turn: int, drift: float) -> float:
        """Return the scheduled probability with its odds multiplied by exp(drift)."""
        progress = min(turn / max(self.turns - 1, 1), 1.0)
        scheduled = self.start + (self.end - self.start) * progress
        odds = scheduled * math.exp(drift)
        return odds / (odds + 1 - scheduled)
