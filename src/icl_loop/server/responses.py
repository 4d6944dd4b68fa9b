"""Answers that are not completions: an error in OpenAI's shape, a stream, a connection reset."""

import socket
import struct
from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

TRANSPORT = "icl_loop.transport"
"""Where in a request's state its transport is."""


class Refused(Exception):
    """A request that is answered with an error, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.response = JSONResponse({"error": error}, status, headers)


class Events(Response):
    """A body sent piece by piece, of no stated length."""

    media_type = "text/event-stream"

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(b"".join(pieces))
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the head, then each piece, then the end."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HangUp(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Reset the connection, and wait until the server has noticed, so that it stays calm."""
        transport = scope["state"][TRANSPORT]
        if not transport.is_closing():
            linger = struct.pack("ii", 1, 0)  # for no time: what follows is RST rather than FIN
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        await until_gone(receive)


async def until_gone(receive: Receive) -> None:
    """Wait until the client is no longer there."""
    while (await receive())["type"] != "http.disconnect":
        pass
