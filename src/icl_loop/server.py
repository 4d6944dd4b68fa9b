"""An OpenAI-compatible endpoint over any model of ours, so that the whole path runs without a key.

It counts tokens, pretends to have a prefix cache, takes its time and fails at the rates it is told.
"""

import asyncio
import base64
import hmac
import ipaddress
import json
import math
import re
import socket
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import accumulate, count
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from icl_loop import answers
from icl_loop.errors import ContextOverflow, IclLoopError, InputError, ModelUnavailable, nearest
from icl_loop.messages import Image, Message, Part, Reply, Role, Text
from icl_loop.models import ChatModel
from icl_loop.records import keyed_index
from icl_loop.tokens import ESTIMATORS, REQUEST_TOKENS, TokenCounter, count_message

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as AutoHTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

T = TypeVar("T")

FAULTS = ("429", "500", "503", "reset", "garbage", "slow", "empty", "truncated")
"""What may go wrong: a status, a connection that is reset, a body that is no JSON, one that comes
late, that is empty, or that is cut in half."""
UNSOUND = frozenset({"garbage", "empty", "truncated"})
"""Faults that hide behind a status of 200."""
CACHE_STEP = 128
"""Cached tokens are reported in multiples of this."""
MAX_BODY = 32 * 2**20
"""Bytes of a request's body that are still read."""
REMEMBERED_MESSAGES = 2**15
"""Messages whose meaning and token count are remembered."""
REMEMBERED_PLACES = 2**17
"""Places of messages in conversations that the prefix cache remembers, at about 300 bytes each."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than clients keep theirs, so that they end it."""
GRACE_S = 1
"""How long requests in flight may still take once the server is told to stop."""

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_JSON_TYPES = {bool: "a boolean", int: "an integer", str: "a string", list: "an array"}
_OBJECT: dict[str, Any] = {}
_ARRAY: list[Any] = []
_json = json.JSONEncoder(separators=(",", ":")).encode
_PNG_URL, _PNG = "data:image/png;base64,", b"\x89PNG\r\n\x1a\n"
_WORD = re.compile(r"\S+\s*|\s+")
_TRANSPORT = "icl_loop.transport"
_FINE = 10**9
_IMPROBABLE = -9999.0
"""What OpenAI states for a log probability that is minus infinity or out of sight."""


