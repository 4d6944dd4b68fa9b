"""The web application: its routes, and how a chat request is answered."""

import asyncio
import hmac
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from icl_loop.core.errors import ContextOverflow, IclLoopError, ModelUnavailable, nearest
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.tokens import REQUEST_TOKENS, count_messages, truncate
from icl_loop.models import ChatModel, ProbabilisticModel, ScoredModel
from icl_loop.server.completion import Completion, apply_schema, label_tokens
from icl_loop.server.faults import INVALID_BODIES, draw, draw_fault, fault_response
from icl_loop.server.prefix_cache import PrefixCache
from icl_loop.server.request_log import RequestLog
from icl_loop.server.request_parser import ChatRequest, parse_request
from icl_loop.server.responses import TRANSPORT, ApiError, ResetConnection, wait_for_disconnect
from icl_loop.server.server_settings import ServerSettings

MAX_BODY_BYTES = 32 * 2**20


def build_app(
    models: Mapping[str, ChatModel], *, settings: ServerSettings, log: RequestLog | None = None
) -> Starlette:
    """Return an application that serves `models` by name; run it with `serve` or `serving`.

    It has OpenAI's `/v1/models` and `/v1/chat/completions`, `/stats` with the counts of `log`, and
    `/health`. If the settings contain an API key, every route but `/health` requires it.
    """
    api = _Api(models, settings, log or RequestLog())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/models", api.list_models),
            Route("/v1/models/{name:path}", api.show_model),
            Route("/stats", api.stats),
            Route("/health", _health),
        ],
        exception_handlers={HTTPException: _error_response, Exception: _error_response},
    )


