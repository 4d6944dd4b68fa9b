"""Runs an application with uvicorn, in the foreground or in a thread."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from icl_loop.core.errors import InputError, reason_of
from icl_loop.server.responses import TRANSPORT

KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than clients keep theirs, so that they close it."""
SHUTDOWN_GRACE_S = 1
"""How long requests in flight may take after the server is told to stop."""


class _Protocol(HttpToolsProtocol):
    """Gives the application access to the transport, so that it can reset the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a body is delayed
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """Aborts the remaining connections shortly after the server is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        abort = asyncio.get_running_loop().call_later(SHUTDOWN_GRACE_S, self._abort_connections)
        await super().shutdown(sockets)
        abort.cancel()

    def _abort_connections(self) -> None:
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
    """Serve `app` until interrupted; `ready` is called with the base URL. Port 0 picks a free one.

    Raises:
        InputError: The address cannot be used, or other machines can reach it without `expose`.
    """
    with _listen(host, port, expose=expose) as listener, suppress(KeyboardInterrupt):
        if ready:
            ready(_base_url(listener))
        _server(app).run(sockets=[listener])


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Serve `app` in a thread on a free port of 127.0.0.1, and give its base URL."""
    with _listen("127.0.0.1", 0) as listener:
        server = _server(app)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield _base_url(listener)
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
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S + 1,
    )
    return _Server(config)


def _listen(host: str, port: int, *, expose: bool = False) -> socket.socket:
    if not 0 <= port < 2**16:  # getaddrinfo would ignore the higher bits
        raise InputError(f"a port must be a number from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not expose and not ipaddress.ip_address(address[0]).is_loopback:
            raise InputError(f"{host} can be reached by other machines; set expose to allow that")
        return socket.create_server(address, family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "this is not a host name"
        raise InputError(f"cannot listen on {host}:{port}: {reason}") from None


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
