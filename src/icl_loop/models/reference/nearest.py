"""Nearest neighbour."""

import numpy as np

from icl_loop.core.records import keyed_index, keyed_order
from icl_loop.models.conversation_parser import Conversation, Example
from icl_loop.models.reference.distances import distances_to
from icl_loop.models.reference.learner import Learner


class NearestNeighbour(Learner):
    """Answers the label of the nearest sample whose label is known (Cover and Hart 1967).

    Samples are visited from the nearest to the farthest. One with a known label decides; one with a
    refuted answer rules that label out.
    """

    def choose(self, conversation: Conversation, key: str) -> str:
        """Return the label of the nearest sample, or a guess among the labels not ruled out."""
        ruled_out: set[str] = set()
        for example in self._by_distance(conversation, key):
            known = example.known_label
            if known is not None and known not in ruled_out:
                return known
            if example.refuted is not None:
                ruled_out.add(example.refuted)
        labels = conversation.labels
        left = [label for label in labels if label not in ruled_out] or labels
        return left[keyed_index(len(left), self.seed, "nearest guess", key)]

    def _by_distance(self, conversation: Conversation, key: str) -> list[Example]:
        examples = conversation.examples
        if not examples:
            return []
        samples = np.stack([example.sample.features for example in examples])
        distances = distances_to(samples, conversation.asked.features)
        shuffled = keyed_order(len(distances), self.seed, "nearest ties", key)
        order = shuffled[np.argsort(distances[shuffled], kind="stable")]
        return [examples[index] for index in order]
