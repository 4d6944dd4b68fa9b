"""What reference learners have in common: they hear a conversation, weigh it, choose a label."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_order
from icl_loop.models.conversation_parser import (
    Conversation,
    ConversationParser,
    known_label,
    signature,
)
from icl_loop.models.features import Features
from icl_loop.models.reference.distances import Distances, Values

_SAME = 6
"""Decimals to which scores must agree to be a tie; what differs beyond them is rounding."""


class Learner(ABC):
    """Answers the label it chooses; ties and ignorance are settled by the seed and the request."""

    def __init__(self, seed: int = 0, prompt_sets: Sequence[str] = ()) -> None:
        """Key the randomness by `seed`; listen for these prompt sets, all shipped ones if none."""
        self.seed = seed
        self._listener = ConversationParser(prompt_sets)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the label chosen; the notes, where they are asked for."""
        notes = self._listener.notes(messages)
        if notes is not None:
            return notes
        heard = self._listener.hear(messages)
        return Reply(heard.prompts.reply(self.choose(heard, signature(messages))))

    @abstractmethod
    def choose(self, heard: Conversation, request: str) -> str:
        """Return the label answered; `request` keys what is random about it."""


class Scorer(Learner):
    """Answers the label of the highest score."""

    def __init__(self, seed: int = 0, prompt_sets: Sequence[str] = ()) -> None:
        """Key the randomness by `seed`; listen for these prompt sets, all shipped ones if none."""
        super().__init__(seed, prompt_sets)
        self.distances = Distances()

    def choose(self, heard: Conversation, request: str) -> str:
        """Return a label than which none scores higher."""
        scores = np.round(self.scores(weighed(heard), heard.features), _SAME)
        order = keyed_order(len(scores), self.seed, "score ties", request)
        return heard.labels[int(order[np.argmax(scores[order])])]

    @abstractmethod
    def scores(self, evidence: "Evidence", asked: Features) -> Values:
        """Return a score for each label of the sample `asked` about, shape (labels,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a conversation says about the samples it shows, as arrays.

    Attributes:
        features: What samples are compared by, float32, shape (examples, features).
        possible: Whether a sample may bear a label: true for one label where that was revealed or
            confirmed, for all but the one refuted, or for all; shape (examples, labels).
    """

    features: NDArray[np.float32]
    possible: NDArray[np.bool_]

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether a sample may bear one label only; shape (examples,)."""
        one: NDArray[np.bool_] = self.possible.sum(axis=1) == 1
        return one

    @property
    def shares(self) -> Values:
        """The labels that a sample may bear, each as likely as the others; rows sum to one."""
        return normalized(self.possible)


def weighed(heard: Conversation) -> Evidence:
    """Return what the conversation says about its samples.

    A sample may bear any label if its turn tells nothing, and if all labels are refuted.
    """
    position = {label: number for number, label in enumerate(heard.labels)}
    possible = np.ones((len(heard.examples), len(heard.labels)), dtype=np.bool_)
    for row, example in zip(possible, heard.examples, strict=True):
        known = known_label(example)
        if known is not None:
            row[:] = False
            row[position[known]] = True
        elif example.heard.correct is False and example.answer is not None and len(row) > 1:
            row[position[example.answer]] = False
    features = [example.features for example in heard.examples]
    return Evidence(np.array(features).reshape(len(features), heard.features.size), possible)


def normalized(rows: NDArray[np.bool_] | Values) -> Values:
    """Return each row divided by its sum."""
    shares: Values = rows / rows.sum(axis=1, keepdims=True)
    return shares
