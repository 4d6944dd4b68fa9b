"""A simulated prefix cache: how many leading tokens of a conversation were requested before."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from icl_loop.core.messages import Message
from icl_loop.core.tokens import CACHE_STEP, TokenCounter, count_message

MAX_PREFIXES = 2**17
"""Prefixes kept in the cache, at about 200 bytes each."""


class PrefixCache:
    """Digests of all requested prefixes; drops the least recently used ones."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def cached_tokens(self, model: str, messages: Sequence[Message]) -> int:
        """Return the tokens of the longest known run of leading messages, and store all messages.

        The count is rounded down to a multiple of `CACHE_STEP`, as OpenAI does.
        """
        tokens, is_known, prefix = 0, True, model.encode()
        for message in messages:
            prefix = hashlib.sha256(prefix + message.digest).digest()
            is_known = is_known and prefix in self._known
            tokens += count_message(self._counter, message) if is_known else 0
            self._known[prefix] = None
            self._known.move_to_end(prefix)
        while len(self._known) > MAX_PREFIXES:
            self._known.popitem(last=False)
        return tokens - tokens % CACHE_STEP
