"""A model that counts the tokens that each request would take at an endpoint."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from icl_loop.core.messages import Message, Reply, Role, Usage, merged
from icl_loop.core.tokens import CACHE_STEP, REQUEST_TOKENS, TokenCounter, count_messages
from icl_loop.models.chat import ChatModel

_FILLER = "so"
"""A word of one token, which fills up short replies."""


class CountingModel:
    """Answers one session as another model does, and reports tokens as an endpoint would.

    Cached tokens are those of the leading messages that a request shares with the one before,
    rounded down to a multiple of `CACHE_STEP`.
    """

    def __init__(
        self, model: ChatModel, counter: TokenCounter, *, merges: bool = True, reply_tokens: int = 0
    ) -> None:
        """Wrap `model`.

        Args:
            model: Answers.
            counter: Counts the tokens of texts.
            merges: Whether consecutive messages of one role are sent as one.
            reply_tokens: Shorter replies are filled up to this many tokens.
        """
        self.usages: list[Usage] = []
        self._model, self._counter = model, counter
        self._merges, self._reply_tokens = merges, reply_tokens
        self._before: Sequence[Message] = ()
        self._sums = [0]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the other model's reply with the token counts of request and reply."""
        reply = self._filled_up(await self._model.complete(messages))
        shared = self._shared(messages)
        sums = self._sums[: shared + 1]
        for _, group in groupby(messages[shared:], key=_role):
            sums += self._sums_of(list(group), sums[-1])
        cached = sums[shared] - sums[shared] % CACHE_STEP
        usage = Usage(sums[-1] + REQUEST_TOKENS, cached, self._counter.count(reply.text))
        self._before, self._sums = messages, sums
        self.usages.append(usage)
        return replace(reply, usage=usage)

    def _sums_of(self, group: list[Message], before: int) -> list[int]:
        """Return the running token count after each message of a group of one role.

        If the group is sent as one message, each entry is the count after the whole group.
        """
        if self._merges and len(group) > 1:
            return [before + _merged_tokens(self._counter, tuple(group))] * len(group)
        sums = []
        for message in group:
            before += count_messages(self._counter, [message])
            sums.append(before)
        return sums

    def _shared(self, messages: Sequence[Message]) -> int:
        """Return how many leading messages, as they are sent, are those of the previous request."""
        shared = 0
        for old, new in zip(self._before, messages, strict=False):
            if old is not new and old.digest != new.digest:
                break
            shared += 1
        while self._merges and (_is_within(self._before, shared) or _is_within(messages, shared)):
            shared -= 1
        return shared

    def _filled_up(self, reply: Reply) -> Reply:
        """Return the reply with filler before it, so that it has `reply_tokens` tokens."""
        missing = self._reply_tokens - self._counter.count(reply.text)
        if missing <= 0:
            return reply
        return replace(reply, text=f"{' '.join([_FILLER] * (missing - 1))}\n{reply.text}")


def _role(message: Message) -> Role:
    return message.role


def _is_within(messages: Sequence[Message], position: int) -> bool:
    """Return whether the messages on both sides of a position are sent as one."""
    return 0 < position < len(messages) and messages[position].role == messages[position - 1].role


@lru_cache(8_192)
def _merged_tokens(counter: TokenCounter, group: tuple[Message, ...]) -> int:
    """Return the tokens of messages of one role that are sent as one."""
    return count_messages(counter, merged(group))
