"""A simulated prefix cache: how many leading tokens of a conversation were requested before."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count

from icl_loop.core.messages import Message
from icl_loop.core.tokens import CACHE_STEP, TokenCounter, count_message

MAX_NODES = 2**17
"""Nodes kept in the tree, at about 300 bytes each."""


class PrefixCache:
    """A tree of message digests that drops the least recently used nodes."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._nodes: OrderedDict[tuple[int | str, bytes], int] = OrderedDict()
        self._numbers = count()

    def cached_tokens(self, model: str, messages: Sequence[Message]) -> int:
        """Return the tokens of the longest known run of leading messages, and store all messages.

        The count is rounded down to a multiple of `CACHE_STEP`, as OpenAI does.
        """
        tokens, is_new = 0, False
        node: int | str = model
        for message in messages:
            edge = (node, message.digest)
            child = self._nodes.get(edge)
            if child is None:
                is_new = True
                child = self._nodes[edge] = next(self._numbers)
            else:
                self._nodes.move_to_end(edge)
            tokens += 0 if is_new else count_message(self._counter, message)
            node = child
        while len(self._nodes) > MAX_NODES:
            self._nodes.popitem(last=False)
        return tokens - tokens % CACHE_STEP
