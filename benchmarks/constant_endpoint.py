"""A chat-completions endpoint that always sends the same reply, for measuring clients.

It does not parse requests, so it takes almost no time itself.
"""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Process
from typing import cast

import uvloop

BODY = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"constant","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Answer: 3"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":100,"completion_tokens":3,"total_tokens":103}}'
)
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Reads a request by its Content-Length, then replies."""

    def __init__(self, latency_s: float) -> None:
        """Reply after `latency_s` seconds."""
        self._latency_s = latency_s
        self._head = b""
        self._left = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Read, and reply once the request is complete."""
        if self._left < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            match = LENGTH.search(self._head[:end])
            self._left = int(match[1] if match else 0) - (len(self._head) - end - 4)
        else:
            self._left -= len(data)
        if self._left <= 0:
            self._head, self._left = b"", -1
            loop = asyncio.get_running_loop()
            loop.call_later(self._latency_s, self._transport.write, RESPONSE)


async def serve(listener: socket.socket, latency_s: float) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency_s), sock=listener, backlog=2_000)
    await server.serve_forever()


def _serve(listener: socket.socket, latency_s: float) -> None:
    uvloop.run(serve(listener, latency_s))


@contextmanager
def constant_endpoint(latency_s: float, port: int = 0) -> Iterator[str]:
    """Run the endpoint in its own process, on a free port by default, and give its base URL."""
    with socket.create_server(("127.0.0.1", port), backlog=2_000) as listener:
        process = Process(target=_serve, args=(listener, latency_s), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            process.kill()
            process.join()
