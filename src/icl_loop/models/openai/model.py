"""`OpenAIModel`: sends each conversation to an endpoint once."""

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import aiohttp
from yarl import URL

from icl_loop.core.errors import InputError, ModelError, ModelUnavailable, RequestRefused, nearest
from icl_loop.core.messages import Message, Reply, Usage, fingerprint
from icl_loop.models.chat import TURN_FIELDS, AnswerFormat
from icl_loop.models.openai import connection, error_responses
from icl_loop.models.openai.endpoint import Endpoint, NoConnection, at, discover
from icl_loop.models.openai.error_responses import Failure
from icl_loop.models.openai.label_logprobs import check_labels
from icl_loop.models.openai.optional_fields import Chosen, OptionalFields
from icl_loop.models.openai.request_body import encode_messages, parse_params
from icl_loop.models.openai.response_parser import InvalidResponse, parse_completion
from icl_loop.tasks.answers import AnswerParser, parse_answer

MAX_PAUSE_S = 600.0
"""Longest pause before a request when the endpoint reports that its rate limit is used up."""
_NUMBERS = re.compile(r"\S*\d\S*")
"""Such as the number of a request, which differs between refusals that say the same."""


class OpenAIModel:
    """A model behind an OpenAI-compatible endpoint. It does not retry: see `RetryingModel`."""

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
        system_role: bool = True,
        cache_control: bool = False,
        answer_format: AnswerFormat = "text",
        labels: Sequence[str] = (),
        form: str | None = None,
        parse: AnswerParser | None = None,
        cap: int | None = None,
        endpoint: Endpoint | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """Prepare requests to the model that the endpoint at `base_url` calls `name`.

        Args:
            name: The endpoint's name for the model.
            base_url: OPENAI_BASE_URL or OpenAI's own address if None.
            api_key_env: Environment variable that holds the API key. Without it, OPENAI_API_KEY is
                sent if `base_url` is None, and no key otherwise, so that an OpenAI key never
                reaches another endpoint by accident.
            organization: Sent as `OpenAI-Organization`, which some endpoints bill.
            headers: Sent with every request.
            headers_env: Secret headers, each with the environment variable that holds its value.
            params: Fields added to every request; those in its `extra_body` take precedence.
            merge_roles: Merge consecutive messages of one role, as many chat templates require.
            system_role: Send the system message as such, rather than in the first user message.
            cache_control: Mark the ends of the system message and of the request as breakpoints of
                the prompt cache, as Anthropic's models require.
            answer_format: Free text; JSON that follows a schema with `labels` as its enum; text
                with the log probability of each label; or one of the labels in whatever way the
                endpoint can limit replies.
            labels: The possible answers; required by all formats but free text.
            form: The requested final line of a reply, containing {label}; see `parse_answer`.
            parse: Parses replies, to find the tokens of the answer; by `labels` and `form` if None.
            cap: Most tokens of a reply, unless `params` sets such a limit; unlimited if None.
            endpoint: What is known of the endpoint, which decides what is tried first.
            timeout_s: Maximum seconds for a reply once connected. Connecting may take as long
                again, but at most 10 seconds.

        Raises:
            InputError: Two labels cannot be told apart by their first token although log
                probabilities are requested, a key is missing, `params` sets a reserved field, an address is invalid, or
                the environment names an unusable proxy or unreadable certificates.
        """
        self._name, self._base_url = name, connection.parse_base_url(base_url)
        self._url = at(self._base_url, "chat", "completions")
        self._key_variable = api_key_env or ("OPENAI_API_KEY" if base_url is None else None)
        secrets = {
            header: _read_key(each, f"model.headers_env.{header}")
            for header, each in (headers_env or {}).items()
        }
        self._secrets = tuple(secrets.values())
        if self._key_variable:
            key = _read_key(self._key_variable, "model.api_key_env")
            secrets["Authorization"] = f"Bearer {key}"
            self._secrets += (key,)
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"icl-loop/{version('icl-loop')}",
            **({"OpenAI-Organization": organization} if organization else {}),
            **(headers or {}),
            **secrets,
        }
        self._labels, form = tuple(labels), form or "Answer: {label}"
        self._parse = parse or partial(parse_answer, labels=self._labels, form=form)
        if answer_format == "logprobs":
            check_labels(self._labels)
        self._params, kind = parse_params(params or {}), (endpoint or Endpoint()).kind
        self.fields = OptionalFields(
            answer_format, self._labels, form, kind=kind, cap=cap, params=self._params
        )
        self._start = self.fields.chosen, b""
        self._merge_roles, self._system_role = merge_roles, system_role
        self._cache_control = cache_control
        self._proxy, self._timeout_s = connection.find_proxy(self._base_url), timeout_s
        self._certificates = connection.trusted_certificates()
        self._not_before = 0.0

    async def complete(
        self, messages: Sequence[Message], own: Mapping[str, bytes] | None = None
    ) -> Reply:
        """Return the endpoint's reply to `messages`.

        `own` has the JSON of the fields that belong to one session, by name. A request that is
        refused because of an optional field is sent again without it.

        Raises:
            ModelUnavailable: The request failed, but a retry may succeed.
            ContextOverflow: The conversation is too long for the model.
            RequestRefused: The key, the model's name or the request is wrong.
        """
        if pause_s := self.pause_s:
            await asyncio.sleep(pause_s)
        encoded = encode_messages(
            messages,
            merge_roles=self._merge_roles,
            system_role=self._system_role,
            cache_control=self._cache_control,
        )
        headers = {**self._headers, "X-Client-Request-Id": fingerprint(messages)}
        first, refusals = self.fields.chosen, list[str]()
        while True:
            sent = self.fields.chosen
            body = b'%b,"messages":[%b]}' % (self._fields_of(sent, own or {}), encoded)
            response, content = await self._post(body, headers)
            self._note_rate_limit(response.headers)
            try:
                return self.fields.checked(sent, await self._reply(response, content))
            except (RequestRefused, ModelUnavailable) as error:
                said = str(error) if response.ok else content.decode("utf-8", "replace")
                refusals.append(said)
                if error.usage or not self.fields.refused(sent, response.status, said):
                    first_said, last_said = (_NUMBERS.sub("", refusals[i]) for i in (0, -1))
                    if first_said == last_said:  # leaving fields out changed nothing
                        self.fields.restore(first)
                    raise

    def for_session(self, name: str, slot: int | None = None) -> "SessionModel":
        """Return the model for one session, whose prompt cache is kept apart from others.

        `slot` is a slot of llama.cpp that no other session uses.
        """
        own = {"prompt_cache_key": json.dumps(name).encode()}
        return SessionModel(self, own if slot is None else {**own, "id_slot": b"%d" % slot})

    async def discover(self) -> Endpoint:
        """Return what the endpoint says about itself and the model."""
        return await discover(self._get, self._base_url, self._name)

    async def _post(
        self, body: bytes, headers: Mapping[str, str]
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response, await connection.read_body(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            kind = RequestRefused if connection.is_lasting(error) else ModelUnavailable
            raise kind(f"{self._base_url} {connection.describe_failure(error)}") from None

    async def _get(self, url: URL) -> tuple[int, bytes]:
        try:
            async with self._session.get(
                url, headers=self._headers, allow_redirects=False
            ) as response:
                return response.status, await connection.read_body(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoConnection(connection.describe_failure(error)) from None

    def _fields_of(self, chosen: Chosen, own: Mapping[str, bytes]) -> bytes:
        """Return the beginning of a request's body: all fields but the messages."""
        if chosen is not self._start[0] or not self._start[1]:
            fields: dict[str, Any] = {"model": self._name}
            for option in chosen.values():
                fields |= option.fields
            encoded = json.dumps({**fields, **self._params}, ensure_ascii=False)
            self._start = chosen, encoded[:-1].encode()
        name = chosen["cache"].name or ""
        more = {key: json.dumps(value).encode() for key, value in TURN_FIELDS.get().items()}
        more |= {name: own[name]} if name in own else {}
        return self._start[1] + b"".join(b',"%b":%b' % (key.encode(), more[key]) for key in more)

    @property
    def pause_s(self) -> float:
        """Seconds until the endpoint accepts requests again, according to its rate-limit headers."""
        return max(0.0, self._not_before - time.monotonic())

    async def aclose(self) -> None:
        """Close the connections."""
        if "_session" in self.__dict__:
            await self._session.close()

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        """The connections; they belong to the event loop that makes the first request."""
        return connection.open_session(self._proxy, self._timeout_s, self._certificates)

    async def _reply(self, response: aiohttp.ClientResponse, content: bytes) -> Reply:
        """Return the reply in a response, or raise what its failure means."""
        if len(content) > connection.MAX_RESPONSE_BYTES:
            limit = connection.MAX_RESPONSE_BYTES
            raise RequestRefused(f"{self._base_url} returned more than {limit} bytes")
        succeeded, usage = 200 <= response.status < 300, None
        invalid = InvalidResponse("did not return a chat completion")
        try:
            reply = parse_completion(content, self._labels, self._parse)
            if succeeded or reply.finish == "content_filter":  # Azure withholds replies with a 400
                return reply
        except InvalidResponse as error:
            invalid, usage = error, error.usage if error.usage.total else None
        if response.status in range(300, 400):
            raise RequestRefused(self._redirect(response))
        failure = error_responses.parse_failure(response.status, response.headers, content)
        if failure.kind == "filter":
            return Reply("", usage=usage or Usage(), finish="content_filter")
        if succeeded and not (failure.is_api or failure.is_page):
            raise ModelUnavailable(f"{self._base_url} {invalid}", usage=usage)
        raise await self._error(failure, response.status, usage)

    def _note_rate_limit(self, headers: Mapping[str, str]) -> None:
        """Delay the next request if no requests or tokens are left until a reset."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset_s = error_responses.reset_after(headers, kind) or 0.0
                not_before = time.monotonic() + min(reset_s, MAX_PAUSE_S)
                self._not_before = max(self._not_before, not_before)

    async def _error(self, failure: Failure, status: int, usage: Usage | None) -> ModelError:
        """Return the exception for a failure that came with this HTTP status."""
        described = error_responses.describe(failure, status)
        for secret in self._secrets:
            described = described.replace(secret, "[key]")
        said = f"{self._base_url} {described[:400]}"
        if failure.error is ModelUnavailable:
            return ModelUnavailable(
                said,
                retry_after_s=failure.wait_s,
                limited=failure.kind == "rate_limit" or failure.status == 429,
                reached=failure.reached,
                usage=usage,
            )
        if failure.error is RequestRefused:
            said += f" ({await self._hint(failure)})"
        return failure.error(said, usage=usage)

    async def _hint(self, failure: Failure) -> str:
        """Return what to check after a refused request."""
        if failure.is_page:
            return (
                "check base_url, and whether a login page, a firewall or a proxy answers in place of"
                " the endpoint"
            )
        match failure.kind, failure.status:
            case "quota", _:
                return "check the plan and the billing of the account"
            case (("system_role" | "roles"), _):
                if failure.kind == "roles" and not self._merge_roles:
                    return "set model.merge_roles = true"
                return "set model.system_role = false, as the model takes no system message"
            case "path", _:
                return "check base_url"
            case _, (401 | 403):
                variable = self._key_variable
                if variable or not self._secrets:
                    return f"check the key in {variable}" if variable else "check api_key_env"
                return "check the keys in headers_env"
            case ("model", _) | (_, 404):
                models = (await self.discover()).models
                suggestion = f"; {nearest(self._name, models)}" if models else ""
                return f"check base_url and the model {self._name!r}{suggestion}"
            case _:
                return f"check the settings of the model {self._name!r}"

    def _redirect(self, response: aiohttp.ClientResponse) -> str:
        """Return where a response redirects to, without the query, which may contain secrets."""
        said = f"{self._base_url} answered {response.status}"
        try:
            target = self._url.join(URL(response.headers["Location"])).with_query(None)
            target = target.with_fragment(None).with_user(None)
        except (KeyError, ValueError):
            return f"{said}, a redirect without an address (check base_url)"
        moved = str(target).removesuffix("/chat/completions")
        hint = "check base_url" if moved == str(target) else f"set base_url to {moved}"
        return f"{said}: it redirects to {target}, and redirects are not followed ({hint})"


def _read_key(variable: str, setting: str) -> str:
    """Return the key in an environment variable; an error names the setting that chooses it."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"{setting}: the environment variable {variable} is not set or empty")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"{setting}: the environment variable {variable} does not contain a valid API key"
        )
    return key


@dataclass(frozen=True, slots=True)
class SessionModel:
    """A model as one session uses it.

    Attributes:
        model: The model.
        own: JSON of the request fields that belong to the session, by name.
    """

    model: OpenAIModel
    own: Mapping[str, bytes]

    @property
    def pause_s(self) -> float:
        """Seconds until the endpoint accepts requests again."""
        return self.model.pause_s

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the model's reply to `messages`."""
        return await self.model.complete(messages, self.own)
