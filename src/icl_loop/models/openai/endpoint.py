"""What an endpoint is and can do, as far as it says so itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from yarl import URL

TIMEOUT_S = 10.0
"""Most seconds for all questions to an endpoint about itself."""
LOADING_S = 0.5
"""Seconds between questions to a server that is still loading its model."""

Kind = Literal[
    "llama.cpp",
    "vLLM",
    "SGLang",
    "Ollama",
    "LM Studio",
    "OpenAI",
    "OpenRouter",
    "icl-loop",
    "unknown",
]
_OWNERS: Mapping[str, Kind] = {
    "llamacpp": "llama.cpp",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "library": "Ollama",
    "organization_owner": "LM Studio",
    "icl_loop": "icl-loop",
}
"""Servers by the `owned_by` of the models that they list."""
_HOSTS: Mapping[str, Kind] = {
    "openai.com": "OpenAI",
    "openai.azure.com": "OpenAI",
    "openrouter.ai": "OpenRouter",
}
_LARGEST = 10**9
"""Larger counts are ignored as errors."""
_WINDOWS = (
    ("max_model_len",),  # vLLM, SGLang
    ("meta", "n_ctx"),  # llama.cpp, per slot
    ("context_length",),  # OpenRouter, Together, icl-loop serve
    ("top_provider", "context_length"),  # OpenRouter
    ("context_window",),  # Groq
    ("max_context_length",),  # LM Studio, Mistral
    ("loaded_context_length",),  # LM Studio
)
"""Where a list of models has the context window of a model; the smallest number counts."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an endpoint says about itself and one of its models.

    Attributes:
        kind: The server.
        models: The names of its models.
        context_window: Context window of the model in tokens; for llama.cpp that of one slot.
        slots: How many requests llama.cpp processes at a time, each with a prompt cache of its own.
        system_role: Whether the chat template has a system role, according to llama.cpp.
        failure: Why the list of models could not be read; None if it could.
        reached: Whether there was any response.
        address: Its base URL.
    """

    kind: Kind = "unknown"
    models: tuple[str, ...] = ()
    context_window: int | None = None
    slots: int | None = None
    system_role: bool | None = None
    failure: str | None = None
    reached: bool = True
    address: str = ""


class NoAnswer(Exception):
    """A question without a usable answer; the message is a predicate whose subject is the address."""


class NoConnection(NoAnswer):
    """A question without any response."""


Get = Callable[[URL], Awaitable[tuple[int, bytes]]]
"""Returns status and body of a GET request; raises NoConnection if there is no response."""


def at(base_url: URL, *parts: str) -> URL:
    """Return an address below `base_url`, with its query, which may hold the version of the API."""
    return base_url.joinpath(*parts).with_query(base_url.query)


async def discover(get: Get, base_url: URL, name: str) -> Endpoint:
    """Ask the endpoint at `base_url` what it is and what it says about the model `name`.

    It takes at most `TIMEOUT_S` seconds. Whatever cannot be found out stays unknown.
    """
    found = Endpoint(_kind_of_host(base_url), address=str(base_url))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            entries = _entries(await _json(get, at(base_url, "models")))
            found = _from_list(found, entries, name)
            return await _asked_further(get, base_url, name, found)
    except (NoAnswer, TimeoutError) as error:
        if found.models:
            return found
        reached = not isinstance(error, NoConnection | TimeoutError)
        return replace(found, failure=str(error) or "did not answer in time", reached=reached)


def _from_list(known: Endpoint, entries: list[Mapping[str, Any]], name: str) -> Endpoint:
    """Return what a list of models says."""
    owners = {str(entry.get("owned_by")).lower() for entry in entries}
    kind = next((_OWNERS[owner] for owner in sorted(owners & _OWNERS.keys())), known.kind)
    entry = _entry(entries, name, kind)
    base = _entry(entries, str(entry.get("parent")), kind)  # of an adapter in vLLM
    return replace(
        known,
        kind=kind,
        models=tuple(str(entry["id"]) for entry in entries),
        context_window=min([*_windows(entry), *_windows(base)], default=None),
    )


async def _asked_further(get: Get, base_url: URL, name: str, known: Endpoint) -> Endpoint:
    """Return what a server of a known kind says at addresses of its own."""
    root = base_url.with_path(base_url.path.rstrip("/").removesuffix("/v1"))
    match known.kind:
        case "llama.cpp":
            props = _table(await _json(get, root / "props"))
            window = _table(props.get("default_generation_settings")).get("n_ctx")
            system_role = _table(props.get("chat_template_caps")).get("supports_system_role")
            return replace(
                known,
                context_window=_count(window) or known.context_window,
                slots=_count(props.get("total_slots")),
                system_role=system_role if isinstance(system_role, bool) else None,
            )
        case "Ollama":  # the window of a model that is not loaded is not known
            loaded = _table(await _json(get, root / "api" / "ps")).get("models")
            entry = _entry(_entries(loaded), name, known.kind)
            return replace(known, context_window=_count(entry.get("context_length")))
        case "LM Studio":
            entries = _entries(await _json(get, root / "api" / "v0" / "models"))
            window = min(_windows(_entry(entries, name, known.kind)), default=None)
            return replace(known, context_window=window or known.context_window)
    return known


async def _json(get: Get, url: URL) -> Any:  # noqa: ANN401  any JSON
    """Return the JSON at an address; wait while the server is loading its model."""
    status, content = await get(url)
    if status == 503:
        await asyncio.sleep(LOADING_S)
        return await _json(get, url)
    if status != 200:
        raise NoAnswer(f"answered {status} to GET {url.path}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise NoAnswer(f"did not answer GET {url.path} with JSON") from None


def _entries(listed: object) -> list[Mapping[str, Any]]:
    """Return the models in a list, each with an id."""
    if isinstance(listed, dict):
        listed = listed.get("data")
    entries = (
        [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    named = [{"id": each.get("model") or each.get("name"), **each} for each in entries]
    return [each for each in named if isinstance(each["id"], str)]


def _entry(entries: list[Mapping[str, Any]], name: str, kind: Kind) -> Mapping[str, Any]:
    """Return the entry of the model `name`; that of the only model if the server takes any name."""
    for entry in entries:
        aliases = entry.get("aliases")
        names = [entry["id"], *(aliases if isinstance(aliases, list) else ())]
        if any(known in names for known in (name, f"{name}:latest", f"models/{name}")):
            return entry
    return entries[0] if kind == "llama.cpp" and len(entries) == 1 else {}


def _windows(entry: Mapping[str, Any]) -> Iterator[int]:
    """Yield the context windows that the entry of a model names."""
    for path in _WINDOWS:
        value: object = entry
        for key in path:
            value = _table(value).get(key)
        if (count := _count(value)) is not None:
            yield count


def _kind_of_host(base_url: URL) -> Kind:
    host = base_url.host or ""
    return next(
        (kind for name, kind in _HOSTS.items() if host == name or host.endswith(f".{name}")),
        "unknown",
    )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    """Return a whole number from 1 to `_LARGEST`, or None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    return None
