"""Models: whatever answers a conversation, real, simulated, scripted or saved."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icl_loop.errors import InputError, nearest
from icl_loop.models.chat import CallableModel, ChatModel, Closable, ScriptedModel
from icl_loop.models.participants import Chance
from icl_loop.models.reference import NearestNeighbour
from icl_loop.models.replay import ReplayModel

__all__ = [
    "BUILT_IN",
    "CallableModel",
    "ChatModel",
    "Closable",
    "ReplayModel",
    "ScriptedModel",
    "check_model_name",
    "is_built_in",
    "open_model",
]

BUILT_IN: Mapping[str, Callable[[int, Sequence[str]], ChatModel]] = {
    "reference/nearest": NearestNeighbour,
    "participant/chance": Chance,
}
"""Models that need no endpoint: each is made from a seed and the wordings it listens for."""

_FAMILIES = {name.partition("/")[0] for name in BUILT_IN}


def is_built_in(name: str) -> bool:
    """Return whether this name is of one of our own families rather than an endpoint's."""
    return name.partition("/")[0] in _FAMILIES


def check_model_name(name: str) -> str:
    """Return `name`, or raise InputError if it names no model of a family of ours."""
    if is_built_in(name) and name not in BUILT_IN:
        raise InputError(f"unknown model {name!r}: {nearest(name, BUILT_IN)}")
    return name


def open_model(
    name: str,
    *,
    seed: int = 0,
    wordings: Sequence[str] = (),
    base_url: str | None = None,
    api_key_env: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> ChatModel:
    """Return the model called `name`.

    Args:
        name: One of `BUILT_IN`, or the name under which an OpenAI-compatible endpoint serves it.
        seed: Keys the randomness of built-in models.
        wordings: Names or files of the wordings that built-in models listen for.
        base_url: Address of the endpoint; OpenAI's if None.
        api_key_env: Name of the environment variable that holds the key.
        params: Passed on with every request.

    Raises:
        InputError: There is no such built-in model, or the key is not in the environment.
    """
    check_model_name(name)
    if name in BUILT_IN:
        return BUILT_IN[name](seed, wordings)
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  only real models need the client

    return OpenAIModel(name, base_url=base_url, api_key_env=api_key_env, params=params)
