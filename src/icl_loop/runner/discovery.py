"""What the endpoints of an experiment are, asked before its first request."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.experiment import Experiment, ModelSettings, Settings
from icl_loop.experiment.settings import AUTO, WINDOW
from icl_loop.models.prices import listed_window

if TYPE_CHECKING:  # the HTTP client loads slowly
    from icl_loop.models.openai.endpoint import Endpoint

Endpoints = Mapping[str, "Endpoint"]
"""Endpoints by `endpoint_key`."""
_PLACE = ("name", "base_url", "api_key_env", "organization", "headers", "headers_env")


def endpoint_key(model: ModelSettings) -> str:
    """Return a key that is equal for models with the same name, address and account."""
    return model.model_dump_json(include=set(_PLACE))


async def ask_endpoints(experiment: Experiment) -> Endpoints:
    """Return what the endpoints of an experiment say about themselves.

    Raises:
        InputError: An API key is missing.
    """
    models = {endpoint_key(each.model): each.model for each in _settings(experiment)}
    asked = {key: model for key, model in models.items() if not model.is_built_in}
    with experiment.named_in_errors():
        found = await asyncio.gather(*map(_ask, asked.values()))
    return dict(zip(asked, found, strict=True))


async def _ask(model: ModelSettings) -> "Endpoint":
    from icl_loop.models.openai import OpenAIModel  # noqa: PLC0415  the HTTP client loads slowly

    async with aclosing(OpenAIModel(**model.model_dump(include=set(_PLACE)))) as opened:
        return await opened.discover()


def with_windows(experiment: Experiment, endpoints: Endpoints) -> Experiment:
    """Return the experiment with a number for each context window that is `auto`.

    Raises:
        InputError: A window is larger than the endpoint's, or `auto` and cannot be found out.
        StoppedShort: It is `auto`, and the endpoint cannot be reached.
    """
    with experiment.named_in_errors():
        return _with_settings(
            experiment,
            lambda arm, settings: settings.with_window(_window(arm, settings, endpoints)),
        )


def _window(arm: str, settings: Settings, endpoints: Endpoints) -> int:
    """Return the context window of an arm; `WINDOW` for `auto` if it has no known endpoint."""
    model = settings.model
    endpoint = endpoints.get(endpoint_key(model))
    if endpoint is None:
        return WINDOW if model.context_window == AUTO else model.window
    window, reported = model.context_window, endpoint.context_window
    place = f"arm {arm!r}: model.context_window = {window!r}"
    if isinstance(window, int):
        if reported is not None and window > reported:
            raise InputError(
                f"{place} is larger than the {reported} tokens that the endpoint reports for"
                f" {model.name!r}; set it to {reported} or 'auto'"
            )
        return window
    found = reported or listed_window(model.name, endpoint.address)
    if found is not None:
        return found
    if not endpoint.reached:
        raise StoppedShort(
            f"{place}: {endpoint.address} {endpoint.failure}; set the window to a number of tokens,"
            " or start the endpoint"
        )
    reason = f" ({endpoint.failure})" if endpoint.failure else ""
    raise InputError(
        f"{place}: neither {endpoint.address}{reason} nor the price list says how large the window of"
        f" {model.name!r} is; set it to a number of tokens"
    )


async def planned(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Return the experiment with a number for each context window, and remarks on guessed ones.

    Endpoints are asked only if a window is `auto`.
    """
    if all(each.model.context_window != AUTO for each in _settings(experiment)):
        return experiment, []
    return with_assumed_windows(experiment, await ask_endpoints(experiment), "plan")


def with_assumed_windows(
    experiment: Experiment, endpoints: Endpoints, purpose: str
) -> tuple[Experiment, list[str]]:
    """Return the experiment with a number for each context window, and remarks on assumed ones.

    Where a run would fail, the window is that of the endpoint, or else `WINDOW`. `purpose` says
    what assumes so.
    """
    remarks: dict[tuple[str, int | str], list[str]] = {}

    def settled(arm: str, settings: Settings) -> Settings:
        try:
            return settings.with_window(_window(arm, settings, endpoints))
        except (InputError, StoppedShort) as error:
            key, model = endpoint_key(settings.model), settings.model
            assumed = endpoints[key].context_window or WINDOW
            remark = f"{error}. This {purpose} assumes {assumed:,} tokens."
            remarks.setdefault((key, model.context_window), []).append(remark)
            return settings.with_window(assumed)

    changed = _with_settings(experiment, settled)
    return changed, [
        first + f" The same holds for {len(others)} other arms." * bool(others)
        for first, *others in remarks.values()
    ]


def slots(endpoints: Iterable["Endpoint"]) -> int | None:
    """Return the number of slots of the llama.cpp servers among `endpoints`; None without any."""
    return sum({each.address: each.slots or 0 for each in endpoints}.values()) or None


def _settings(experiment: Experiment) -> list[Settings]:
    return [*experiment.arms.values(), *(each.settings for each in experiment.branches)]


def _with_settings(
    experiment: Experiment, change: Callable[[str, Settings], Settings]
) -> Experiment:
    """Return the experiment with changed settings of all arms and branches."""
    return replace(
        experiment,
        arms={arm: change(arm, settings) for arm, settings in experiment.arms.items()},
        branches=tuple(
            replace(each, settings=change(each.arm, each.settings)) for each in experiment.branches
        ),
    )
