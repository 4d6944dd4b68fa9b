"""Models behind an OpenAI-compatible chat-completions endpoint: one request, one reply.

The `openai` client holds addresses, keys and connections. The body of a request is not built
through it: it walks every message of every request again, while here each message is written out
once in its life and a body is those pieces joined.
"""

import asyncio
import json
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx2
import openai
from aiohttp import hdrs
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from yarl import URL

from icl_loop.errors import (
    ContextOverflow,
    InputError,
    ModelError,
    ModelUnavailable,
    RequestRefused,
    nearest,
)
from icl_loop.messages import (
    JOIN,
    Finish,
    Message,
    Reply,
    Served,
    Usage,
    fingerprint,
    merged,
)
from icl_loop.models.chat import AnswerFormat

DEFAULT_KEY = "OPENAI_API_KEY"
NO_KEY = "none"
"""What the client, which insists on a key, is given where there is none."""
OWN_PARAMS = frozenset({"model", "messages", "stream", "n"})
"""Fields of a request that are ours to set."""
CONNECTIONS = 1_000
CONNECT_S = 10.0
"""The most seconds to wait for a connection."""
HINT_S = 10.0
"""The most seconds that an endpoint may take to list its models."""
LONGEST_PAUSE_S = 600.0
"""How long a request is held back at the most because the endpoint says that nothing is left."""
MAX_REPLY_BYTES = 16 * 2**20
TOP_LOGPROBS = 20
"""The most alternatives that OpenAI's endpoint lists for a token."""


