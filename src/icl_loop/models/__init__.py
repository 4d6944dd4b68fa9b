"""Models: anything that replies to a conversation, real, simulated, scripted or saved."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from icl_loop.core.errors import InputError, nearest
from icl_loop.models.chat import (
    AnswerFormat,
    CallableModel,
    ChatModel,
    Closable,
    ProbabilisticModel,
    ScoredModel,
    ScriptedModel,
    SharedModel,
)
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.reference import algorithms
from icl_loop.models.replay import ReplayModel
from icl_loop.models.simulated import heuristics, informed
from icl_loop.tasks.prompts import PromptSet

__all__ = [
    "BUILT_IN",
    "AnswerFormat",
    "CallableModel",
    "ChatModel",
    "Closable",
    "ProbabilisticModel",
    "ReplayModel",
    "ScoredModel",
    "ScriptedModel",
    "SharedModel",
    "check_params",
    "is_built_in",
    "open_model",
]

BUILT_IN: Mapping[str, Callable[..., ChatModel]] = {
    "reference/nearest": algorithms.NearestNeighbour,
    "reference/prototype": algorithms.NearestMean,
    "reference/ridge": algorithms.KernelRidge,
    "reference/propagation": algorithms.LabelPropagation,
    "simulated/bad-format": heuristics.BadFormat,
    "simulated/chance": heuristics.Chance,
    "simulated/constant": heuristics.Constant,
    "simulated/format-learner": heuristics.FormatLearner,
    "simulated/label-counter": heuristics.LabelCounter,
    "simulated/oracle": informed.Oracle,
    "simulated/refuser": heuristics.Refuser,
    "simulated/scheduled-accuracy": informed.ScheduledAccuracy,
    "simulated/win-stay-lose-shift": heuristics.WinStayLoseShift,
}
"""Models that need no endpoint. Each takes a seed, a conversation parser, and its own parameters."""

_RENAMED = {
    "participant/counter": "simulated/label-counter",
    "participant/decreed": "simulated/scheduled-accuracy",
    "participant/format-breaker": "simulated/bad-format",
    "participant/perfect": "simulated/oracle",
}


def is_built_in(name: str, base_url: str | None = None) -> bool:
    """Return whether a model is built in; a model at an address is not.

    Raises:
        InputError: The name looks like a built-in model, but there is none of that name.
    """
    if base_url is not None or name.partition("/")[0] not in (
        "reference",
        "simulated",
        "participant",
    ):
        return False
    if name not in BUILT_IN:
        current = _RENAMED.get(name, name.replace("participant/", "simulated/"))
        raise InputError(f"unknown model {name!r}: {nearest(current, BUILT_IN)}")
    return True


def check_params(name: str, params: Iterable[str]) -> None:
    """Raise InputError if the built-in model called `name` does not take one of these parameters."""
    known = list(inspect.signature(BUILT_IN[name]).parameters)[2:]
    for key in params:
        if key not in known:
            hint = nearest(key, known) if known else "it takes none"
            raise InputError(f"{name} has no parameter {key!r}: {hint}")


def open_model(
    name: str,
    *,
    seed: int = 0,
    prompts: PromptSet | None = None,
    encoding: str | None = None,
    **endpoint: Any,  # noqa: ANN401  the keyword arguments of OpenAIModel, typed there
) -> ChatModel:
    """Return the model called `name`.

    It is one of `BUILT_IN`, or a model at an OpenAI-compatible endpoint.

    Args:
        name: Its name.
        seed: Seed of a built-in model.
        prompts: The prompt set that a built-in model parses; any shipped set if None.
        encoding: The encoding that a built-in model parses; any if None.
        endpoint: Keyword arguments of `OpenAIModel`; a built-in model takes only `params`, and the
            `answer_format` "logprobs" if it knows the probabilities of its answers.

    Raises:
        InputError: There is no such built-in model, it has no such parameter, or the API key is
            not in the environment.
    """
    if is_built_in(name, endpoint.get("base_url")):
        params = endpoint.get("params") or {}
        check_params(name, params)
        model = BUILT_IN[name](seed, ConversationParser(prompts, encoding), **params)
        is_scored = endpoint.get("answer_format") == "logprobs"
        return ScoredModel(model) if is_scored and isinstance(model, ProbabilisticModel) else model
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  only real models need the client

    return OpenAIModel(name, **endpoint)
