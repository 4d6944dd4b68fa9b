"""What simulated models have in common: they listen, and all that is random is keyed by the request."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import keyed_index
from icl_loop.models.conversation_parser import ConversationParser, signature

STEPS = 2**32
"""Equal steps into which a uniform number divides [0, 1)."""


class SimulatedModel(ABC):
    """A simulated model of known behaviour."""

    def __init__(self, seed: int = 0, prompt_sets: Sequence[str] = ()) -> None:
        """Key the randomness by `seed`; listen for these prompt sets, all shipped ones if none."""
        self.seed = seed
        self.listener = ConversationParser(prompt_sets)

    @abstractmethod
    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply that the participant's nature gives."""

    def one_of(self, choices: Sequence[str], purpose: str, messages: Sequence[Message]) -> str:
        """Return one of `choices`, each as likely as the others, for this purpose in this request."""
        return choices[keyed_index(len(choices), self.seed, purpose, signature(messages))]

    def uniform(self, purpose: str, messages: Sequence[Message]) -> float:
        """Return a number drawn evenly from [0, 1) for this purpose in this request."""
        return keyed_index(STEPS, self.seed, purpose, signature(messages)) / STEPS


def share(name: str, value: object) -> float:
    """Return `value`, which must be a share from 0 to 1; `name` is what it is of."""
    number = finite(name, value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} is a share from 0 to 1, got {value!r}")
    return number


def finite(name: str, value: object) -> float:
    """Return `value`, which must be a finite number of at least 0; `name` is what it is of."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is a number, got {value!r}")
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is a finite number of at least 0, got {value!r}")
    return float(value)


def text(name: str, value: object) -> str:
    """Return `value`, which must be a text; `name` is what it is of."""
    if not isinstance(value, str):
        raise InputError(f"{name} is a text, got {value!r}")
    return value
