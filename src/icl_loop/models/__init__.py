"""Models: whatever answers a conversation, real, simulated, scripted or saved."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError, nearest
from icl_loop.models.chat import (
    AnswerFormat,
    CallableModel,
    ChatModel,
    Closable,
    ScriptedModel,
)
from icl_loop.models.reference import KernelRidge, NearestNeighbour, Propagation, Prototype
from icl_loop.models.replay import ReplayModel
from icl_loop.models.simulated import (
    Chance,
    Constant,
    FormatBreaker,
    LabelCounter,
    Oracle,
    Refuser,
    ScheduledAccuracy,
    WinStayLoseShift,
)

__all__ = [
    "BUILT_IN",
    "AnswerFormat",
    "CallableModel",
    "ChatModel",
    "Closable",
    "ReplayModel",
    "ScriptedModel",
    "check_params",
    "is_built_in",
    "open_model",
]

BUILT_IN: Mapping[str, Callable[..., ChatModel]] = {
    "reference/nearest": NearestNeighbour,
    "reference/prototype": Prototype,
    "reference/ridge": KernelRidge,
    "reference/propagation": Propagation,
    "simulated/chance": Chance,
    "simulated/constant": Constant,
    "simulated/counter": LabelCounter,
    "simulated/decreed": ScheduledAccuracy,
    "simulated/format-breaker": FormatBreaker,
    "simulated/perfect": Oracle,
    "simulated/refuser": Refuser,
    "simulated/win-stay-lose-shift": WinStayLoseShift,
}
"""Models that need no endpoint: each is made from a seed, the prompt sets it listens for, and
parameters of its own, given by keyword."""

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


def check_params(name: str, params: Iterable[str]) -> None:
    """Raise InputError if the built-in model called `name` does not take one of these parameters."""
    known = list(inspect.signature(BUILT_IN[name]).parameters)[2:]
    for key in params:
        if key not in known:
            instead = nearest(key, known) if known else "it takes none"
            raise InputError(f"{name} takes no parameter {key!r}: {instead}")


def open_model(
    name: str,
    *,
    seed: int = 0,
    prompt_sets: Sequence[str] = (),
    **endpoint: Any,  # noqa: ANN401  the keyword arguments of OpenAIModel, typed there
) -> ChatModel:
    """Return the model called `name`.

    Args:
        name: One of `BUILT_IN`, or the name under which an OpenAI-compatible endpoint serves it.
        seed: Keys the randomness of built-in models.
        prompt_sets: Names or files of the prompt sets that built-in models listen for.
        endpoint: How a real model is asked: the keyword arguments of `OpenAIModel`. A built-in
            model takes only `params` of these: parameters of its own.

    Raises:
        InputError: There is no such built-in model, it takes no such parameter, or the key is not
            in the environment.
    """
    if is_built_in(name, endpoint.get("base_url")):
        return _built_in(name, seed, prompt_sets, endpoint.get("params") or {})
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  only real models need the client

    return OpenAIModel(name, **endpoint)


def _built_in(
    name: str, seed: int, prompt_sets: Sequence[str], params: Mapping[str, object]
) -> ChatModel:
    check_params(name, params)
    return BUILT_IN[name](seed, prompt_sets, **params)
