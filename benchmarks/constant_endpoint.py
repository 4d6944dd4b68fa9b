"""A chat-completions endpoint that always sends the same reply, for measuring clients.

    python benchmarks/constant_endpoint.py PORT LATENCY_SECONDS

It does not parse requests, so it takes almost no time itself.
"""

import asyncio
import re
import sys
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

    def __init__(self, latency: float) -> None:
        """Reply after `latency` seconds."""
        self._latency = latency
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
            asyncio.get_running_loop().call_later(self._latency, self._reply)

    def _reply(self) -> None:
        self._transport.write(RESPONSE)


async def main(port: int, latency: float) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency), "127.0.0.1", port, backlog=2_000)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