# ---- settings and counts -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the endpoint behaves.

    Attributes:
        latency_s: Seconds before each chat completion, failing ones included.
        latency_jitter_s: At most so many seconds more, uniformly at random.
        faults: Rate by name of `FAULTS`; the rest of the requests is answered soundly.
        seed: Keys all randomness, together with the number of the request.
        slow_s: Seconds more that a slow answer takes.
        retry_after_s: Seconds that a 429 asks to wait.
        context_window: Tokens of the longest prompt that is answered; no limit if None.
        api_key: The key to ask for; none is needed if None.
        counter: Counts the tokens.
    """

    latency_s: float = 0.0
    latency_jitter_s: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    slow_s: float = 5.0
    retry_after_s: float = 0.0
    context_window: int | None = None
    api_key: str | None = field(default=None, repr=False)
    counter: TokenCounter = ESTIMATORS["o200k_base"]

    def __post_init__(self) -> None:
        _check_faults(self.faults)
        for name in ("latency_s", "latency_jitter_s", "slow_s", "retry_after_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is a number of seconds, got {getattr(self, name)}")
        if self.context_window is not None and self.context_window < 1:
            raise InputError(f"a context window holds tokens, got {self.context_window}")
        if self.api_key == "":
            raise InputError("the key to ask for is empty")


def parse_faults(text: str) -> dict[str, float]:
    """Return the rates that a text such as `429=0.1,reset=0.02` states.

    Raises:
        InputError: A fault is unknown or named twice, or its rate is none.
    """
    rates: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, rate = (each.strip() for each in part.partition("="))
        if name in rates:
            raise InputError(f"the fault {name} is given two rates in {text!r}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise InputError(f"a fault and its rate look like 429=0.1, got {part!r}") from None
    _check_faults(rates)
    return rates


def _check_faults(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if name not in FAULTS:
            raise InputError(f"unknown fault {name!r}: {nearest(name, FAULTS)}")
        if not 0 <= rate <= 1:
            raise InputError(f"the rate of a fault is between 0 and 1, got {name}={rate:g}")
    if (total := math.fsum(rates.values())) > 1 + 1e-9:
        raise InputError(f"the rates of all faults add up to at most 1, got {total:g}")


@dataclass(slots=True)
class RequestLog:
    """Counts of the chat requests that arrived and of what became of them.

    What is counted by id is kept for each `X-Client-Request-Id` for as long as the log lives.

    Attributes:
        total: Requests that arrived.
        statuses: Answers by HTTP status, unsound ones included.
        faults: Requests by the fault that befell them.
        unanswered: Requests that ended without an answer: reset, or given up by the client.
        asked: Requests by id.
        answered: Sound answers with status 200 by id.
        in_flight: Requests being answered now.
        most_in_flight: The most there were at one time.
        longest_prompt: Tokens of the longest prompt seen, one that was refused as too long included.
    """

    total: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    longest_prompt: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return all counts."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def arrive(self, client_id: str) -> None:
        """Count a request in."""
        self.total += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if client_id:
            self.asked[client_id] += 1

    def leave(self, client_id: str, status: int | None, *, sound: bool) -> None:
        """Count a request out: answered with this status, or not at all if None."""
        self.in_flight -= 1
        if status is None:
            self.unanswered += 1
            return
        self.statuses[status] += 1
        if client_id and status == 200 and sound:
            self.answered[client_id] += 1


# ---- answers -----------------------------------------------------------------------------


class _Refused(Exception):
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


class _Events(Response):
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


class _HangUp(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Reset the connection, and wait until the server has noticed, so that it stays calm."""
        transport = scope["state"][_TRANSPORT]
        if not transport.is_closing():
            linger = struct.pack("ii", 1, 0)  # for no time: what follows is RST rather than FIN
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- requests ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """One message of a request, its digest and its tokens."""

    message: Message
    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as understood.

    Attributes:
        model: Who is asked.
        said: The conversation.
        prompt: Its tokens.
        stream: Whether the answer comes in pieces.
        stream_usage: Whether the last piece states the usage.
        top_logprobs: How many alternatives are wanted with log probabilities, which are not if None.
        choice: The one property that the schema asks for, and the values it may have.
    """

    model: str
    said: Sequence[_Said]
    prompt: int
    stream: bool
    stream_usage: bool
    top_logprobs: int | None
    choice: tuple[str, tuple[str, ...]] | None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        table = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(table, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise _Refused(400, "the body of the request is not JSON in UTF-8") from None
    if not isinstance(table, dict):
        raise _Refused(400, "the body of the request is not a JSON object")
    return table


def _take(table: Mapping[str, Any], name: str, default: T) -> T:
    """Return a field, which has the type of `default`, or `default` if there is none or null."""
    value = table.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        kind = _JSON_TYPES.get(type(default), "an object")
        raise _Refused(400, f"{name} must be {kind}", param=name)
    return value


def _spoken(index: int, item: object) -> tuple[Role, str | tuple[Part, ...]]:
    """Return the role and the content of the message at `index`."""
    param = f"messages[{index}]"
    if not isinstance(item, dict):
        raise _Refused(400, f"{param} must be an object", param=param)
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise _Refused(400, f"{param}.role must be one of {', '.join(_ROLES)}", param=param)
    if isinstance(content, str):
        return _ROLES[role], content
    if isinstance(content, list) and content:
        return _ROLES[role], tuple(_part(param, part) for part in content)
    raise _Refused(400, f"{param}.content must be a string or a list of parts", param=param)


def _part(param: str, part: object) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith(_PNG_URL):
            with suppress(ValueError):
                png = base64.b64decode(url[len(_PNG_URL) :], validate=True)
                if png.startswith(_PNG):
                    return Image(png)
    raise _Refused(400, f"{param}: a part is a text, or a PNG image as {_PNG_URL}...", param=param)


def _choice(table: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Return the property with an enum that the response format asks for, and its values."""
    form = _take(table, "response_format", _OBJECT)
    if _take(form, "type", "text") == "text":
        return None
    schema = _take(_take(form, "json_schema", _OBJECT), "schema", _OBJECT)
    found = [
        (name, tuple(each["enum"]))
        for name, each in _take(schema, "properties", _OBJECT).items()
        if isinstance(each, dict) and isinstance(each.get("enum"), list)
    ]
    if len(found) != 1 or not all(isinstance(value, str) for value in found[0][1]):
        said = "the only response_format served is a json_schema with one enum of strings"
        raise _Refused(400, said, param="response_format")
    try:
        answers.read("", found[0][1])
    except InputError as error:
        raise _Refused(400, str(error), param="response_format") from None
    return found[0]


def _top_logprobs(table: Mapping[str, Any]) -> int | None:
    wanted, top = _take(table, "logprobs", False), _take(table, "top_logprobs", 0)
    if not 0 <= top <= 20 or (top and not wanted):
        said = "top_logprobs must be from 0 to 20, and needs logprobs to be true"
        raise _Refused(400, said, param="top_logprobs")
    return top if wanted else None


