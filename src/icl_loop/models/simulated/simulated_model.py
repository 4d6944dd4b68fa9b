"""The base class of simulated models, and the checks of their parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_index
from icl_loop.models.conversation_parser import ConversationParser, request_key

STEPS = 2**32
"""Equal steps into which a uniform random number divides [0, 1)."""


class SimulatedModel(ABC):
    """A model with known behaviour; its random choices depend on the seed and the request only."""

    def __init__(self, seed: int = 0, parser: ConversationParser | None = None) -> None:
        self.seed = seed
        self.parser = parser or ConversationParser()

    @abstractmethod
    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the simulated reply."""

    def choice(self, options: Sequence[str], purpose: str, messages: Sequence[Message]) -> str:
        """Return one of `options` at random; `purpose` separates the choices about a request."""
        return options[keyed_index(len(options), self.seed, purpose, request_key(messages))]

    def uniform(self, purpose: str, messages: Sequence[Message]) -> float:
        """Return a random number from [0, 1); `purpose` separates the numbers for a request."""
        return keyed_index(STEPS, self.seed, purpose, request_key(messages)) / STEPS


def probability(name: str, value: object) -> float:
    """Return the parameter called `name`, which must be a number from 0 to 1."""
    number = non_negative(name, value)
    if number > 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
    return number


def non_negative(name: str, value: object) -> float:
    """Return the parameter called `name`, which must be a finite number of at least 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")


def text(name: str, value: object) -> str:
    """Return the parameter called `name`, which must be a string."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {value!r}")
    return value
