"""Models: whatever answers a conversation, real, simulated, scripted or saved."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icl_loop.errors import InputError, nearest
from icl_loop.models.chat import (
    AnswerFormat,
    CallableModel,
    ChatModel,
    Closable,
    ScriptedModel,
)
from icl_loop.models.participants import Chance
from icl_loop.models.reference import NearestNeighbour
from icl_loop.models.replay import ReplayModel

__all__ = [
    "BUILT_IN",
    "AnswerFormat",
    "CallableModel",
    "ChatModel",
    "Closable",
    "ReplayModel",
    "ScriptedModel",
    "is_built_in",
    "open_model",
]

BUILT_IN: Mapping[str, Callable[[int, Sequence[str]], ChatModel]] = {
    "reference/nearest": NearestNeighbour,
    "participant/chance": Chance,
}
"""Models that need no endpoint: each is made from a seed and the wordings it listens for."""

_FAMILIES = {name.partition("/")[0] for name in BUILT_IN}


def is_built_in(name: str, base_url: str | None = None) -> bool:
    """Return whether a model is one of ours, played in this process; one at an address is not.

    Raises:
        InputError: The name is of one of our families, but there is no such model in it.
    """
    if base_url is not None or name.partition("/")[0] not in _FAMILIES:
        return False
    if name not in BUILT_IN:
        raise InputError(f"unknown model {name!r}: {nearest(name, BUILT_IN)}")
    return True


def open_model(
    name: str,
    *,
    seed: int = 0,
    wordings: Sequence[str] = (),
    **endpoint: Any,  # noqa: ANN401  the keyword arguments of OpenAIModel, typed there
) -> ChatModel:
    """Return the model called `name`.

    Args:
        name: One of `BUILT_IN`, or the name under which an OpenAI-compatible endpoint serves it.
        seed: Keys the randomness of built-in models.
        wordings: Names or files of the wordings that built-in models listen for.
        endpoint: How a real model is asked: the keyword arguments of `OpenAIModel`.

    Raises:
        InputError: There is no such built-in model, or the key is not in the environment.
    """
    if is_built_in(name, endpoint.get("base_url")):
        return BUILT_IN[name](seed, wordings)
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  only real models need the client

    return OpenAIModel(name, **endpoint)
