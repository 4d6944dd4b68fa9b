"""Keys, and what is sent beside a body."""

import os
from collections.abc import Mapping

import httpx2
import openai
from yarl import URL

from icl_loop.core.errors import InputError

DEFAULT_KEY = "OPENAI_API_KEY"
NO_KEY = "none"
"""What the client, which insists on a key, is given where there is none."""


def key_variable_of(base_url: str | None, variable: str | None) -> str | None:
    """Return the variable that holds the key; where none is named, only OpenAI's address has one."""
    return variable or (DEFAULT_KEY if base_url is None else None)


def key_in(variable: str) -> str:
    """Return a key from the environment."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"the environment variable {variable} holds no key")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"the environment variable {variable} holds something that is no key")
    return key


def client_of(
    key: str,
    base: URL,
    organization: str | None,
    headers: Mapping[str, str],
    lister: httpx2.AsyncClient,
) -> openai.AsyncOpenAI:
    """Return the client, which lists models by `lister` and asks once."""
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=str(base),
        organization=organization,
        default_headers=headers,
        max_retries=0,
        http_client=lister,
    )


def headers_of(
    client: openai.AsyncOpenAI, organization: str | None, own: Mapping[str, str], *, with_key: bool
) -> dict[str, str]:
    """Return what is sent with every request; of what has the same name, the key goes first."""
    return {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": client.user_agent,
        **({"OpenAI-Organization": organization} if organization else {}),
        **own,
        **(client.auth_headers if with_key else {}),
    }
