"""A scripted chat-completions endpoint on loopback."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from icl_loop.core.messages import Message, assistant, system, user
from icl_loop.models.limits import Budget, PromptBound, RateLimiter
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy


@dataclass(frozen=True)
class Response:
    """A scripted response, or a closed connection."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    disconnect: bool = False
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
    **choice: Any,  # noqa: ANN401  any field of a choice
) -> Response:
    """Return a response with a completion."""
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
    return Response(body=json.dumps(body).encode(), headers=headers or {})


def error(status: int, message: str = "no") -> Response:
    """Return an error response."""
    return Response(status, json.dumps({"error": {"message": message}}).encode())


@dataclass
class Endpoint:
    """The base URL, and the requests so far."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


Script = Sequence[Response | Callable[[dict[str, Any]], Response]]


@contextmanager
def serving(
    responses: Script,
    models: Sequence[str | Mapping[str, Any]] = (),
    pages: Mapping[str, Any] | None = None,
) -> Iterator[Endpoint]:
    """Serve `responses` in order, repeating the last one, and a list of `models`.

    A model is a name or a whole entry. `pages` has the JSON at other addresses, by path.
    """
    endpoint = Endpoint("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            scripted = responses[min(len(endpoint.requests), len(responses) - 1)]
            response = scripted if isinstance(scripted, Response) else scripted(request)
            endpoint.requests.append({"path": self.path, **request})
            endpoint.keys.append(self.headers["Authorization"])
            endpoint.headers.append({key.lower(): text for key, text in self.headers.items()})
            time.sleep(response.delay_s)
            if response.disconnect:
                self.close_connection = True
                return
            self._send(response)

        def do_GET(self) -> None:
            data = [{"id": each} if isinstance(each, str) else each for each in models]
            paths = {"/v1/models": {"object": "list", "data": data}, **(pages or {})}
            page = paths.get(urlsplit(self.path).path)  # a proxy gets a whole address
            status = 404 if page is None else 200
            self._send(Response(status, json.dumps(page).encode()))

        def _send(self, response: Response) -> None:
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

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


CONVERSATION = [system("s"), user("q0"), assistant("a0"), user("told"), user("q1")]


FAST = RetryPolicy(allowance_s=20.0, startup_allowance_s=2.0, first_wait_s=0.001, max_wait_s=0.02)


def retrying(
    endpoint: Endpoint,
    budget: Budget | None = None,
    rate_limiter: RateLimiter | None = None,
    count: Callable[[Sequence[Message]], int] = len,
    retry: RetryPolicy = FAST,
) -> RetryingModel:
    """Return a model that retries after very short waits."""
    policy = RequestPolicy(
        rate_limiter=rate_limiter or RateLimiter(),
        budget=budget or Budget(),
        retry=retry,
        prompt_bound=PromptBound(count),
        max_completion_tokens=10,
        cost=lambda usage: usage.prompt / 1e6,
    )
    return RetryingModel(OpenAIModel("tiny", base_url=endpoint.base_url), policy)
