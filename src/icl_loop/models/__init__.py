"""Models: anything that replies to a conversation, real, simulated, scripted or saved."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from icl_loop.core.errors import InputError, nearest
from icl_loop.models.callable_model import CallableModel, ModelFunction
from icl_loop.models.chat import (
    AnswerFormat,
    ChatModel,
    Closable,
    ProbabilisticModel,
    ScoredModel,
    ScriptedModel,
    SharedModel,
)
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.neural.in_context import InContextNetwork
from icl_loop.models.reference import algorithms
from icl_loop.models.replay import ReplayModel
from icl_loop.models.simulated import heuristics, informed
from icl_loop.tasks.prompts import PromptSet

if TYPE_CHECKING:  # the HTTP client loads slowly
    from icl_loop.models.openai.endpoint import Endpoint

__all__ = [
    "BUILT_IN",
    "AnswerFormat",
    "CallableModel",
    "ChatModel",
    "Closable",
    "EndpointOptions",
    "ModelFunction",
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
    "neural/in-context": InContextNetwork,
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

MAX_LABELS: Mapping[str, int] = {"neural/in-context": 10}
"""The largest number of labels of a built-in model that has one."""

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
        "neural",
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


class EndpointOptions(TypedDict, total=False):
    """How a model at an endpoint is called; see `OpenAIModel`."""

    api_key_env: str | None
    organization: str | None
    headers: Mapping[str, str]
    headers_env: Mapping[str, str]
    merge_roles: bool
    system_role: bool
    cache_control: bool
    labels: Sequence[str]
    form: str | None
    cap: int | None
    endpoint: "Endpoint | None"
    timeout_s: float


def open_model(
    name: str,
    *,
    seed: int = 0,
    prompts: PromptSet | None = None,
    encoding: str | None = None,
    base_url: str | None = None,
    params: Mapping[str, Any] | None = None,
    answer_format: AnswerFormat = "text",
    **options: Unpack[EndpointOptions],
) -> ChatModel:
    """Return the model called `name`.

    It is one of `BUILT_IN`, or a model at an OpenAI-compatible endpoint.

    Args:
        name: Its name.
        seed: Seed of a built-in model.
        prompts: The prompt set that a built-in model parses; any shipped set if None.
        encoding: The encoding that a built-in model parses; any if None.
        base_url: Address of the endpoint; see `OpenAIModel`.
        params: Parameters of a built-in model, or fields added to every request.
        answer_format: What is requested of an endpoint. Of a built-in model, "logprobs" has an
            effect if it knows the probabilities of its answers.
        options: Further arguments of `OpenAIModel`; a built-in model ignores them.

    Raises:
        InputError: There is no such built-in model, it has no such parameter, or the API key is
            not in the environment.
    """
    if is_built_in(name, base_url):
        own = params or {}
        check_params(name, own)
        model = BUILT_IN[name](seed, ConversationParser(prompts, encoding), **own)
        is_scored = answer_format == "logprobs"
        return ScoredModel(model) if is_scored and isinstance(model, ProbabilisticModel) else model
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  only real models need the client

    return OpenAIModel(
        name, base_url=base_url, params=params, answer_format=answer_format, **options
    )
