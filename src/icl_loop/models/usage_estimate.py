"""A model that counts the tokens that each request would take at an endpoint."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby, takewhile

from icl_loop.core.messages import Message, Reply, Usage, merged, without_system_role
from icl_loop.core.tokens import CACHE_STEP, REQUEST_TOKENS, TokenCounter, count_messages
from icl_loop.models.chat import ChatModel

REMEMBERED = 32
"""How many earlier requests of a session a prompt cache is assumed to hold."""
_Groups = list[tuple[Message, ...]]
"""The messages of a request, those that are sent as one in a tuple."""


class CountingModel:
    """Answers one session as another model does, and reports tokens as an endpoint would.

    Cached tokens are those of the leading messages that a request shares with one of the
    `REMEMBERED` requests before, rounded down to a multiple of `CACHE_STEP`.
    """

    def __init__(
        self,
        model: ChatModel,
        counter: TokenCounter,
        *,
        merges: bool = True,
        system_role: bool = True,
        reply_tokens: int = 0,
    ) -> None:
        """Wrap `model`.

        Args:
            model: Answers.
            counter: Counts the tokens of texts.
            merges: Whether consecutive messages of one role are sent as one.
            system_role: Whether the system message is sent as such.
            reply_tokens: Shorter replies are filled up to this many tokens.
        """
        self.usages: list[Usage] = []
        self._model, self._counter = model, counter
        self._merges, self._system_role = merges, system_role
        self._reply_tokens = reply_tokens
        self._sent: deque[tuple[_Groups, list[int]]] = deque(maxlen=REMEMBERED)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the other model's reply with the token counts of request and reply."""
        reply = await self._model.complete(messages)
        missing = self._reply_tokens - self._counter.count(reply.text)
        if missing > 0:  # "so" is one token
            reply = replace(reply, text=f"{' '.join(['so'] * (missing - 1))}\n{reply.text}")
        if not self._system_role:
            messages = without_system_role(messages)
        by_role = groupby(messages, key=lambda message: message.role)
        sent: _Groups = [(message,) for message in messages]
        if self._merges:
            sent = [tuple(group) for _, group in by_role]
        known = self._known(sent)
        tokens = known + [_count(self._counter, group) for group in sent[len(known) :]]
        cached = sum(known) // CACHE_STEP * CACHE_STEP
        usage = Usage(sum(tokens) + REQUEST_TOKENS, cached, self._counter.count(reply.text))
        self._sent.append((sent, tokens))
        self.usages.append(usage)
        return replace(reply, usage=usage)

    def _known(self, sent: _Groups) -> list[int]:
        """Return the tokens of the leading messages that an earlier request began with."""
        best: list[int] = []
        for before, tokens in reversed(self._sent):
            place = len(best)
            if before[place : place + 1] == sent[place : place + 1]:  # else it shares no more
                pairs = zip(before, sent, strict=False)
                shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
                best = max(best, tokens[:shared], key=len)
        return best


@lru_cache(8_192)
def _count(counter: TokenCounter, group: tuple[Message, ...]) -> int:
    """Return the tokens of messages of one role that are sent as one."""
    return count_messages(counter, merged(group))
