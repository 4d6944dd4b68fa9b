"""Web addresses in settings and in the environment."""

import ipaddress
import re
from urllib.parse import urlsplit

_EXAMPLE = "http://127.0.0.1:8000/v1"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_HOST_NAME = re.compile(rf"\w[\w-]{{0,62}}(?:\.{_LABEL})*\.?")


def check_web_address(address: str) -> None:
    """Raise ValueError, saying what `address` must be, unless it is an http or https address.

    It must not contain a user name or password, because it is shown in errors.
    """
    if re.match(r"https?://", address, re.IGNORECASE) is None:
        raise ValueError(f"must begin with http:// or https://, like {_EXAMPLE}")
    if re.search(r"[\s\\]", address) or not address.isprintable():
        raise ValueError("must not contain a backslash, a blank or a control character")
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        raise ValueError(f"must have a host in valid brackets, like {_EXAMPLE}") from None
    if parts.username or parts.password:
        raise ValueError(
            "must not contain a user name or key; name an environment variable in api_key_env"
        )
    if not (_is_ip(host) or (_HOST_NAME.fullmatch(host) and re.search(r"[^\d.]", host))):
        raise ValueError(f"must have a valid host, like {_EXAMPLE}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"must have a port from 1 to 65535, or none, like {_EXAMPLE}")
    from yarl import URL  # noqa: PLC0415  only real models need it

    try:
        _ = URL(address).host  # which requests are sent to
    except ValueError:
        raise ValueError(f"must have a valid host, like {_EXAMPLE}") from None


def is_loopback(address: str) -> bool:
    """Return whether a valid address is on this machine."""
    host = urlsplit(address).hostname or ""
    return ipaddress.ip_address(host).is_loopback if _is_ip(host) else host == "localhost"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
