"""What a value of a setting must be, said in words where it is not."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator

from icl_loop.context import context_policy
from icl_loop.core.errors import InputError, nearest


def one_of(choices: Sequence[str] | Mapping[str, object]) -> BeforeValidator:
    """Return a validator that accepts these names and points to the nearest."""

    def check(value: object) -> object:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(nearest(str(value), choices))
        return value

    return BeforeValidator(check)


def checked_by(check: Any) -> AfterValidator:  # noqa: ANN401  any function of one string
    """Return a validator that accepts what `check` accepts, and says what it says."""

    def run(value: str) -> str:
        try:
            check(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(run)


def as_file_name(value: str) -> str:
    """Return a name under which a file can be saved anywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(
            "must be a name for files: up to 100 letters, digits, dots, underscores and hyphens, and a"
            " letter or digit first"
        )
    return value


def as_variable(value: str) -> str:
    """Return the name of an environment variable."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", value):
        raise ValueError(
            "must be the name of an environment variable: capital letters, digits and underscores"
        )
    return value


def as_policy(value: str) -> str:
    """Return a context policy as it writes itself."""
    try:
        return str(context_policy(value))
    except InputError as error:
        raise ValueError(str(error)) from None


_SECRET = re.compile("key|token|auth|secret|cookie|password|signature", re.IGNORECASE)
"""What the name of a header or of a query's field holds if its value is not for a file."""


def as_address(value: str | None) -> str | None:
    """Return an address, which must be of the web and hold no secret."""
    if value is not None:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("must not hold a user name or a key; name a variable in api_key_env")
        if any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            raise ValueError("must not hold a key in its query; name its variable in headers_env")
    return value


def no_secrets(params: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a request, none of which may look like a secret."""
    for key, value in params.items():
        plain = key.lower().replace("-", "_")
        if any(word in plain for word in ("api_key", "authorization", "secret", "password")):
            raise ValueError(f"{key!r} looks like a secret; name a variable in api_key_env")
        if isinstance(value, dict):
            no_secrets(value)
    return params


def no_secret_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return headers, none of which may look like a secret."""
    for name in headers:
        if _SECRET.search(name):
            raise ValueError(f"{name!r} looks like a secret; name its variable in headers_env")
    return headers