class OpenAIModel:
    """Asks an endpoint once for each call; asking again is for `limits.Patient`."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        organization: str | None = None,
        headers: Mapping[str, str] | None = None,
        headers_env: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        merge_roles: bool = True,
        answer_format: AnswerFormat = "text",
        labels: Sequence[str] = (),
        timeout_s: float = 600.0,
    ) -> None:
        """Ask the model `name` at `base_url`.

        Args:
            name: The endpoint's name for the model.
            base_url: Its address; OpenAI's if None.
            api_key_env: The variable that holds the key. Only OpenAI's own address has a default,
                so that its key is never sent anywhere else unasked.
            organization: Billed for the requests, where an endpoint knows such.
            headers: Sent with every request.
            headers_env: Headers that hold secrets, each with the variable that holds its value.
            params: Fields of every request's body; those of `extra_body` are laid on top.
            merge_roles: Make neighbours of one role into one message, as many templates insist.
            answer_format: Free text, a JSON schema whose enum is `labels`, or text with the log
                probability of each label.
            labels: What may be answered; needed by the last two formats.
            timeout_s: Seconds to wait for the whole of a reply once connected. Connecting may take
                as many again, but no more than 10.

        Raises:
            InputError: The variable holds no key, `params` sets a field that is not its own, or
                the environment names a proxy or certificates that are of no use.
        """
        self._name = name
        self._labels = tuple(labels) if answer_format == "logprobs" else ()
        self._join = JOIN_JSON if merge_roles else None
        self._key_variable = _key_variable(base_url, api_key_env)
        key = _key(self._key_variable) if self._key_variable else None
        secret_headers = {name: _key(held) for name, held in (headers_env or {}).items()}
        self._secrets = [secret for secret in (key, *secret_headers.values()) if secret]
        self._timeout, self._trusted = _timeout(timeout_s), _trusted()
        base = _base(base_url)
        self._url = (base / "chat" / "completions").with_query(base.query)
        self._proxy = _proxy(self._url)
        own = {**(headers or {}), **secret_headers}
        lister = _lister(self._trusted, self._proxy)
        self._client = _client(key or NO_KEY, base, organization, own, lister)
        self._headers = _headers(self._client, organization, own, with_key=key is not None)
        self._head = _head({"model": name, **_format_fields(answer_format, labels), **_own(params)})
        self._not_before = 0.0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the endpoint's reply to `messages`.

        Raises:
            ModelUnavailable: It failed for a reason that may pass.
            ContextOverflow: The messages are more than it can read.
            RequestRefused: It will not answer: the key, the name or the request is wrong.
        """
        if pause_s := self.pause_s:
            await asyncio.sleep(pause_s)
        try:
            async with self._session.post(
                self._url,
                data=self._body(messages),
                headers={**self._headers, "X-Client-Request-Id": fingerprint(messages)},
                allow_redirects=False,
            ) as response:
                content = await _read(response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise RequestRefused(f"{self._where} {_untrusted(error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ModelUnavailable(f"{self._where} {_broken(error)}") from None
        self._keep_pace(response.headers)
        if response.status != HTTPStatus.OK:
            raise await self._translated(response, content)
        return self._reply(content)

    @property
    def pause_s(self) -> float:
        """Seconds until the endpoint, by its own account, may be asked again."""
        return max(0.0, self._not_before - time.monotonic())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()
        if "_session" in self.__dict__:
            await self._session.close()

    def _body(self, messages: Sequence[Message]) -> bytes:
        return self._head + wire(messages, self._join) + b"]}"

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        """The connections; they belong to the event loop that first asks for them."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            proxy=self._proxy,
        )

    def _reply(self, content: bytes) -> Reply:
        if len(content) > MAX_REPLY_BYTES:
            raise RequestRefused(f"{self._where} answered more than {MAX_REPLY_BYTES} bytes")
        try:
            completion = _Completion.model_validate_json(content)
            return completion.reply(self._labels)
        except (ValidationError, _SaidNothing) as error:
            what = "empty" if not content.strip() else "something that is no completion"
            raise ModelUnavailable(
                f"{self._where} answered with {what} ({type(error).__name__.strip('_')})"
            ) from None

    @property
    def _where(self) -> str:
        return str(self._client.base_url)

    def _keep_pace(self, headers: Mapping[str, str]) -> None:
        """Hold the next request back if the endpoint says that nothing is left until then."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset = _duration(headers.get(f"x-ratelimit-reset-{kind}"))
                pause = min(reset or 0.0, LONGEST_PAUSE_S)
                self._not_before = max(self._not_before, time.monotonic() + pause)

    async def _translated(self, response: aiohttp.ClientResponse, content: bytes) -> ModelError:
        """Return our error for a status that is no success."""
        status, (code, message) = response.status, _error(content)
        for secret in self._secrets:
            message = message.replace(secret, "[key]")
        said = f"{self._where} answered {status}: {message[:300]}"
        if OVERFLOW.search(f"{code} {message}") and status in (400, 413, 422, 500):
            return ContextOverflow(said)
        if code == "insufficient_quota":
            return RequestRefused(f"{said} (check the plan and the billing of the account)")
        if status in (408, 409, 429) or status >= 500:
            wait = _retry_after(response.headers)
            return ModelUnavailable(said, retry_after_s=wait, limited=status == 429)
        return RequestRefused(f"{said} ({await self._hint(status)})")

    async def _hint(self, status: int) -> str:
        """Return what to check."""
        match status:
            case 401 | 403:
                held = f"the key in {self._key_variable}" if self._key_variable else "api_key_env"
                return f"check {held}"
            case 404:
                return f"check base_url and the model {self._name!r}{await self._nearest_model()}"
            case _:
                return f"check the settings of the model {self._name!r}"

    async def _nearest_model(self) -> str:
        try:
            served = [model.id async for model in self._client.models.list()]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return ""  # an endpoint need not list its models; the hint is then the shorter one
        return f"; {nearest(self._name, served)}" if served else ""


# ---- what is sent ------------------------------------------------------------------------

JOIN_JSON = json.dumps(JOIN)[1:-1].encode()


def wire(messages: Sequence[Message], join: bytes | None = JOIN_JSON) -> bytes:
    """Return the inside of the `messages` array of a request.

    Neighbours of one role become one message with `join` between them, or stay apart if None.
    """
    pieces: list[bytes] = []
    role = ""
    for message in messages:
        if message.is_seen:
            return _wire_with_pictures(messages, join)
        if message.role == role and join is not None:
            pieces += (join, message.json_text)
        else:
            pieces += (b'"},' if role else b"", message.json_open)
            role = message.role
    return b"".join(pieces) + b'"}'


def _wire_with_pictures(messages: Sequence[Message], join: bytes | None) -> bytes:
    said = merged(messages) if join is not None else messages
    return b",".join(
        b'{"role":"%b","content":[%b]}' % (message.role.encode(), message.json_parts)
        if message.is_seen
        else message.json_open + b'"}'
        for message in said
    )


def _head(fields: Mapping[str, Any]) -> bytes:
    """Return the beginning of every body, up to the messages."""
    return json.dumps(fields, ensure_ascii=False)[:-1].encode() + b',"messages":['


def _own(params: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(params or {})
    extra = given.pop("extra_body", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"model.params.extra_body is a table, got {extra!r}")
    given |= extra
    for key in sorted(given.keys() & OWN_PARAMS):
        raise InputError(f"model.params.{key} is not for params to set")
    return given


def _format_fields(answer_format: AnswerFormat, labels: Sequence[str]) -> dict[str, Any]:
    if answer_format == "logprobs":
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if answer_format == "text":
        return {}
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
    }


def _key_variable(base_url: str | None, variable: str | None) -> str | None:
    return variable or (DEFAULT_KEY if base_url is None else None)


def _key(variable: str) -> str:
    """Return a key from the environment."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"the environment variable {variable} holds no key")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"the environment variable {variable} holds something that is no key")
    return key


def _client(
    key: str,
    base: URL,
    organization: str | None,
    headers: Mapping[str, str],
    lister: httpx2.AsyncClient,
) -> openai.AsyncOpenAI:
    """Return the client, which lists models by `lister` and asks once."""
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=str(base),
        organization=organization,
        default_headers=headers,
        max_retries=0,
        http_client=lister,
    )


def _headers(
    client: openai.AsyncOpenAI, organization: str | None, own: Mapping[str, str], *, with_key: bool
) -> dict[str, str]:
    """Return what is sent with every request; of what has the same name, the key goes first."""
    return {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": client.user_agent,
        **({"OpenAI-Organization": organization} if organization else {}),
        **own,
        **(client.auth_headers if with_key else {}),
    }


# ---- the way there -----------------------------------------------------------------------

PROXY_SCHEMES = ("http", "https")


def _base(base_url: str | None) -> URL:
    """Return the address asked, by the client's own rule where none is given."""
    if base_url is None:
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
    return URL(base_url)


def _timeout(reply_s: float) -> aiohttp.ClientTimeout:
    """Bound connecting, each silence and the whole, so that no trickle is listened to for ever."""
    connect_s = min(CONNECT_S, reply_s)
    return aiohttp.ClientTimeout(
        total=connect_s + reply_s, sock_connect=connect_s, sock_read=reply_s
    )


def _trusted() -> ssl.SSLContext:
    """Return the certificates to trust: the system's, or those that the environment names."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise InputError(
            "no certificates can be read where SSL_CERT_FILE or SSL_CERT_DIR point to"
            f" ({_one_line(error.strerror or type(error).__name__)})"
        ) from None


def _lister(trusted: ssl.SSLContext, proxy: str | None) -> httpx2.AsyncClient:
    """Return what lists models, by the way that requests go and no other."""
    return httpx2.AsyncClient(verify=trusted, proxy=proxy, trust_env=False, timeout=HINT_S)


def _proxy(url: URL) -> str | None:
    """Return the proxy that the environment names for `url`, if any.

    Raises:
        InputError: It is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(url.host or ""):
        return None
    proxy = named if "://" in named else f"http://{named}"
    if not _is_http(proxy):
        raise InputError(
            f"{url.scheme}_proxy or all_proxy names no HTTP proxy for {url.host}: it is to read"
            " http://host:port or https://host:port, got one that begins with"
            f" {proxy.partition('://')[0] + '://'!r}; or put the host into no_proxy"
        )
    return proxy


def _is_http(address: str) -> bool:
    try:
        url = URL(address)
    except ValueError:
        return False
    return url.scheme in PROXY_SCHEMES and bool(url.host)


# ---- what comes back ---------------------------------------------------------------------

FINISHES: Mapping[str | None, Finish] = {"length": "length", "content_filter": "content_filter"}
OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|maximum (?:context|model|sequence) length|max_model_len"
    r"|exceeds? (?:the )?(?:available |model's |maximum )*context (?:size|length|window)"
    r"|(?:prompt|input|request) (?:is )?too long|longer than the (?:maximum )?(?:model|context)",
    re.IGNORECASE,
)
"""How OpenAI, vLLM, llama.cpp, Ollama and their like say that a request is too long."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, of which no more than a little beyond `MAX_REPLY_BYTES` is ever taken in."""
    if (response.content_length or MAX_REPLY_BYTES) < MAX_REPLY_BYTES and (
        hdrs.CONTENT_ENCODING not in response.headers
    ):
        return await response.read()
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_REPLY_BYTES:
            break
    return bytes(content)


def _broken(error: BaseException) -> str:
    """Return what became of a connection."""
    match error:
        case aiohttp.ClientConnectorSSLError():
            return "fails at the TLS handshake (check whether base_url should begin with https)"
        case aiohttp.ClientProxyConnectionError():
            return "cannot be reached: the proxy cannot"
        case aiohttp.ClientHttpProxyError():
            return f"cannot be reached: the proxy answered {error.status}"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "cannot be reached"
        case TimeoutError():
            return "did not answer in time"
        case _:
            return f"broke off its answer ({type(error).__name__})"


def _untrusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Return why a certificate is not trusted and what to check."""
    why = getattr(error.certificate_error, "verify_message", "") or "no reason given"
    return (
        f"shows a certificate that is not trusted: {why} (check base_url; to trust an authority"
        " of your own, set SSL_CERT_FILE to the file of its certificate)"
    )


class _SaidNothing(Exception):
    """A completion without content that gives no reason for having none."""


class _Field(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Details(_Field):
    cached_tokens: NonNegativeInt | None = None
    reasoning_tokens: NonNegativeInt | None = None


class _UsageFields(_Field):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _TopLogprob(_Field):
    token: str
    logprob: float


class _TokenLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] = []


class _Logprobs(_Field):
    content: list[_TokenLogprob] | None = None


class _Part(_Field):
    text: str = ""


class _Said(_Field):
    content: str | list[_Part] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str | None:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content


class _Choice(_Field):
    message: _Said
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(_Field):
    """The fields of a chat completion that are used; endpoints leave out or add others."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _UsageFields | None = None

    def reply(self, labels: Sequence[str]) -> Reply:
        """Return what is said here; raises `_SaidNothing` if nothing is, for no stated reason."""
        choice = self.choices[0]
        text, refusal = choice.message.text, choice.message.refusal
        finish = FINISHES.get(choice.finish_reason, "stop")
        if text is None:
            if refusal is None and finish == "stop":
                raise _SaidNothing
            finish = "content_filter" if refusal is not None else finish
        return Reply(
            text if text is not None else refusal or "",
            usage=_usage(self.usage),
            finish=finish,
            served=Served(self.model, self.system_fingerprint),
            label_logprobs=_label_logprobs(choice.logprobs, labels) if labels else None,
        )


def _usage(usage: _UsageFields | None) -> Usage:
    """Return the counts that the endpoint states; what it leaves out counts as 0."""
    if usage is None:
        return Usage()
    prompt = usage.prompt_tokens_details or _Details()
    completion = usage.completion_tokens_details or _Details()
    return Usage(
        prompt=usage.prompt_tokens or 0,
        cached=prompt.cached_tokens or 0,
        completion=usage.completion_tokens or 0,
        reasoning=completion.reasoning_tokens or 0,
    )


def _label_logprobs(
    logprobs: _Logprobs | None, labels: Sequence[str]
) -> Mapping[str, float] | None:
    """Return the log probability of each label at the last token that is a label."""
    names = set(labels)
    for token in reversed((logprobs and logprobs.content) or []):
        if token.token.strip() in names:
            found: dict[str, float] = {}
            for each in (*token.top_logprobs, token):
                name = each.token.strip()
                if name in names:
                    found[name] = max(each.logprob, found.get(name, each.logprob))
            return {label: found[label] for label in labels if label in found}
    return None


def _error(content: bytes) -> tuple[str, str]:
    """Return code and message of an error body, whatever shape the endpoint gives it."""
    text = content[:2000].decode("utf-8", "replace")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError):
        return "", _one_line(text) or "(no body)"
    for _ in range(2):
        if isinstance(body, list) and body:
            body = body[0]
        if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
            body = body["error"]
    if isinstance(body, dict):
        code = " ".join(str(body[key]) for key in ("code", "type") if body.get(key))
        first = str(body.get("code") or "")
        message = body.get("message") or body.get("detail") or text
        return first if first == "insufficient_quota" else code, _one_line(str(message))
    return "", _one_line(str(body))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the endpoint asks to wait, by whichever header it says so."""
    if (value := headers.get("retry-after-ms")) and _number(value) is not None:
        return float(value) / 1000
    if value := headers.get("retry-after"):
        seconds = _number(value)
        return _until(value, headers.get("date")) if seconds is None else seconds
    resets = [
        _duration(headers.get(f"x-ratelimit-reset-{kind}")) for kind in ("requests", "tokens")
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text.strip()) else None


def _until(date: str, now: str | None) -> float | None:
    """Return the seconds until an HTTP date, by the endpoint's own clock where it tells it."""
    then, told = _date(date), _date(now or "")
    if then is None:
        return None
    return max(0.0, (then - (told or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _duration(text: str | None) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `1.5s` or `20ms`, or of a bare number."""
    if not text:
        return None
    pieces = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])", text)
    if "".join(map("".join, pieces)) != text.strip():
        return _number(text)
    return sum(float(amount) * _UNITS[unit] for amount, unit in pieces)
