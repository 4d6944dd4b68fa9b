"""Nearest neighbour."""

import numpy as np

from icl_loop.core.records import keyed_index, keyed_order
from icl_loop.models.conversation_parser import Conversation, Example, known_label
from icl_loop.models.reference.learner import Learner


class NearestNeighbour(Learner):
    """Answers the label of the nearest picture it knows something about (Cover and Hart 1967).

    The pictures shown are visited from the nearest to the farthest, by Euclidean distance. One
    whose label is known, revealed or confirmed, decides; one of which only a wrong answer is
    known rules that answer out. Ties and ignorance are settled by randomness keyed by the seed
    and the request.
    """

    def choose(self, heard: Conversation, request: str) -> str:
        """Return the label of the nearest picture, or a guess among those not ruled out."""
        ruled_out: set[str] = set()
        for example in self._by_distance(heard, request):
            known = known_label(example)
            if known is not None and known not in ruled_out:
                return known
            if example.heard.correct is False and example.answer is not None:
                ruled_out.add(example.answer)
        left = [label for label in heard.labels if label not in ruled_out] or heard.labels
        return left[keyed_index(len(left), self.seed, "nearest guess", request)]

    def _by_distance(self, heard: Conversation, request: str) -> list[Example]:
        if not heard.examples:
            return []
        shown = np.stack([example.features for example in heard.examples])
        distances = np.square(shown - heard.features).sum(axis=1)
        shuffle = keyed_order(len(distances), self.seed, "nearest ties", request)
        order = shuffle[np.argsort(distances[shuffle], kind="stable")]
        return [heard.examples[index] for index in order]
