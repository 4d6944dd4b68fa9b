"""The base classes of reference learners: parse the conversation, choose a label, reply."""

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import NDArray

from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_order
from icl_loop.models.conversation_parser import Conversation, ConversationParser, request_key
from icl_loop.models.features import Features

Samples = NDArray[np.float32]
"""Shape (samples, features)."""
Labels = NDArray[np.bool_]
"""Which labels each sample can have, shape (samples, labels): only the one that was told, all but the
refuted one, or all if nothing was told."""
Values = NDArray[np.float64]


@dataclass(eq=False)
class Learner(ABC):
    """A model that answers from the examples in the request, with a seed for ties and guesses."""

    seed: int = 0
    parser: ConversationParser = field(default_factory=ConversationParser)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the final line with the chosen label, or notes or a choice if it asks for them.

        The notes state how often each label was known to be correct. The sample chosen is that with
        the smallest margin, the first of several.
        """
        examples = self.parser.parse_notes_request(messages)
        if examples is not None:
            counts = Counter(example.known_label for example in examples)
            labels = self.parser.system(messages)[1].labels
            return Reply("\n".join(f"{label}: {counts[label]}" for label in labels))
        if offered := self.parser.parse_choice(messages):
            margins = [self.margin(each) for each in offered]
            number = 1 + margins.index(min(margins))
            return Reply(offered[0].prompts.choice_prompts.reply(number))
        conversation = self.parser.parse(messages)
        label = self.choose(conversation, request_key(messages))
        return Reply(conversation.prompts.reply(label))

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return certainty of the chosen label, or none if the request asks for no label."""
        if self.asks_otherwise(messages):
            return {}
        return {self.choose(self.parser.parse(messages), request_key(messages)): 1.0}

    def asks_otherwise(self, messages: Sequence[Message]) -> bool:
        """Return whether a request asks for notes or a choice of samples, not for a label."""
        notes = self.parser.parse_notes_request(messages)
        return notes is not None or bool(self.parser.parse_choice(messages))

    def margin(self, conversation: Conversation) -> float:  # noqa: ARG002  for those that have one
        """Return how much the best label is ahead of the second; 0 if labels are not scored."""
        return 0.0

    @abstractmethod
    def choose(self, conversation: Conversation, key: str) -> str:
        """Return the label to answer; `key` identifies the request for random choices."""


class DistanceCache:
    """Computes pairwise distances; reuses those of an earlier request with the same leading samples."""

    def __init__(self) -> None:
        self._cached: OrderedDict[bytes, tuple[Samples, Values]] = OrderedDict()

    def pairwise(self, samples: Samples) -> Values:
        """Return the squared distance between each two samples, shape (samples, samples)."""
        first = samples[0].tobytes()
        before, known = self._cached.pop(first, (samples[:0], np.empty((0, 0))))
        reused = 0
        if before.shape[1:] == samples.shape[1:]:
            count = min(len(before), len(samples))
            differs = (before[:count] != samples[:count]).any(axis=1)
            reused = int(differs.argmax()) if differs.any() else count
        distances = np.empty((len(samples), len(samples)))
        distances[:reused, :reused] = known[:reused, :reused]
        for row in range(reused, len(samples)):
            distances[row, : row + 1] = distances_to(samples[: row + 1], samples[row])
            distances[: row + 1, row] = distances[row, : row + 1]
        self._cached[first] = samples, distances
        if len(self._cached) > 16:  # enough for the sessions that are played at the same time
            self._cached.popitem(last=False)
        return distances.copy()


def distances_to(samples: Samples, asked: Features) -> Values:
    """Return the squared distance of each sample to `asked`, shape (samples,)."""
    distances: Values = np.square(samples - asked).sum(axis=1).astype(np.float64)
    return distances


@dataclass(eq=False)
class ScoringLearner(Learner):
    """A learner that answers the label with the highest score; scores that agree to 1e-6 tie."""

    distances: DistanceCache = field(default_factory=DistanceCache, init=False)

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the softmax of the scores, in units of their standard deviation."""
        if self.asks_otherwise(messages):
            return {}
        conversation = self.parser.parse(messages)
        shares = self.shares(self._scores(conversation))
        return dict(zip(conversation.labels, shares.tolist(), strict=True))

    def shares(self, scores: Values) -> Values:
        """Return a probability for each label from its score."""
        deviation = float(scores.std()) or 1.0
        shares: Values = scipy.special.softmax(scores / deviation)
        return shares

    def _scores(self, conversation: Conversation) -> Values:
        asked, examples = conversation.asked.features, conversation.examples
        samples = np.array([each.sample.features for each in examples], dtype=np.float32)
        return self.scores(samples.reshape(-1, asked.size), _possible(conversation), asked)

    def choose(self, conversation: Conversation, key: str) -> str:
        """Return a label with the highest score."""
        scores = self._scores(conversation)
        order = keyed_order(len(scores), self.seed, "score ties", key)
        return conversation.labels[int(order[np.argmax(scores.round(6)[order])])]

    def margin(self, conversation: Conversation) -> float:
        """Return the difference between the two highest scores."""
        return lead(self._scores(conversation))

    @abstractmethod
    def scores(self, samples: Samples, possible: Labels, asked: Features) -> Values:
        """Return a score for each label of the sample `asked` about, shape (labels,)."""


def lead(scores: Values) -> float:
    """Return the highest score minus the second, to 6 digits; 0 with one label."""
    best = np.sort(scores)[::-1]
    return round(float(best[0] - best[1]), 6) if len(best) > 1 else 0.0


def _possible(conversation: Conversation) -> Labels:
    labels, examples = conversation.labels, conversation.examples
    possible = np.ones((len(examples), len(labels)), dtype=np.bool_)
    for row, example in zip(possible, examples, strict=True):
        if example.known_label is not None:
            row[:] = False
            row[labels.index(example.known_label)] = True
        elif example.refuted in labels and len(labels) > 1:
            row[labels.index(example.refuted)] = False
    return possible


def normalised(rows: Labels | Values) -> Values:
    """Return each row divided by its sum."""
    shares: Values = rows / rows.sum(axis=1, keepdims=True)
    return shares
