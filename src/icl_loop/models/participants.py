"""Participants: simulated models of known behaviour, for testing the apparatus."""

from collections.abc import Sequence

from icl_loop.messages import Message, Reply
from icl_loop.models.listening import Listener, signature
from icl_loop.records import keyed_index


class Chance:
    """Answers any label, each as likely as the others, whatever it is shown."""

    def __init__(self, seed: int = 0, wordings: Sequence[str] = ()) -> None:
        """Key the randomness by `seed`; listen for these wordings, all shipped ones if none."""
        self._seed = seed
        self._listener = Listener(wordings)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the stated final line with a random label."""
        words, frame = self._listener.frame(messages)
        pick = keyed_index(len(frame.labels), self._seed, "chance", signature(messages))
        return Reply(words.reply(frame.labels[pick]))
