"""Connections to an endpoint: timeouts, proxies and certificates."""

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from yarl import URL

from builders import experiment
from endpoint import CONVERSATION, Response, completion, error, serving
from icl_loop.core.errors import InputError, ModelUnavailable, RequestRefused
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.connection import find_proxy


async def test_an_unreachable_endpoint() -> None:
    """The error names an address where nothing answers."""
    with serving([completion("3")]) as endpoint:
        pass
    async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
        with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:\d+/v1 cannot be reached"):
            await model.complete(CONVERSATION)


async def test_timeout() -> None:
    """A request that times out may be retried."""
    with serving([replace(completion("3"), delay_s=0.8)]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, timeout_s=0.2)
        async with aclosing(model):
            with pytest.raises(ModelUnavailable, match="did not answer in time"):
                await model.complete(CONVERSATION)


async def test_oversized_responses() -> None:
    """A response that is too large is refused."""
    oversized = Response(body=b" " * (20 * 2**20))
    with serving([oversized]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url)
        async with aclosing(model):
            with pytest.raises(RequestRefused, match="returned more than 16777216 bytes"):
                await model.complete(CONVERSATION)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the HTTP proxy."""
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return partial(monkeypatch.setenv, "http_proxy")


REMOTE_URL = "http://models.invalid/v1"


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_proxy(scheme: str, proxied: Callable[[str], None]) -> None:
    """Requests go through the HTTP proxy in the environment, with or without a scheme."""
    with serving([error(404, "gone")], models=["tiny-7b"]) as endpoint:
        proxied(scheme + endpoint.base_url.removeprefix("http://").removesuffix("/v1"))
        async with aclosing(OpenAIModel("tinny-7b", base_url=REMOTE_URL)) as model:
            with pytest.raises(RequestRefused, match="did you mean 'tiny-7b'"):
                await model.complete(CONVERSATION)
    assert endpoint.requests[0]["path"] == "http://models.invalid/v1/chat/completions"


@pytest.mark.parametrize(
    ("base_url", "says"),
    [
        (REMOTE_URL, "the proxy is unreachable"),
        (REMOTE_URL.replace("http", "https"), "the proxy answered 501"),
    ],
)
async def test_a_failing_proxy(
    base_url: str, says: str, proxied: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error blames the proxy if it is down or refuses the request."""
    with serving([completion("3")]) as down:
        proxied(down.base_url)
    with serving([completion("3")]) as endpoint:
        monkeypatch.setenv("https_proxy", endpoint.base_url)
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            with pytest.raises(ModelUnavailable, match=f"cannot be reached: {says}"):
                await model.complete(CONVERSATION)


