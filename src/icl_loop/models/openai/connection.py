"""Connections to an endpoint: its address, certificates, proxy, timeouts and failures."""

import os
import re
import ssl
import sys
import urllib.request
from contextlib import suppress
from ipaddress import ip_address, ip_network

import aiohttp
from yarl import URL

from icl_loop.core.errors import OUT_OF_FILES, InputError, reason_of
from icl_loop.core.web_addresses import check_web_address

OPENAI_URL = "https://api.openai.com/v1"
MAX_CONNECTIONS = 1_000
CONNECT_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 64 * 2**10
"""Most bytes of one header; content security policies can be long."""
MAX_HEADERS = 1_000


def parse_base_url(base_url: str | None) -> URL:
    """Return `base_url`, or else the value of OPENAI_BASE_URL, or else OpenAI's address.

    Raises:
        InputError: It is not a valid address.
    """
    variable = os.environ.get("OPENAI_BASE_URL", "").strip()
    try:
        address = base_url or variable or OPENAI_URL
        check_web_address(address)
        return URL(address)
    except ValueError as error:
        source = "base_url" if base_url else "the environment variable OPENAI_BASE_URL"
        raise InputError(f"{source} {error}") from None


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
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
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
    if not setting or _needs_no_proxy(url):
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


def _needs_no_proxy(url: URL) -> bool:
    """Return whether no_proxy, or a setting of the system, exempts a host from the proxy.

    As for curl and requests, an entry is a host with its subdomains, an address, or a range of
    addresses such as 10.0.0.0/8, and may end in a port.
    """
    host = url.host or ""
    setting = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = re.split(r"[\s,]+", setting.lower())
    exempt = any(_exempts(entry, host, url.port) for entry in entries if entry)
    return exempt or bool(urllib.request.proxy_bypass(host))


def _exempts(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of no_proxy is about this host and port."""
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, _, its_port = entry.rpartition(":")
    if its_port.isdecimal() and name:
        return int(its_port) == port and _exempts(name, host, port)
    name = entry.removeprefix("*").removeprefix(".")
    return entry == "*" or host == name or host.endswith(f".{name}")


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, cut off shortly after `MAX_RESPONSE_BYTES`."""
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_RESPONSE_BYTES:
            break
    return bytes(content)


def is_lasting(error: BaseException) -> bool:
    """Return whether a retry would fail in the same way."""
    untrusted = isinstance(error, aiohttp.ClientConnectorCertificateError)
    return untrusted or _has_too_large_headers(error)


def _has_too_large_headers(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, aiohttp.http_exceptions.HttpProcessingError) and (
        "Got more than" in cause.message or "Too many headers" in cause.message
    )


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
        case aiohttp.ClientResponseError():
            said = f"more than {MAX_HEADERS:,} headers or {MAX_HEADER_BYTES:,} bytes in one"
            said = said if _has_too_large_headers(error) else " ".join(error.message.split())
            return f"sent an invalid HTTP response: {said[:200]}"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            out_of_files = error.errno in OUT_OF_FILES
            return "cannot be reached" + (f": {reason_of(error)}" if out_of_files else "")
        case TimeoutError():
            return "did not answer in time"
        case _:
            return f"broke off the connection ({type(error).__name__})"
