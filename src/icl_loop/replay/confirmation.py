"""Addresses and environment variables that a transcript names are used only if the user gives them."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icl_loop.core.errors import InputError
from icl_loop.core.web_addresses import is_loopback
from icl_loop.experiment import ModelSettings
from icl_loop.transcripts.comparison import flat

PROVIDERS: Mapping[str, frozenset[str]] = {
    "api.anthropic.com": frozenset({"ANTHROPIC_API_KEY"}),
    "api.cerebras.ai": frozenset({"CEREBRAS_API_KEY"}),
    "api.deepseek.com": frozenset({"DEEPSEEK_API_KEY"}),
    "api.fireworks.ai": frozenset({"FIREWORKS_API_KEY"}),
    "api.groq.com": frozenset({"GROQ_API_KEY"}),
    "api.mistral.ai": frozenset({"MISTRAL_API_KEY"}),
    "api.openai.com": frozenset({"OPENAI_API_KEY"}),
    "api.together.xyz": frozenset({"TOGETHER_API_KEY"}),
    "api.x.ai": frozenset({"XAI_API_KEY"}),
    "generativelanguage.googleapis.com": frozenset({"GEMINI_API_KEY", "GOOGLE_API_KEY"}),
    "openrouter.ai": frozenset({"OPENROUTER_API_KEY"}),
}
"""The variables that by convention hold the key of a provider, by the host of its API."""


def confirmed(model: ModelSettings, given: Mapping[str, Any], path: Path) -> ModelSettings:
    """Return the settings of a branch's model without recorded variables that the user did not give.

    A recorded variable is used only if it is given too, or is that of the provider at the address. A
    recorded address gets the value of a variable only if it is given too, is that of a provider, or
    is on loopback. An address that is given gets no recorded variable.

    Args:
        model: The recorded settings, overridden by those given.
        given: The table `model` of the settings given on the command line.
        path: The transcript.

    Raises:
        InputError: The address or a variable must be given; the message says how.
    """
    if model.is_built_in:
        return model
    variables = {f"headers_env.{name}": each for name, each in model.headers_env.items()}
    if model.api_key_env is not None:
        variables["api_key_env"] = model.api_key_env
    chosen = flat(given)
    known = _known_variables(model.base_url)
    recorded = {
        key: name
        for key, name in variables.items()
        if chosen.get(key) != name and (key != "api_key_env" or name not in known)
    }
    if "base_url" in chosen:
        headers = {
            name: each
            for name, each in model.headers_env.items()
            if f"headers_env.{name}" not in recorded
        }
        key = None if "api_key_env" in recorded else model.api_key_env
        return model.model_copy(update={"headers_env": headers, "api_key_env": key})
    elsewhere = not known and not is_loopback(model.base_url or "")
    if recorded or (variables and elsewhere):
        raise InputError(_question(model, variables, chosen, path))
    return model


def _question(
    model: ModelSettings, variables: Mapping[str, str], chosen: Mapping[str, Any], path: Path
) -> str:
    """Return what a transcript names, and how to confirm it."""
    wanted = {"base_url": model.base_url, **variables}
    arguments = " ".join(
        f"--set {shlex.quote(f'model.{key}={value}')}"
        for key, value in wanted.items()
        if value is not None and chosen.get(key) != value
    )
    names = ", ".join(dict.fromkeys(variables.values()))
    address = model.base_url or "OpenAI's address, or that in OPENAI_BASE_URL"
    return (
        f"{path}, line 1, settings.model: the values of the environment variables {names} would be"
        f" sent to {address}, as this file says. Choose an address and a key of your own by --set"
        f" model.base_url=... and --set model.api_key_env=..., or allow it with: {arguments}"
    )


def _known_variables(base_url: str | None) -> frozenset[str]:
    """Return the variables that hold the key of the provider at an address; none if it is not known."""
    address = urlsplit(base_url or "https://api.openai.com")
    is_standard = address.scheme == "https" and address.port in (None, 443)
    return PROVIDERS.get(address.hostname or "", frozenset()) if is_standard else frozenset()