# ---- completions -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Completion:
    """What is answered to one request, in the two shapes it may take on the wire."""

    id: str
    model: str
    text: str
    finish: str
    refused: bool
    tokens: Sequence[Mapping[str, Any]] | None
    usage: Mapping[str, Any]

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        said, refusal = (None, self.text) if self.refused else (self.text, None)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said, "refusal": refusal},
            "logprobs": self._logprobs(self.tokens),
            "finish_reason": self.finish,
        }
        body = {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}
        return _json(body).encode()

    def events(self, *, usage: bool) -> list[bytes]:
        """Return the events of a streamed answer, stating the usage in the last if asked to."""
        deltas: list[tuple[Mapping[str, Any], object, str | None]] = [
            ({"role": "assistant", "content": "", "refusal": None}, None, None)
        ]
        kind = "refusal" if self.refused else "content"
        if self.tokens is None:
            deltas += [({kind: word}, None, None) for word in _WORD.findall(self.text)]
        else:
            deltas += [({kind: t["token"]}, self._logprobs([t]), None) for t in self.tokens]
        deltas.append(({}, None, self.finish))
        head = self._head("chat.completion.chunk") | ({"usage": None} if usage else {})
        chunks = [
            {
                **head,
                "choices": [
                    {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
                ],
            }
            for delta, logprobs, finish in deltas
        ]
        if usage:
            chunks.append({**head, "choices": [], "usage": self.usage})
        return [f"data: {each}\n\n".encode() for each in (*map(_json, chunks), "[DONE]")]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_icl_loop",
        }

    @staticmethod
    def _logprobs(tokens: object) -> Mapping[str, Any] | None:
        return None if tokens is None else {"content": tokens, "refusal": None}


def _chosen(reply: Reply, choice: tuple[str, tuple[str, ...]] | None) -> tuple[str, bool]:
    """Return what is said, and whether it is a refusal: of a schema that the reply cannot fill."""
    if choice is None or reply.finish != "stop":
        return reply.text, False
    name, labels = choice
    answer = answers.read(reply.text, labels).answer
    if answer is None:
        return reply.text, True
    return json.dumps({name: answer}, ensure_ascii=False), False


def _tokens(text: str, logprobs: Mapping[str, float], top: int) -> list[dict[str, Any]] | None:
    """Return the label named last in `text` as a token among its alternatives, the rest as certain.

    The tokens joined are `text`. There are none if it names no label.
    """
    named = [label for label in logprobs if label and label in text]
    if not named:
        return None
    label = max(named, key=lambda each: (text.rfind(each) + len(each), len(each)))
    before, _, after = text.rpartition(label)
    ranked = sorted(logprobs.items(), key=lambda item: -item[1])[:top]
    tokens = [
        _token(before, 0.0) | {"top_logprobs": []},
        _token(label, logprobs[label]) | {"top_logprobs": [_token(*each) for each in ranked]},
        _token(after, 0.0) | {"top_logprobs": []},
    ]
    return [token for token in tokens if token["token"]]


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": max(logprob, _IMPROBABLE),
        "bytes": list(text.encode()),
    }


