"""The base classes of reference learners: parse the conversation, choose a label, reply."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_order
from icl_loop.models.conversation_parser import Conversation, ConversationParser, request_key
from icl_loop.models.features import Features
from icl_loop.models.reference.distances import DistanceCache, Values


@dataclass(eq=False)
class Learner(ABC):
    """A model that answers from the examples in the request, with a seed for ties and guesses."""

    seed: int = 0
    parser: ConversationParser = field(default_factory=ConversationParser)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the chosen label, or notes if the request asks for them.

        The notes state how often each label was known to be correct.
        """
        examples = self.parser.parse_notes_request(messages)
        if examples is not None:
            counts = Counter(example.known_label for example in examples)
            labels = self.parser.system(messages)[1].labels
            return Reply("\n".join(f"{label}: {counts[label]}" for label in labels))
        conversation = self.parser.parse(messages)
        label = self.choose(conversation, request_key(messages))
        return Reply(conversation.prompts.reply(label))

    @abstractmethod
    def choose(self, conversation: Conversation, key: str) -> str:
        """Return the label to answer; `key` identifies the request for random choices."""


@dataclass(eq=False)
class ScoringLearner(Learner):
    """A learner that answers the label with the highest score; scores tie if they agree to 1e-6."""

    distances: DistanceCache = field(default_factory=DistanceCache, init=False)

    def choose(self, conversation: Conversation, key: str) -> str:
        """Return a label with the highest score."""
        evidence = Evidence.of(conversation)
        scores = self.scores(evidence, conversation.asked.features).round(
            6
        )  # ties despite rounding
        order = keyed_order(len(scores), self.seed, "score ties", key)
        return conversation.labels[int(order[np.argmax(scores[order])])]

    @abstractmethod
    def scores(self, evidence: "Evidence", asked: Features) -> Values:
        """Return a score for each label of the sample `asked` about, shape (labels,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The examples of a conversation as arrays.

    Attributes:
        features: Float32, shape (examples, features).
        possible: Whether an example can have a label, shape (examples, labels): only the known one,
            all but the refuted one, or all if nothing was told.
    """

    features: NDArray[np.float32]
    possible: NDArray[np.bool_]

    @classmethod
    def of(cls, conversation: Conversation) -> "Evidence":
        """Return the evidence in a conversation."""
        labels, examples = conversation.labels, conversation.examples
        position = {label: index for index, label in enumerate(labels)}
        possible = np.ones((len(examples), len(labels)), dtype=np.bool_)
        for row, example in zip(possible, examples, strict=True):
            if example.known_label is not None:
                row[:] = False
                row[position[example.known_label]] = True
            elif example.refuted is not None and len(labels) > 1:
                row[position[example.refuted]] = False
        features = np.array([example.sample.features for example in examples], dtype=np.float32)
        return cls(features.reshape(len(examples), conversation.asked.features.size), possible)

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether only one label is possible, shape (examples,)."""
        one: NDArray[np.bool_] = self.possible.sum(axis=1) == 1
        return one


def normalised(rows: NDArray[np.bool_] | Values) -> Values:
    """Return each row divided by its sum."""
    shares: Values = rows / rows.sum(axis=1, keepdims=True)
    return shares
