"""The one seam to whatever answers: messages in, a reply out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from icl_loop.core.errors import RequestRefused
from icl_loop.core.messages import Message, Reply

AnswerFormat = Literal["text", "schema", "logprobs"]
"""How an endpoint is asked to answer: freely, as JSON of one label, with label log probabilities."""


class ChatModel(Protocol):
    """Answers a conversation."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to `messages`.

        Raises:
            ModelError: There is no reply, now or ever.
        """
        ...


@runtime_checkable
class Closable(Protocol):
    """A model that holds connections."""

    async def aclose(self) -> None:
        """Let go of them."""
        ...


@dataclass(frozen=True, slots=True)
class CallableModel:
    """A model made of a plain function from messages to the text of the reply."""

    function: Callable[[Sequence[Message]], str]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return what the function says."""
        return Reply(self.function(messages))


class ScriptedModel:
    """Gives the replies it was made with, one after another, whatever it is asked."""

    def __init__(self, replies: Sequence[Reply | str]) -> None:
        self._replies = tuple(replies)
        self._given = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  as documented
        """Return the next reply of the script.

        Raises:
            RequestRefused: The script has ended.
        """
        if self._given == len(self._replies):
            raise RequestRefused(f"the script ends after {self._given} replies")
        reply = self._replies[self._given]
        self._given += 1
        return Reply(reply) if isinstance(reply, str) else reply
