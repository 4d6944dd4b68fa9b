"""`neural/in-context`: a transformer that was trained to learn from right and wrong in its context."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy  # submodules are imported on first use

from icl_loop.core.errors import RequestRefused
from icl_loop.core.messages import Message
from icl_loop.core.records import keyed_bits, keyed_order
from icl_loop.models.conversation_parser import Conversation, Example
from icl_loop.models.features import SampleFeatures
from icl_loop.models.neural.network import Codes, Memory, Network, Values, trained
from icl_loop.models.reference.learner import Learner, lead

Shown = tuple[bytes, bytes]
"""A turn as the network sees it: the projected sample and the code of its outcome, in every view."""
VIEWS = 8
"""The probabilities of this many projections are averaged."""


class MemoryCache:
    """Keeps what the network computed for recent conversations."""

    def __init__(self) -> None:
        self._cached: OrderedDict[tuple[Shown, ...], Memory] = OrderedDict()

    def memory_of(self, network: Network, turns: tuple[Shown, ...]) -> Memory:
        """Return the memory of these turns; compute only those that no recent conversation had."""
        nearest = max(self._cached, key=lambda known: _common(known, turns), default=())
        common = _common(nearest, turns)
        if not common:
            memory = network.memory(VIEWS)
        elif common == len(nearest):
            memory = self._cached.pop(nearest)
        else:
            memory = self._cached[nearest].copied(common)
        for sample, codes in turns[common:]:
            views = np.frombuffer(sample, dtype=np.float32).reshape(VIEWS, -1)
            network.add_turn(memory, views, np.frombuffer(codes, dtype=np.intp))
        self._cached[turns] = memory
        if len(self._cached) > 16:  # enough for the sessions that are played at the same time
            self._cached.popitem(last=False)
        return memory


def _common(some: Sequence[Shown], others: Sequence[Shown]) -> int:
    """Return the number of leading turns that two conversations have in common."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(some), len(others)))


@dataclass(eq=False)
class InContextNetwork(Learner):
    """Answers the label that the network finds most probable.

    The weights are frozen; whatever it learns, it learns from the examples in the request. It sees a
    conversation in several ways and averages the probabilities: a random matrix projects samples to as
    many values as the network has inputs, and a random permutation says which code of the network
    stands for which label. The seed determines both.
    """

    network: Network = field(default_factory=trained, init=False)
    memories: MemoryCache = field(default_factory=MemoryCache, init=False)

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the probability of each label, or none if the request asks for no label."""
        if self.asks_otherwise(messages):
            return {}
        conversation = self.parser.parse(messages)
        return dict(zip(conversation.labels, self._shares(conversation).tolist(), strict=True))

    def choose(self, conversation: Conversation, key: str) -> str:  # noqa: ARG002  never random
        """Return the most probable label."""
        return conversation.labels[int(np.argmax(self._shares(conversation)))]

    def margin(self, conversation: Conversation) -> float:
        """Return the difference between the probabilities of the two most probable labels."""
        return lead(self._shares(conversation).astype(np.float64))

    def _shares(self, conversation: Conversation) -> Values:
        """Return the probability of each label.

        Turns of which neither a verdict on a label nor an answer is known are left out.

        Raises:
            RequestRefused: There are more labels than the network has codes.
        """
        labels, network = conversation.labels, self.network
        if len(labels) > network.labels:
            raise RequestRefused(
                f"neural/in-context was trained with at most {network.labels} labels, got {len(labels)}"
            )
        codes = _codes(len(labels), self.seed)
        code_of = dict(zip(labels, codes.T, strict=True))
        turns = tuple(
            (self._projected(each.sample).tobytes(), outcome.tobytes())
            for each in conversation.examples
            if (outcome := _outcome(each, code_of, network.labels)) is not None
        )
        memory = self.memories.memory_of(network, turns)
        scores = network.log_probabilities(memory, self._projected(conversation.asked), len(labels))
        shares: Values = np.exp(np.take_along_axis(scores, codes, axis=1)).mean(axis=0)
        return shares

    def _projected(self, sample: SampleFeatures) -> Values:
        is_row = sample.form is not None and isinstance(sample.form[0], str)
        return _projected(sample.features.tobytes(), is_row, self.network.inputs, self.seed)


@lru_cache(4_096)
def _projected(data: bytes, is_row: bool, inputs: int, seed: int) -> Values:  # noqa: FBT001  cached
    """Return the inputs of the network for the features of a sample, shape (views, inputs).

    Pixels and the counts of texts are standardised within the sample. The values of a table row are
    standardised already, each column by itself.
    """
    features = np.frombuffer(data, dtype=np.float32)
    if not is_row:
        features = (features - features.mean()) / (features.std() + np.float32(1e-3))
    views: Values = features @ _projections(features.size, inputs, seed)
    return views.reshape(VIEWS, -1)


def _outcome(example: Example, code_of: Mapping[str, Codes], labels: int) -> Codes | None:
    """Return the codes of what is known about the label of a turn, or None if nothing is."""
    unjudged = example.answer if example.feedback.correct is None else None
    for kind, label in enumerate((example.known_label, example.refuted, unjudged)):
        if label is not None and label in code_of:
            return code_of[label] + kind * labels
    return None


@lru_cache(32)
def _codes(labels: int, seed: int) -> Codes:
    """Return the code of each label, shape (views, labels)."""
    return np.stack([keyed_order(labels, seed, "label codes", view) for view in range(VIEWS)])


@lru_cache(32)
def _projections(features: int, inputs: int, seed: int) -> Values:
    """Return a random Gaussian matrix, shape (features, views * inputs).

    Its entries have the variance 1 / features, as in training.
    """
    bits = keyed_bits(features * VIEWS * inputs, seed, "network inputs", features) >> np.uint64(11)
    gaussian = scipy.special.ndtri((bits + 0.5) / 2.0**53) / np.sqrt(features)
    matrix: Values = gaussian.reshape(features, -1).astype(np.float32)
    return matrix
