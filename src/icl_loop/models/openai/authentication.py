"""API keys: read from the environment, sent as headers, removed from error messages."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from icl_loop.core.errors import InputError

DEFAULT_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The API key and the secret headers of one endpoint.

    Attributes:
        variable: Environment variable that holds the API key, or None if no key is sent.
        headers: Request headers that contain the secrets.
        secrets: The secrets themselves.
    """

    variable: str | None
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def from_environment(
        cls, base_url: str | None, api_key_env: str | None, headers_env: Mapping[str, str]
    ) -> Self:
        """Read the secrets of the endpoint at `base_url`.

        Without `api_key_env` only OpenAI's own address gets a key, so that an OpenAI key is never
        sent to another endpoint by accident.

        Raises:
            InputError: A variable contains no valid key.
        """
        variable = api_key_env or (DEFAULT_VARIABLE if base_url is None else None)
        headers = {name: _read_key(each) for name, each in headers_env.items()}
        secrets = tuple(headers.values())
        if variable:
            key = _read_key(variable)
            headers["Authorization"] = f"Bearer {key}"
            secrets += (key,)
        return cls(variable, headers, secrets)

    def redact(self, text: str) -> str:
        """Return `text` with every secret replaced by a placeholder."""
        for secret in self.secrets:
            text = text.replace(secret, "[key]")
        return text


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"the environment variable {variable} is not set or empty")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"the environment variable {variable} does not contain a valid API key")
    return key
