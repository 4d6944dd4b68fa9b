"""Connections to an endpoint: its address, certificates, proxy, timeouts and failures."""

import os
import ssl
import sys
import urllib.request
from contextlib import suppress

import aiohttp
from yarl import URL

from icl_loop.core.errors import OUT_OF_FILES, InputError, reason_of

OPENAI_URL = "https://api.openai.com/v1"
MAX_CONNECTIONS = 1_000
CONNECT_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 16 * 2**20


def parse_base_url(base_url: str | None) -> URL:
    """Return `base_url`, or else the value of OPENAI_BASE_URL, or else OpenAI's address."""
    return URL(base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL)


def open_session(
    proxy: str | None, timeout_s: float, certificates: ssl.SSLContext
) -> aiohttp.ClientSession:
    """Return an HTTP session for the running event loop.

    The timeout limits each silence and the whole request, so a slow trickle of bytes ends too.
    """
    connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=certificates),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=connect_s + timeout_s, sock_connect=connect_s, sock_read=timeout_s
        ),
        proxy=proxy,
    )


def trusted_certificates() -> ssl.SSLContext:
    """Return an SSL context with the system's certificates, or SSL_CERT_FILE's or SSL_CERT_DIR's.

    Raises:
        InputError: The certificates cannot be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if sys.platform == "darwin" and not (file or folder):
        import truststore  # noqa: PLC0415  OpenSSL cannot read the system's certificates there

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"the certificates named by SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({reason})"
        ) from None


def find_proxy(url: URL) -> str | None:
    """Return the HTTP proxy that the environment sets for `url`, or None.

    Raises:
        InputError: The proxy is of another kind, such as SOCKS.
    """
    proxies = urllib.request.getproxies()
    setting = proxies.get(url.scheme) or proxies.get("all")
    if not setting or urllib.request.proxy_bypass(url.host or ""):
        return None
    proxy = setting if "://" in setting else f"http://{setting}"
    with suppress(ValueError):
        address = URL(proxy)
        if address.scheme in ("http", "https") and address.host:
            return proxy
    raise InputError(
        f"{url.scheme}_proxy or all_proxy sets a proxy for {url.host} that is not an HTTP proxy"
        f" (it begins with {proxy.partition('://')[0] + '://'!r}); use http://host:port or"
        " https://host:port, or add the host to no_proxy"
    )


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, cut off shortly after `MAX_RESPONSE_BYTES`."""
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_RESPONSE_BYTES:
            break
    return bytes(content)


def describe_failure(error: BaseException) -> str:
    """Return what went wrong with a connection, as a predicate whose subject is the address."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "no reason given"
            return (
                f"has a certificate that is not trusted: {reason} (check base_url; to trust a"
                " private authority, set SSL_CERT_FILE to the file of its certificate)"
            )
        case aiohttp.ClientConnectorSSLError():
            return "failed the TLS handshake (check whether base_url should begin with https)"
        case aiohttp.ClientProxyConnectionError():
            return "cannot be reached: the proxy is unreachable"
        case aiohttp.ClientHttpProxyError():
            return f"cannot be reached: the proxy answered {error.status}"
        case aiohttp.ClientConnectorError(errno=number) if number in OUT_OF_FILES:
            return f"cannot be reached: {reason_of(error)}"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "cannot be reached"
        case TimeoutError():
            return "did not answer in time"
        case _:
            return f"broke off the connection ({type(error).__name__})"
