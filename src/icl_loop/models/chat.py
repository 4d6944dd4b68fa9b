"""The interface of models: messages in, a reply out."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from icl_loop.core.errors import RequestRefused
from icl_loop.core.messages import Message, Reply

AnswerFormat = Literal["text", "choice", "schema", "logprobs"]
"""What is requested of an endpoint: free text; the answer line with one of the labels, in whatever
way it can limit replies; JSON with one label; or free text with label log probabilities."""

CAP_FIELDS = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
)
"""Request fields that limit the tokens of a reply, some of which only few servers know."""


class ChatModel(Protocol):
    """Answers a conversation."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to `messages`.

        Raises:
            ModelError: The model did not answer.
        """
        ...


@runtime_checkable
class Closable(Protocol):
    """A model that holds connections."""

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@runtime_checkable
class SharedModel(Protocol):
    """A model that keeps a prompt cache for each of the sessions that share it."""

    def for_session(self, name: str, slot: int | None = None) -> ChatModel:
        """Return the model as one session uses it.

        `name` identifies the session, and `slot` the part of a llama.cpp server that it has alone.
        """
        ...


TURN_FIELDS: ContextVar[Mapping[str, float]] = ContextVar("TURN_FIELDS", default={})  # noqa: B039  never changed
"""Request fields of the present turn. Models that wrap others to retry or limit requests need not
know of them."""


@dataclass(frozen=True, slots=True)
class AnnealedModel:
    """A model at an endpoint whose temperature is another one in each turn.

    Attributes:
        temperature: Returns the temperature of the present turn.
    """

    model: ChatModel
    temperature: Callable[[], float]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the model at this temperature."""
        before = TURN_FIELDS.set({"temperature": self.temperature()})
        try:
            return await self.model.complete(messages)
        finally:
            TURN_FIELDS.reset(before)


@runtime_checkable
class ProbabilisticModel(ChatModel, Protocol):
    """A model that knows the probability of each answer."""

    def label_probabilities(self, messages: Sequence[Message]) -> Mapping[str, float]:
        """Return the probability of each label as the answer to `messages`; those left out have none."""
        ...


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A model whose replies have the log probabilities of the labels, if they name one."""

    model: ProbabilisticModel

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the model with the natural log probability of each label."""
        reply = await self.model.complete(messages)
        known = self.model.label_probabilities(messages).items()
        logprobs = {label: math.log(share) for label, share in known if share > 0}
        is_answer = any(label in reply.text for label in logprobs)
        return replace(reply, label_logprobs=logprobs) if is_answer else reply


class ScriptedModel:
    """A model that returns given replies in order, whatever the messages."""

    def __init__(self, replies: Sequence[Reply | str]) -> None:
        self._replies = tuple(replies)
        self._next = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  ignored on purpose
        """Return the next reply.

        Raises:
            RequestRefused: There are no more replies.
        """
        if self._next == len(self._replies):
            raise RequestRefused(f"the script has only {self._next} replies")
        reply = self._replies[self._next]
        self._next += 1
        return Reply(reply) if isinstance(reply, str) else reply
