"""The base class of simulated models, and the checks of their parameters."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_index
from icl_loop.core.validation_messages import shown_value
from icl_loop.models.conversation_parser import ConversationParser, request_key

STEPS = 2**32
"""Equal steps into which a uniform random number divides [0, 1)."""


@dataclass(eq=False)
class SimulatedModel(ABC):
    """A model with known behaviour; its random choices depend on the seed and the request only."""

    seed: int = 0
    parser: ConversationParser = field(default_factory=ConversationParser)

    @abstractmethod
    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the simulated reply."""

    def choice(self, options: Sequence[str], purpose: str, messages: Sequence[Message]) -> str:
        """Return one of `options` at random; `purpose` separates the choices about a request."""
        return options[keyed_index(len(options), self.seed, purpose, request_key(messages))]

    def uniform(self, purpose: str, messages: Sequence[Message]) -> float:
        """Return a random number from [0, 1); `purpose` separates the numbers for a request."""
        return keyed_index(STEPS, self.seed, purpose, request_key(messages)) / STEPS


def check_number(name: str, value: float, highest: float = math.inf) -> None:
    """Raise InputError unless the parameter is a finite number from 0 to `highest`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= min(highest, sys.float_info.max):
        bounds = "at least 0" if highest == math.inf else f"0 to {highest:g}"
        raise InputError(f"{name} must be a finite number, {bounds}, got {shown_value(value)}")


def check_text(name: str, value: object) -> None:
    """Raise InputError unless the parameter is a string."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {shown_value(value)}")
