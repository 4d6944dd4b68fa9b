"""A model that states what each request would have taken at an endpoint."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from icl_loop.core.messages import Message, Reply, Role, Usage, merged
from icl_loop.core.tokens import CACHE_STEP, REQUEST_TOKENS, TokenCounter, count_messages
from icl_loop.models.chat import ChatModel

_FILLER = "so"
"""A word of one token, of which thinking aloud is made."""


class CountingModel:
    """Answers one session as another model does, and states tokens as an endpoint would.

    As cached it states the leading messages that the request before had in common with this one,
    in whole steps of `CACHE_STEP` tokens.
    """

    def __init__(
        self, model: ChatModel, counter: TokenCounter, *, merges: bool = True, reply_tokens: int = 0
    ) -> None:
        """Count with `counter`; `merges` as the wire does; fill replies up to `reply_tokens`."""
        self.usages: list[Usage] = []
        self._model, self._counter = model, counter
        self._merges, self._reply_tokens = merges, reply_tokens
        self._before: Sequence[Message] = ()
        self._sums = [0]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the other model's reply, with the tokens that request and reply take."""
        reply = self._thought_over(await self._model.complete(messages))
        known = self._known(messages)
        sums = self._sums[: known + 1]
        for _, group in groupby(messages[known:], key=_role):
            sums += self._counts(list(group), sums[-1])
        cached = sums[known] - sums[known] % CACHE_STEP
        usage = Usage(sums[-1] + REQUEST_TOKENS, cached, self._counter.count(reply.text))
        self._before, self._sums = messages, sums
        self.usages.append(usage)
        return replace(reply, usage=usage)

    def _counts(self, group: list[Message], before: int) -> list[int]:
        """Return the tokens up to each message of a group of one role.

        Where the group goes out as one message, the sums within it are those at its end.
        """
        if self._merges and len(group) > 1:
            return [before + _merged_tokens(self._counter, tuple(group))] * len(group)
        sums = []
        for message in group:
            before += count_messages(self._counter, [message])
            sums.append(before)
        return sums

    def _known(self, messages: Sequence[Message]) -> int:
        """Return how many leading messages begin the request before, in the form they go out in."""
        known = 0
        for old, new in zip(self._before, messages, strict=False):
            if old is not new and old.digest != new.digest:
                break
            known += 1
        while self._merges and (_is_within(self._before, known) or _is_within(messages, known)):
            known -= 1
        return known

    def _thought_over(self, reply: Reply) -> Reply:
        """Return a reply of `reply_tokens` tokens that ends as this one does."""
        missing = self._reply_tokens - self._counter.count(reply.text)
        if missing <= 0:
            return reply
        return replace(reply, text=f"{' '.join([_FILLER] * (missing - 1))}\n{reply.text}")


def _role(message: Message) -> Role:
    return message.role


def _is_within(messages: Sequence[Message], position: int) -> bool:
    """Whether the messages before and after a position go out as one."""
    return 0 < position < len(messages) and (messages[position].role == messages[position - 1].role)


@lru_cache(8_192)
def _merged_tokens(counter: TokenCounter, group: tuple[Message, ...]) -> int:
    """Return the tokens of neighbours of one role that go out as one message."""
    return count_messages(counter, merged(group))