class _PrefixCache:
    """Remembers the beginnings of conversations: a tree of digests, the longest unused go first."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[int | str, bytes], int] = OrderedDict()
        self._numbers = count()

    def known(self, model: str, said: Sequence[_Said]) -> int:
        """Return the tokens of the longest run of leading messages asked before, and remember all."""
        places, tokens, new = self._places, 0, False
        place: int | str = model
        for each in said:
            step = (place, each.digest)
            after = places.get(step)
            if after is None:
                after = places[step] = next(self._numbers)
                new = True
            else:
                places.move_to_end(step)
            tokens += 0 if new else each.tokens
            place = after
        while len(places) > REMEMBERED_PLACES:
            places.popitem(last=False)
        return tokens - tokens % CACHE_STEP


# ---- the application ---------------------------------------------------------------------


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
        exception_handlers=dict.fromkeys((_Refused, HTTPException, Exception), _explain),
    )


class _Api:
    """The endpoints, and what they remember between requests."""

    def __init__(
        self, models: Mapping[str, ChatModel], settings: ServerSettings, log: RequestLog
    ) -> None:
        self._models, self._settings, self._log = models, settings, log
        self._numbers = count()
        self._cache = _PrefixCache()
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
        except _Refused as refused:
            response = refused.response
        except (ClientDisconnect, asyncio.CancelledError):
            response = _HangUp()  # nobody waits any more, or the server stops without an answer
        finally:
            if request.scope["state"][_TRANSPORT].is_closing():
                response = _HangUp()
            self._log.leave(client_id, _status(response), sound=fault not in UNSOUND)
        response.raw_headers.append((b"x-request-id", b"req_%d" % number))
        return response

    async def _answer(self, request: Request, number: int, fault: str | None) -> Response:
        self._check_key(request)
        asked = self._understood(_parsed(await _body(request)))
        if fault:
            self._log.faults[fault] += 1
        await self._wait(request, number, slow=fault == "slow")
        if fault in _FAILURES:
            return _FAILURES[fault](self._settings)
        completion = await self._completed(number, asked)
        if asked.stream:
            response: Response = _Events(completion.events(usage=asked.stream_usage))
        else:
            response = Response(completion.whole(), media_type="application/json")
        if fault == "truncated":
            half = response.body[: len(response.body) // 2]
            return Response(half, media_type=response.media_type)
        return response

    def _understood(self, table: Mapping[str, Any]) -> _Asked:
        items = _take(table, "messages", _ARRAY)
        if not items:
            raise _Refused(400, "messages must hold at least one message", param="messages")
        if _take(table, "n", 1) != 1:
            raise _Refused(400, "n must be 1: each answer is given once", param="n")
        said = [self._said(*_spoken(index, item)) for index, item in enumerate(items)]
        prompt = sum([each.tokens for each in said]) + REQUEST_TOKENS
        asked = _Asked(
            model=self._known(_take(table, "model", "")),
            said=said,
            prompt=prompt,
            stream=_take(table, "stream", False),
            stream_usage=_take(_take(table, "stream_options", _OBJECT), "include_usage", False),
            top_logprobs=_top_logprobs(table),
            choice=_choice(table),
        )
        self._check_length(prompt)
        return asked

    async def _completed(self, number: int, asked: _Asked) -> _Completion:
        cached = self._cache.known(asked.model, asked.said)
        try:
            reply = await self._models[asked.model].complete([each.message for each in asked.said])
        except ModelUnavailable as error:
            raise _Refused(503, str(error)) from None
        except ContextOverflow as error:
            raise _Refused(400, str(error), code="context_length_exceeded") from None
        except IclLoopError as error:
            raise _Refused(400, str(error)) from None
        text, refused = _chosen(reply, asked.choice)
        tokens = None
        if asked.top_logprobs is not None and reply.label_logprobs and not refused:
            tokens = _tokens(text, reply.label_logprobs, asked.top_logprobs)
        return _Completion(
            id=f"chatcmpl-{self._created:x}{number:08x}",
            model=asked.model,
            text=text,
            finish=reply.finish,
            refused=refused,
            tokens=tokens,
            usage=_usage(asked.prompt, cached, self._count(text), reply.usage.reasoning),
        )

    def _heard(self, role: Role, content: str | tuple[Part, ...]) -> _Said:
        message = Message(role, (Text(content),) if isinstance(content, str) else content)
        return _Said(message, message.digest, count_message(self._settings.counter, message))

    def _known(self, name: str) -> str:
        if name in self._models:
            return name
        short = name[:100]
        said = f"there is no model {short!r} here: {nearest(short, self._models)}"
        raise _Refused(404, said, code="model_not_found", param="model")

    def _check_length(self, prompt: int) -> None:
        self._log.longest_prompt = max(self._log.longest_prompt, prompt)
        window = self._settings.context_window
        if window is not None and prompt > window:
            raise _Refused(
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
            raise _Refused(401, said, code="invalid_api_key")

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
                    await _until_gone(request.receive)
                raise ClientDisconnect


async def _body(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size <= MAX_BODY:
            pieces.append(piece)
    if size > MAX_BODY:
        raise _Refused(413, f"the body of a request has at most {MAX_BODY} bytes, got {size}")
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
    return _Refused(429, said, code="rate_limit_exceeded", headers=headers).response


_FAILURES: Mapping[str | None, Callable[[ServerSettings], Response]] = {
    "429": _too_many,
    "500": lambda _: _Refused(500, "the server had an error, as it was told to").response,
    "503": lambda _: _Refused(503, "the server is overloaded, as it was told to be").response,
    "reset": lambda _: _HangUp(),
    "garbage": lambda _: Response("<html>it works!</html>", media_type="application/json"),
    "empty": lambda _: Response(b"", media_type="application/json"),
}
"""Faults for which no model is asked."""


def _status(response: Response | None) -> int | None:
    """Return the status that goes out; where there is no response, `_explain` says 500."""
    if response is None:
        return 500
    return None if isinstance(response, _HangUp) else response.status_code


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _explain(request: Request, error: Exception) -> Response:
    """Answer a request that went wrong; of a mistake of ours the server's log has the traceback."""
    match error:
        case _Refused():
            return error.response
        case HTTPException():
            said = f"{request.method} {request.url.path[:200]} is not served"
            return _Refused(error.status_code, said, headers=error.headers).response
        case _:
            return _Refused(500, f"the server failed: {type(error).__name__}").response


# ---- serving -----------------------------------------------------------------------------


class _Protocol(AutoHTTPProtocol):
    """Lets the application have the transport of a request, to break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        self.app_state = {**self.app_state, _TRANSPORT: transport}
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
