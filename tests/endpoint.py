"""A scripted chat-completions endpoint on loopback, for speaking to over real HTTP."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the endpoint does with one request: a status, a body, or a connection that breaks."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    hang_up: bool = False
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 7,
    "total_tokens": 107,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def completion(
    text: str | None,
    *,
    usage: Mapping[str, Any] | None = USAGE,
    headers: Mapping[str, str] | None = None,
    **choice: Any,  # noqa: ANN401  fields of the wire
) -> Answer:
    """Return the answer of a sound endpoint."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                **choice,
            }
        ],
        "system_fingerprint": "fp_1",
        "usage": usage,
    }
    return Answer(body=json.dumps(body).encode(), headers=headers or {})


def error(status: int, message: str = "no") -> Answer:
    """Return the answer of an endpoint that refuses."""
    return Answer(status, json.dumps({"error": {"message": message}}).encode())


@dataclass
class Endpoint:
    """The address, and what has been asked so far."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


Script = Sequence[Answer | Callable[[dict[str, Any]], Answer]]


@contextmanager
def serving(answers: Script, models: Sequence[str] = ()) -> Iterator[Endpoint]:
    """Serve `answers` in order, the last one for ever after; list these models."""
    endpoint = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            asked = json.loads(self.rfile.read(length))
            scripted = answers[min(len(endpoint.requests), len(answers) - 1)]
            answer = scripted if isinstance(scripted, Answer) else scripted(asked)
            endpoint.requests.append({"path": self.path, **asked})
            endpoint.keys.append(self.headers["Authorization"])
            endpoint.headers.append({key.lower(): text for key, text in self.headers.items()})
            time.sleep(answer.delay_s)
            if answer.hang_up:
                self.close_connection = True
                return
            self._send(answer)

        def do_GET(self) -> None:
            listed = {
                "object": "list",
                "data": [{"id": name, "object": "model"} for name in models],
            }
            self._send(Answer(body=json.dumps(listed).encode()))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        endpoint.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