class _Api:
    """The endpoints and the state they share."""

    def __init__(
        self, models: Mapping[str, ChatModel], settings: ServerSettings, log: RequestLog
    ) -> None:
        self._models, self._settings, self._log = models, settings, log
        self._numbers, self._created = count(), int(time.time())
        self._cache = PrefixCache(settings.counter)
        self._count = lru_cache(2**15)(settings.counter.count)

    async def list_models(self, request: Request) -> Response:
        """Return all models."""
        self._check_key(request)
        data = [self._describe(name) for name in self._models]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, request: Request) -> Response:
        """Return one model."""
        self._check_key(request)
        name = request.path_params["name"]
        self._check_model(name)
        return JSONResponse(self._describe(name))

    async def stats(self, request: Request) -> Response:
        """Return the counts of the log."""
        self._check_key(request)
        return JSONResponse(vars(self._log))

    async def chat(self, request: Request) -> Response:
        """Answer a chat request or inject a fault, and log the outcome."""
        number = next(self._numbers)
        fault = draw_fault(self._settings.faults, self._settings.seed, number)
        client_id = request.headers.get("x-client-request-id", "")[:512]
        self._log.start(client_id)
        status: int | None = 500  # if an unexpected exception passes through
        try:
            response = await self._respond(request, number, fault)
            status = None if isinstance(response, ResetConnection) else response.status_code
        finally:
            self._log.finish(client_id, status, is_valid=fault not in INVALID_BODIES)
        response.headers["x-request-id"] = f"req_{number}"
        return response

    async def _respond(self, request: Request, number: int, fault: str | None) -> Response:
        try:
            response = await self._answer(request, number, fault)
        except ApiError as error:
            response = error.response()
        except (ClientDisconnect, asyncio.CancelledError):
            return ResetConnection()  # the client has gone, or the server is shutting down
        is_closing = request.scope["state"][TRANSPORT].is_closing()
        return ResetConnection() if is_closing else response

    async def _answer(self, request: Request, number: int, fault: str | None) -> Response:
        self._check_key(request)
        chat = parse_request(await _read_body(request))
        prompt_tokens = count_messages(self._settings.counter, chat.messages) + REQUEST_TOKENS
        self._check_model(chat.model)
        self._check_length(prompt_tokens)
        if fault:
            self._log.faults[fault] += 1
        await self._wait(request, number, is_slow=fault == "slow")
        if failure := fault_response(fault, self._settings.retry_after_s):
            return failure
        completion = await self._complete(number, chat, prompt_tokens)
        if chat.stream:
            body = completion.events(include_usage=chat.include_usage)
        else:
            body = completion.body()
        if fault == "truncated":
            body = body[: len(body) // 2]
        media_type = "text/event-stream" if chat.stream else "application/json"
        return Response(body, media_type=media_type)

    async def _complete(self, number: int, chat: ChatRequest, prompt_tokens: int) -> Completion:
        cached = self._cache.cached_tokens(chat.model, chat.messages)
        model = self._models[chat.model]
        if chat.logprobs and isinstance(model, ProbabilisticModel):
            model = ScoredModel(model)
        reply = await _ask(model, chat.messages)
        text, is_refusal = apply_schema(reply, chat.choice)
        finish = reply.finish
        if chat.cap is not None and self._count(text) > chat.cap:
            text, finish = truncate(text, chat.cap, self._settings.counter), "length"
        tokens = None
        if chat.logprobs and reply.label_logprobs and not is_refusal:
            tokens = label_tokens(text, reply.label_logprobs, chat.top_logprobs or 0)
        return Completion(
            id=f"chatcmpl-{self._created:x}{number:08x}",
            model=chat.model,
            text=text,
            finish=finish,
            is_refusal=is_refusal,
            tokens=tokens,
            usage=Usage(prompt_tokens, cached, self._count(text), reply.usage.reasoning),
        )

    def _check_model(self, name: str) -> None:
        if name not in self._models:
            name = name[:100]
            message = f"the model {name!r} does not exist: {nearest(name, self._models)}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def _check_length(self, prompt_tokens: int) -> None:
        self._log.longest_prompt = max(self._log.longest_prompt, prompt_tokens)
        window = self._settings.context_window
        if window is not None and prompt_tokens > window:
            raise ApiError(
                400,
                f"the messages have {prompt_tokens} tokens, but the maximum context length of this"
                f" model is {window} tokens; send fewer or shorter messages",
                code="context_length_exceeded",
                param="messages",
            )

    def _check_key(self, request: Request) -> None:
        if self._settings.api_key is not None:
            sent = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(sent, f"Bearer {self._settings.api_key}".encode()):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _describe(self, name: str) -> dict[str, Any]:
        window = self._settings.context_window
        known = {} if window is None else {"context_length": window}
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "icl_loop",
            **known,
        }

    async def _wait(self, request: Request, number: int, *, is_slow: bool) -> None:
        """Wait for the latency; raises ClientDisconnect if the client gives up before."""
        settings = self._settings
        seconds = settings.latency_s + (settings.slow_s if is_slow else 0)
        seconds += settings.latency_jitter_s * draw(settings.seed, "latency", number)
        if seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wait_for_disconnect(request.receive)
                raise ClientDisconnect


async def _read_body(request: Request) -> bytes:
    """Return the body; reads a body that is too long to its end, so that the connection survives."""
    body, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size <= MAX_BODY_BYTES:
            body += piece
    if size > MAX_BODY_BYTES:
        message = f"a request body may have at most {MAX_BODY_BYTES} bytes, got {size}"
        raise ApiError(413, message)
    return bytes(body)


async def _ask(model: ChatModel, messages: list[Message]) -> Reply:
    """Return the model's reply; its errors become errors of the API."""
    try:
        return await model.complete(messages)
    except ModelUnavailable as error:
        raise ApiError(503, str(error)) from None
    except ContextOverflow as error:
        raise ApiError(400, str(error), code="context_length_exceeded") from None
    except IclLoopError as error:
        raise ApiError(400, str(error)) from None


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _error_response(request: Request, error: Exception) -> Response:
    """Return the response for an exception; the server logs unexpected ones with a traceback."""
    if isinstance(error, ApiError):
        return error.response()
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path[:200]} does not exist"
        return ApiError(error.status_code, message, headers=error.headers).response()
    return ApiError(500, f"the server failed: {type(error).__name__}").response()
