"""The context window of a model, and the past turns that a request shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Message, user
from icl_loop.core.records import Exemplar, Span, Turn
from icl_loop.core.tokens import (
    ESTIMATORS,
    REQUEST_TOKENS,
    TokenCounter,
    count_message,
    count_messages,
)

Shown = Sequence[int]
"""Indices of past turns, in the order in which a request shows them."""


@dataclass(frozen=True, slots=True)
class Window:
    """The context window of a model, and how its tokens are counted.

    Attributes:
        tokens: Size of the window in tokens, request and reply together.
        reserve: Tokens kept free for the reply.
        counter: Counts the tokens of texts.
        merged: Whether feedback is sent in one message with the next question.
    """

    tokens: int = 32_768
    reserve: int = 1_024
    counter: TokenCounter = ESTIMATORS["o200k_base"]
    merged: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.reserve < self.tokens:
            raise InputError(
                f"reserve must be at least 0 and less than the {self.tokens} tokens of the window,"
                f" got {self.reserve}"
            )

    def left_after(self, *messages: Message) -> int:
        """Return the tokens left for past turns in a request that also holds `messages`."""
        used = count_messages(self.counter, messages) + REQUEST_TOKENS
        return self.tokens - self.reserve - used

    def count_answered(self, turn: Turn | Exemplar) -> int:
        """Return the tokens of the reply and feedback of a turn or an exemplar."""
        _, reply, told = turn.messages
        return count_message(self.counter, reply) + self.count_feedback(told.text)

    def count_feedback(self, told: str) -> int:
        """Return the tokens of a feedback text."""
        if self.merged:
            return self.counter.count(told + JOIN)
        return count_message(self.counter, user(told))


def from_spans(spans: Sequence[Span]) -> list[int]:
    """Return the turns in `spans`, each of which is the first and last index of a run of turns."""
    return [index for first, last in spans for index in range(first, last + 1)]


def to_spans(shown: Shown) -> tuple[Span, ...]:
    """Return the runs of consecutive turns in `shown`, each as its first and last index."""
    spans: list[Span] = []
    for index in shown:
        if spans and spans[-1][1] == index - 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return tuple(spans)
