"""The application: its routes, and how a conversation is answered or made to fail."""

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate, count
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from icl_loop.core.errors import ContextOverflow, IclLoopError, ModelUnavailable, nearest
from icl_loop.core.messages import Message, Part, Role, Text
from icl_loop.core.records import keyed_index
from icl_loop.core.tokens import REQUEST_TOKENS, count_message
from icl_loop.models import ChatModel
from icl_loop.server.completion import Completion, chosen, label_tokens
from icl_loop.server.prefix_cache import PrefixCache
from icl_loop.server.request_parser import (
    ARRAY,
    OBJECT,
    Asked,
    Said,
    asked_choice,
    asked_logprobs,
    parsed,
    spoken,
    take,
)
from icl_loop.server.responses import TRANSPORT, Events, HangUp, Refused, until_gone
from icl_loop.server.server_settings import FAULTS, RequestLog, ServerSettings

UNSOUND = frozenset({"garbage", "empty", "truncated"})
"""Faults that hide behind a status of 200."""
MAX_BODY = 32 * 2**20
"""Bytes of a request's body that are still read."""
REMEMBERED_MESSAGES = 2**15
"""Messages whose meaning and token count are remembered."""
_FINE = 10**9


def build_app(
    models: Mapping[str, ChatModel], *, settings: ServerSettings, log: RequestLog | None = None
) -> Starlette:
    """Return the application that serves `models` by name, for `serve` or `serving` to run.

    It has OpenAI's `/v1/models` and `/v1/chat/completions`, `/stats` with the counts of `log`, and
    `/health`. With a key set, all but `/health` ask for it.
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
        exception_handlers=dict.fromkeys((Refused, HTTPException, Exception), _explain),
    )


class _Api:
    """The endpoints, and what they remember between requests."""

    def __init__(
        self, models: Mapping[str, ChatModel], settings: ServerSettings, log: RequestLog
    ) -> None:
        self._models, self._settings, self._log = models, settings, log
        self._numbers = count()
        self._cache = PrefixCache()
        self._said = lru_cache(REMEMBERED_MESSAGES)(self._heard)
        self._count = lru_cache(REMEMBERED_MESSAGES)(settings.counter.count)
        rates = accumulate(settings.faults.get(fault, 0.0) for fault in FAULTS)
        self._thresholds = list(zip(FAULTS, rates, strict=True))
        self._created = int(time.time())

    async def list_models(self, request: Request) -> Response:
        """Describe all models."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._models]})

    async def show_model(self, request: Request) -> Response:
        """Describe one model."""
        self._check_key(request)
        return JSONResponse(self._card(self._known(request.path_params["name"])))

    async def stats(self, request: Request) -> Response:
        """State the counts."""
        self._check_key(request)
        return JSONResponse(self._log.as_json())

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, or fail as the settings will have it, and count what happened."""
        number = next(self._numbers)
        fault = self._fault(number)
        client_id = request.headers.get("x-client-request-id", "")[:512]
        self._log.arrive(client_id)
        response: Response | None = None
        try:
            response = await self._answer(request, number, fault)
        except Refused as refused:
            response = refused.response
        except (ClientDisconnect, asyncio.CancelledError):
            response = HangUp()  # nobody waits any more, or the server stops without an answer
        finally:
            if request.scope["state"][TRANSPORT].is_closing():
                response = HangUp()
            self._log.leave(client_id, _status(response), sound=fault not in UNSOUND)
        response.raw_headers.append((b"x-request-id", b"req_%d" % number))
        return response

    async def _answer(self, request: Request, number: int, fault: str | None) -> Response:
        self._check_key(request)
        asked = self._understood(parsed(await _body(request)))
        if fault:
            self._log.faults[fault] += 1
        await self._wait(request, number, slow=fault == "slow")
        if fault in _FAILURES:
            return _FAILURES[fault](self._settings)
        completion = await self._completed(number, asked)
        if asked.stream:
            response: Response = Events(completion.events(usage=asked.stream_usage))
        else:
            response = Response(completion.whole(), media_type="application/json")
        if fault == "truncated":
            half = response.body[: len(response.body) // 2]
            return Response(half, media_type=response.media_type)
        return response

    def _understood(self, table: Mapping[str, Any]) -> Asked:
        items = take(table, "messages", ARRAY)
        if not items:
            raise Refused(400, "messages must hold at least one message", param="messages")
        if take(table, "n", 1) != 1:
            raise Refused(400, "n must be 1: each answer is given once", param="n")
        said = [self._said(*spoken(index, item)) for index, item in enumerate(items)]
        prompt = sum([each.tokens for each in said]) + REQUEST_TOKENS
        asked = Asked(
            model=self._known(take(table, "model", "")),
            said=said,
            prompt=prompt,
            stream=take(table, "stream", False),
            stream_usage=take(take(table, "stream_options", OBJECT), "include_usage", False),
            top_logprobs=asked_logprobs(table),
            choice=asked_choice(table),
        )
        self._check_length(prompt)
        return asked

    async def _completed(self, number: int, asked: Asked) -> Completion:
        cached = self._cache.known(asked.model, asked.said)
        try:
            reply = await self._models[asked.model].complete([each.message for each in asked.said])
        except ModelUnavailable as error:
            raise Refused(503, str(error)) from None
        except ContextOverflow as error:
            raise Refused(400, str(error), code="context_length_exceeded") from None
        except IclLoopError as error:
            raise Refused(400, str(error)) from None
        text, refused = chosen(reply, asked.choice)
        tokens = None
        if asked.top_logprobs is not None and reply.label_logprobs and not refused:
            tokens = label_tokens(text, reply.label_logprobs, asked.top_logprobs)
        return Completion(
            id=f"chatcmpl-{self._created:x}{number:08x}",
            model=asked.model,
            text=text,
            finish=reply.finish,
            refused=refused,
            tokens=tokens,
            usage=_usage(asked.prompt, cached, self._count(text), reply.usage.reasoning),
        )

    def _heard(self, role: Role, content: str | tuple[Part, ...]) -> Said:
        message = Message(role, (Text(content),) if isinstance(content, str) else content)
        return Said(message, message.digest, count_message(self._settings.counter, message))

    def _known(self, name: str) -> str:
        if name in self._models:
            return name
        short = name[:100]
        said = f"there is no model {short!r} here: {nearest(short, self._models)}"
        raise Refused(404, said, code="model_not_found", param="model")

    def _check_length(self, prompt: int) -> None:
        self._log.longest_prompt = max(self._log.longest_prompt, prompt)
        window = self._settings.context_window
        if window is not None and prompt > window:
            raise Refused(
                400,
                f"the messages take {prompt} tokens, which is more than the maximum context length"
                f" of this model, {window} tokens; send fewer or shorter ones",
                code="context_length_exceeded",
                param="messages",
            )

    def _check_key(self, request: Request) -> None:
        key = self._settings.api_key
        if key is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            said = "the key sent is not the one that this server asks for"
            raise Refused(401, said, code="invalid_api_key")

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "icl_loop"}

    def _fault(self, number: int) -> str | None:
        if not self._settings.faults:
            return None
        point = keyed_index(_FINE, self._settings.seed, "fault", number) / _FINE
        return next((fault for fault, upto in self._thresholds if point < upto), None)

    async def _wait(self, request: Request, number: int, *, slow: bool) -> None:
        """Let the time pass that an answer takes, unless the client gives up."""
        settings = self._settings
        seconds = settings.latency_s + (settings.slow_s if slow else 0)
        if settings.latency_jitter_s:
            late = keyed_index(_FINE, settings.seed, "latency", number) / _FINE
            seconds += settings.latency_jitter_s * late
        if seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await until_gone(request.receive)
                raise ClientDisconnect


async def _body(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size <= MAX_BODY:
            pieces.append(piece)
    if size > MAX_BODY:
        raise Refused(413, f"the body of a request has at most {MAX_BODY} bytes, got {size}")
    return b"".join(pieces)


def _usage(prompt: int, cached: int, spoken: int, reasoning: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": spoken + reasoning,
        "total_tokens": prompt + spoken + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _too_many(settings: ServerSettings) -> Response:
    wait = settings.retry_after_s
    headers = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    said = f"too many requests; try again in {wait:g} seconds"
    return Refused(429, said, code="rate_limit_exceeded", headers=headers).response


_FAILURES: Mapping[str | None, Callable[[ServerSettings], Response]] = {
    "429": _too_many,
    "500": lambda _: Refused(500, "the server had an error, as it was told to").response,
    "503": lambda _: Refused(503, "the server is overloaded, as it was told to be").response,
    "reset": lambda _: HangUp(),
    "garbage": lambda _: Response("<html>it works!</html>", media_type="application/json"),
    "empty": lambda _: Response(b"", media_type="application/json"),
}
"""Faults for which no model is asked."""


def _status(response: Response | None) -> int | None:
    """Return the status that goes out; where there is no response, `_explain` says 500."""
    if response is None:
        return 500
    return None if isinstance(response, HangUp) else response.status_code


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _explain(request: Request, error: Exception) -> Response:
    """Answer a request that went wrong; of a mistake of ours the server's log has the traceback."""
    match error:
        case Refused():
            return error.response
        case HTTPException():
            said = f"{request.method} {request.url.path[:200]} is not served"
            return Refused(error.status_code, said, headers=error.headers).response
        case _:
            return Refused(500, f"the server failed: {type(error).__name__}").response
