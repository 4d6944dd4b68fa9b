"""A simulated prefix cache: how much of a conversation was asked before."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count

from icl_loop.core.tokens import CACHE_STEP
from icl_loop.server.request_parser import Said

REMEMBERED_PLACES = 2**17
"""Places of messages in conversations that the prefix cache remembers, at about 300 bytes each."""


class PrefixCache:
    """Remembers the beginnings of conversations: a tree of digests, the longest unused go first."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[int | str, bytes], int] = OrderedDict()
        self._numbers = count()

    def known(self, model: str, said: Sequence[Said]) -> int:
        """Return the tokens of the longest run of leading messages asked before, and remember all."""
        places, tokens, new = self._places, 0, False
        place: int | str = model
        for each in said:
            step = (place, each.digest)
            after = places.get(step)
            if after is None:
                after = places[step] = next(self._numbers)
                new = True
            else:
                places.move_to_end(step)
            tokens += 0 if new else each.tokens
            place = after
        while len(places) > REMEMBERED_PLACES:
            places.popitem(last=False)
        return tokens - tokens % CACHE_STEP
