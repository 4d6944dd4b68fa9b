"""Responses other than completions: errors in OpenAI's format, and reset connections."""

import socket
import struct
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

TRANSPORT = "icl_loop.transport"
"""Key of a request's transport in its state."""


class ApiError(HTTPException):
    """An error that the client receives in OpenAI's format."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def response(self) -> Response:
        """Return the error as an HTTP response."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        error = {"message": self.detail, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status_code, self.headers)


class ResetConnection(Response):
    """No response: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Reset the connection, and wait until the server has noticed, so that it logs no error."""
        transport = scope["state"][TRANSPORT]
        if not transport.is_closing():
            linger = struct.pack("ii", 1, 0)  # a zero timeout makes the socket send RST, not FIN
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        await wait_for_disconnect(receive)


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
