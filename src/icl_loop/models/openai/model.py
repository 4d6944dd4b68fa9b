"""A model behind an endpoint: one request, one reply."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any

import aiohttp
import openai
from pydantic import ValidationError

from icl_loop.core.errors import (
    ContextOverflow,
    ModelError,
    ModelUnavailable,
    RequestRefused,
    nearest,
)
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.validation_messages import complaint
from icl_loop.models.chat import AnswerFormat
from icl_loop.models.openai.authentication import (
    NO_KEY,
    client_of,
    headers_of,
    key_in,
    key_variable_of,
)
from icl_loop.models.openai.connection import (
    CONNECTIONS,
    MAX_REPLY_BYTES,
    base_of,
    lister_of,
    proxy_for,
    read_body,
    timeout_of,
    trusted_certificates,
    what_broke,
    why_untrusted,
)
from icl_loop.models.openai.error_responses import OVERFLOW, duration_of, error_in, retry_after
from icl_loop.models.openai.request_body import JOIN_JSON, format_fields, head_of, own_fields, wire
from icl_loop.models.openai.response_parser import Completion, SaidNothing

LONGEST_PAUSE_S = 600.0
"""How long a request is held back at the most because the endpoint says that nothing is left."""


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
        self._key_variable = key_variable_of(base_url, api_key_env)
        key = key_in(self._key_variable) if self._key_variable else None
        secret_headers = {name: key_in(held) for name, held in (headers_env or {}).items()}
        self._secrets = [secret for secret in (key, *secret_headers.values()) if secret]
        self._timeout, self._trusted = timeout_of(timeout_s), trusted_certificates()
        base = base_of(base_url)
        self._url = (base / "chat" / "completions").with_query(base.query)
        self._proxy = proxy_for(self._url)
        own = {**(headers or {}), **secret_headers}
        lister = lister_of(self._trusted, self._proxy)
        self._client = client_of(key or NO_KEY, base, organization, own, lister)
        self._headers = headers_of(self._client, organization, own, with_key=key is not None)
        self._head = head_of(
            {"model": name, **format_fields(answer_format, labels), **own_fields(params)}
        )
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
                content = await read_body(response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise RequestRefused(f"{self._where} {why_untrusted(error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ModelUnavailable(f"{self._where} {what_broke(error)}") from None
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
            completion = Completion.model_validate_json(content)
            return completion.reply(self._labels)
        except ValidationError as error:
            what = f"something that is no completion: {complaint(error)}"
            raise ModelUnavailable(
                f"{self._where} answered with {what if content.strip() else 'nothing'}"
            ) from None
        except SaidNothing:
            raise ModelUnavailable(f"{self._where} answered with a completion of nothing") from None

    @property
    def _where(self) -> str:
        return str(self._client.base_url)

    def _keep_pace(self, headers: Mapping[str, str]) -> None:
        """Hold the next request back if the endpoint says that nothing is left until then."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset = duration_of(headers.get(f"x-ratelimit-reset-{kind}"))
                pause = min(reset or 0.0, LONGEST_PAUSE_S)
                self._not_before = max(self._not_before, time.monotonic() + pause)

    async def _translated(self, response: aiohttp.ClientResponse, content: bytes) -> ModelError:
        """Return our error for a status that is no success."""
        status, (code, message) = response.status, error_in(content)
        for secret in self._secrets:
            message = message.replace(secret, "[key]")
        said = f"{self._where} answered {status}: {message[:300]}"
        if OVERFLOW.search(f"{code} {message}") and status in (400, 413, 422, 500):
            return ContextOverflow(said)
        if code == "insufficient_quota":
            return RequestRefused(f"{said} (check the plan and the billing of the account)")
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after(response.headers)
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
