"""Reference learners: ordinary algorithms that see exactly the messages that a model sees."""

from collections.abc import Sequence

import numpy as np

from icl_loop.messages import Message, Reply
from icl_loop.models.listening import Conversation, Example, Listener, signature
from icl_loop.records import keyed_index, keyed_order


class NearestNeighbour:
    """Answers the label of the nearest picture it knows something about (Cover and Hart 1967).

    The pictures shown are visited from the nearest to the farthest, by Euclidean distance. One
    whose label is known, revealed or confirmed, decides; one of which only a wrong answer is
    known rules that answer out. Ties and ignorance are settled by randomness keyed by the seed
    and the request.
    """

    def __init__(self, seed: int = 0, wordings: Sequence[str] = ()) -> None:
        """Key the randomness by `seed`; listen for these wordings, all shipped ones if none."""
        self._seed = seed
        self._listener = Listener(wordings)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with the label chosen."""
        heard = self._listener.hear(messages)
        return Reply(heard.wording.reply(self._choose(heard, signature(messages))))

    def _choose(self, heard: Conversation, request: str) -> str:
        ruled_out: set[str] = set()
        for example in self._by_distance(heard, request):
            known = _known_label(example)
            if known is not None and known not in ruled_out:
                return known
            if example.heard.correct is False and example.answer is not None:
                ruled_out.add(example.answer)
        left = [label for label in heard.labels if label not in ruled_out] or heard.labels
        return left[keyed_index(len(left), self._seed, "nearest guess", request)]

    def _by_distance(self, heard: Conversation, request: str) -> list[Example]:
        if not heard.examples:
            return []
        shown = np.stack([example.features for example in heard.examples])
        distances = np.square(shown - heard.features).sum(axis=1)
        shuffle = keyed_order(len(distances), self._seed, "nearest ties", request)
        order = shuffle[np.argsort(distances[shuffle], kind="stable")]
        return [heard.examples[index] for index in order]


def _known_label(example: Example) -> str | None:
    if example.heard.label is not None:
        return example.heard.label
    return example.answer if example.heard.correct else None
