"""Serving an application at an address, in the foreground or in a thread."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from icl_loop.core.errors import InputError
from icl_loop.server.responses import TRANSPORT

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as AutoHTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than clients keep theirs, so that they end it."""
GRACE_S = 1
"""How long requests in flight may still take once the server is told to stop."""


class _Protocol(AutoHTTPProtocol):
    """Lets the application have the transport of a request, to break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """Breaks what is still in flight a moment after it was told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        breaking = asyncio.get_running_loop().call_later(GRACE_S, self._break)
        await super().shutdown(sockets)
        breaking.cancel()

    def _break(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    expose: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve `app` until interrupted.

    Args:
        app: What `build_app` made.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        expose: Listen at an address that other machines can reach, if `host` is one.
        ready: Called with the base URL for clients, once connections are accepted.

    Raises:
        InputError: It is impossible to listen there, or other machines could and `expose` is not set.
    """
    with _listening(host, port, expose=expose) as listener, suppress(KeyboardInterrupt):
        if ready:
            ready(_url(listener))
        _server(app).run(sockets=[listener])


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Serve `app` in a thread at a free port of 127.0.0.1; the value is the base URL for clients."""
    with _listening("127.0.0.1", 0, expose=False) as listener:
        server = _server(app)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join()


def _server(app: Starlette) -> _Server:
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S + 1,
    )
    return _Server(config)


def _listening(host: str, port: int, *, expose: bool) -> socket.socket:
    """Return a socket that listens at `host` and `port`.

    Its protocol is stated, as by `getaddrinfo`: asyncio turns Nagle's algorithm off only then.
    """
    if not 0 <= port < 2**16:  # getaddrinfo would drop the higher bits
        raise InputError(f"a port is a number from 0 to 65535, got {port}")
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not expose and not ipaddress.ip_address(address[0]).is_loopback:
            raise InputError(f"{host} can be reached by other machines, which was not asked for")
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, UnicodeError) as error:
        if listener:
            listener.close()
        raise InputError(f"it is impossible to listen at {host}:{port}: {error}") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