@pytest.mark.parametrize("proxy", ["socks5://me:pass@127.0.0.1:1080", "http://", "http://h:port"])
async def test_unsupported_proxies(
    proxy: str, proxied: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is not an HTTP proxy is an input error, unless no_proxy exempts the host."""
    proxied(proxy)
    with pytest.raises(InputError, match=r"http_proxy.*models\.invalid.*no_proxy") as refused:
        OpenAIModel("tiny", base_url=REMOTE_URL)
    assert "pass" not in str(refused.value)
    monkeypatch.setenv("no_proxy", "models.invalid")
    await OpenAIModel("tiny", base_url=REMOTE_URL).aclose()


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("models.invalid", REMOTE_URL, True),
        ("other.invalid, .invalid", REMOTE_URL, True),
        ("other.invalid *.invalid", REMOTE_URL, True),
        ("*", REMOTE_URL, True),
        ("odels.invalid,models", REMOTE_URL, False),
        ("models.invalid:80", REMOTE_URL, True),
        ("invalid:443", "https://models.invalid/v1", True),
        ("models.invalid:8080", REMOTE_URL, False),
        ("192.0.2.0/24", "http://192.0.2.77:8000/v1", True),
        ("10.0.0.0/8,192.0.3.0/24", "http://192.0.2.77:8000/v1", False),
        ("192.0.2.77", "http://192.0.2.77:8000/v1", True),
        ("192.0.2.77:8000", "http://192.0.2.77:8000/v1", True),
        ("192.0.2.77:8001", "http://192.0.2.77:8000/v1", False),
        ("192.0.2.0/24", REMOTE_URL, False),
        ("2001:db8::/32", "http://[2001:db8::5]:8000/v1", True),
        ("[2001:db8::5]:8000", "http://[2001:db8::5]:8000/v1", True),
        ("2001:db8::5", "http://[2001:db8::6]:8000/v1", False),
    ],
)
def test_no_proxy(
    no_proxy: str,
    url: str,
    exempt: bool,  # noqa: FBT001  a parameter of the test
    proxied: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """no_proxy exempts hosts with their subdomains, addresses and ranges of them, at any port or one."""
    proxied("http://proxy.invalid:3128")
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (find_proxy(URL(url)) is None) == exempt


INVALID = {
    "localhost:8000/v1": "must begin with http",
    "ftp://127.0.0.1/v1": "must begin with http",
    "https:/127.0.0.1/v1": "must begin with http",
    "http://[::1": "brackets",
    "http:///v1": "host",
    "http://exam ple/v1": "blank",
    "http://127.0.0.1:8000\\v1": "backslash",
    "http://a..b/v1": "host",
    "http://-/v1/?": "host",
    "http://1.2.3/v1": "host",
    "http://999.1.1.1/v1": "host",
    f"http://{'a' * 64}.de/v1": "host",
    "http://127.0.0.1:port/v1": "port",
    "http://127.0.0.1:70000/v1": "port",
    "http://127.0.0.1:0/v1": "port",
    "http://me:secret@127.0.0.1/v1": "user name",
}


@pytest.mark.parametrize("address", INVALID)
def test_invalid_addresses(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid address is an input error that names the setting or the environment variable."""
    with pytest.raises(InputError, match=rf"model\.base_url: .*{INVALID[address]}"):
        experiment(model={"name": "tiny", "base_url": address})
    with pytest.raises(InputError, match=rf"^base_url .*{INVALID[address]}"):
        OpenAIModel("tiny", base_url=address)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(InputError, match=rf"OPENAI_BASE_URL .*{INVALID[address]}") as refused:
        OpenAIModel("tiny")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "HTTP://localhost:8000/v1",
        "http://[::1]:65535/v1",
        "https://host_name.internal/v1/",
        "https://xn--bcher-kva.example/v1",
        "https://bücher.example./v1?api-version=1",
        "http://10.1.2.3",
    ],
)
def test_valid_addresses(address: str) -> None:
    """Host names, addresses, ports and queries are accepted."""
    experiment(model={"name": "tiny", "base_url": address})
    assert OpenAIModel("tiny", base_url=address)


ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(
    handler: ConnectionHandler, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve every connection with `handler`, and give the base URL."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with suppress(OSError, EOFError):
            try:
                await handler(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.gather(*filter(None, tasks))


async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send one byte at a time for two seconds."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
    for _byte in range(40):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_timeout_of_a_trickle() -> None:
    """The timeout limits the whole response, even if bytes keep arriving."""
    async with (
        listening(trickle) as base_url,
        aclosing(OpenAIModel("tiny", base_url=base_url, timeout_s=0.3)) as model,
    ):
        start = time.monotonic()
        with pytest.raises(ModelUnavailable, match="did not answer in time"):
            await model.complete(CONVERSATION)
        assert time.monotonic() - start < 1.5


async def complete(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a completion."""
    await reader.readuntil(b"\r\n\r\n")
    body = completion("Answer: 3").body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


def with_headers(lines: bytes) -> ConnectionHandler:
    """Return a handler that sends a completion with these additional headers."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = completion("Answer: 3").body
        head = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (lines, len(body))
        writer.write(head + body)
        await writer.drain()

    return send


@pytest.mark.parametrize(
    ("lines", "are_read"),
    [
        (b"Report-To: %b\r\n" % (b"x" * 30_000), True),
        (b"".join(b"X-%d: y\r\n" % number for number in range(500)), True),
        (b"Report-To: %b\r\n" % (b"x" * 80_000), False),
        (b"".join(b"X-%d: y\r\n" % number for number in range(1_500)), False),
    ],
    ids=["long", "many", "too long", "too many"],
)
async def test_headers(lines: bytes, are_read: bool) -> None:  # noqa: FBT001  a parameter of the test
    """Long and many headers are read; beyond a limit the error names them, and nothing is retried."""
    async with (
        listening(with_headers(lines)) as base_url,
        aclosing(OpenAIModel("tiny", base_url=base_url)) as model,
    ):
        if are_read:
            assert (await model.complete(CONVERSATION)).text == "Answer: 3"
        else:
            with pytest.raises(RequestRefused, match="more than 1,000 headers or 65,536 bytes"):
                await model.complete(CONVERSATION)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a self-signed certificate and its key; skip without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -subj /CN=tiny -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", "-", "-out", "-"]
    done = subprocess.run([openssl, *options.split(), *files], check=True, capture_output=True)
    path.write_bytes(done.stdout)
    return path


async def test_untrusted_certificates(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A self-signed certificate is refused without a retry, unless SSL_CERT_FILE names it."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with listening(complete, context) as base_url:
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            with pytest.raises(RequestRefused, match=r"not trusted: self.signed.*SSL_CERT_FILE"):
                await model.complete(CONVERSATION)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            assert (await model.complete(CONVERSATION)).text == "Answer: 3"


async def speak_plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer in plain HTTP, even to a TLS handshake."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def test_tls_to_a_plain_http_server() -> None:
    """The error names the TLS handshake."""
    async with listening(speak_plain_http) as base_url:
        secure = base_url.replace("http:", "https:")
        async with aclosing(OpenAIModel("tiny", base_url=secure)) as model:
            with pytest.raises(ModelUnavailable, match="failed the TLS handshake"):
                await model.complete(CONVERSATION)


def test_missing_certificate_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A certificate file that cannot be read is an input error."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="SSL_CERT_FILE"):
        OpenAIModel("tiny", base_url=REMOTE_URL)
