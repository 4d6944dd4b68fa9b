"""The way to an endpoint and back: addresses, certificates, proxies, and what breaks on it."""

import os
import ssl
import urllib.request

import aiohttp
import httpx2
from aiohttp import hdrs
from yarl import URL

from icl_loop.core.errors import InputError
from icl_loop.models.openai.error_responses import in_one_line

CONNECTIONS = 1_000
CONNECT_S = 10.0
"""The most seconds to wait for a connection."""
HINT_S = 10.0
"""The most seconds that an endpoint may take to list its models."""
MAX_REPLY_BYTES = 16 * 2**20
PROXY_SCHEMES = ("http", "https")


def base_of(base_url: str | None) -> URL:
    """Return the address asked, by the client's own rule where none is given."""
    if base_url is None:
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
    return URL(base_url)


def timeout_of(reply_s: float) -> aiohttp.ClientTimeout:
    """Bound connecting, each silence and the whole, so that no trickle is listened to for ever."""
    connect_s = min(CONNECT_S, reply_s)
    return aiohttp.ClientTimeout(
        total=connect_s + reply_s, sock_connect=connect_s, sock_read=reply_s
    )


def trusted_certificates() -> ssl.SSLContext:
    """Return the certificates to trust: the system's, or those that the environment names."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise InputError(
            "no certificates can be read where SSL_CERT_FILE or SSL_CERT_DIR point to"
            f" ({in_one_line(error.strerror or type(error).__name__)})"
        ) from None


def lister_of(trusted: ssl.SSLContext, proxy: str | None) -> httpx2.AsyncClient:
    """Return what lists models, by the way that requests go and no other."""
    return httpx2.AsyncClient(verify=trusted, proxy=proxy, trust_env=False, timeout=HINT_S)


def proxy_for(url: URL) -> str | None:
    """Return the proxy that the environment names for `url`, if any.

    Raises:
        InputError: It is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(url.host or ""):
        return None
    proxy = named if "://" in named else f"http://{named}"
    if not _is_http(proxy):
        raise InputError(
            f"{url.scheme}_proxy or all_proxy names no HTTP proxy for {url.host}: it is to read"
            " http://host:port or https://host:port, got one that begins with"
            f" {proxy.partition('://')[0] + '://'!r}; or put the host into no_proxy"
        )
    return proxy


def _is_http(address: str) -> bool:
    try:
        url = URL(address)
    except ValueError:
        return False
    return url.scheme in PROXY_SCHEMES and bool(url.host)


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, of which no more than a little beyond `MAX_REPLY_BYTES` is ever taken in."""
    if (response.content_length or MAX_REPLY_BYTES) < MAX_REPLY_BYTES and (
        hdrs.CONTENT_ENCODING not in response.headers
    ):
        return await response.read()
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_REPLY_BYTES:
            break
    return bytes(content)


def what_broke(error: BaseException) -> str:
    """Return what became of a connection."""
    match error:
        case aiohttp.ClientConnectorSSLError():
            return "fails at the TLS handshake (check whether base_url should begin with https)"
        case aiohttp.ClientProxyConnectionError():
            return "cannot be reached: the proxy cannot"
        case aiohttp.ClientHttpProxyError():
            return f"cannot be reached: the proxy answered {error.status}"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "cannot be reached"
        case TimeoutError():
            return "did not answer in time"
        case _:
            return f"broke off its answer ({type(error).__name__})"


def why_untrusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Return why a certificate is not trusted and what to check."""
    why = getattr(error.certificate_error, "verify_message", "") or "no reason given"
    return (
        f"shows a certificate that is not trusted: {why} (check base_url; to trust an authority"
        " of your own, set SSL_CERT_FILE to the file of its certificate)"
    )
