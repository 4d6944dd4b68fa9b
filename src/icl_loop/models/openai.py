"""Models behind an OpenAI-compatible chat-completions endpoint."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import openai
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
)
from openai.types.completion_usage import CompletionUsage
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from icl_loop.errors import InputError, ModelUnavailable, RequestRefused
from icl_loop.messages import Finish, Message, Reply, Usage

DEFAULT_KEY = "OPENAI_API_KEY"
ATTEMPTS = 6
"""Requests for one turn, the first included, before the session stops."""
RETRIED_STATUS = frozenset({408, 409, 429})
FINISHES: Mapping[str, Finish] = {"length": "length", "content_filter": "content_filter"}


class OpenAIModel:
    """Asks an endpoint, again if it fails for a passing reason.

    The client library's own retries are off: each attempt is ours to count.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        params: Mapping[str, Any] | None = None,
        first_wait_s: float = 1.0,
    ) -> None:
        """Ask the model `name` at `base_url`; see `open_model` for the other arguments.

        Args:
            name: The endpoint's name for the model.
            base_url: Its address; OpenAI's if None.
            api_key_env: The variable that holds the key. Only OpenAI's own address has a default,
                so that its key is never sent anywhere else unasked.
            params: Passed on with every request.
            first_wait_s: Seconds before the first retry; they double up to a minute.
        """
        self._name = name
        self._params = dict(params or {})
        self._client = openai.AsyncOpenAI(
            api_key=_key(base_url, api_key_env), base_url=base_url, max_retries=0
        )
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(ModelUnavailable),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=first_wait_s, max=60, jitter=first_wait_s),
            reraise=True,
        )

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the endpoint's reply to `messages`.

        Raises:
            ModelUnavailable: It failed in every attempt for a reason that may pass.
            RequestRefused: It will not answer: the key, the name or the request is wrong.
        """
        start = time.perf_counter()
        retrying = self._retrying.copy()
        completion: ChatCompletion = await retrying(self._request, merged(messages))
        choice = completion.choices[0]
        refused = choice.message.content is None and choice.message.refusal is not None
        return Reply(
            choice.message.content or choice.message.refusal or "",
            usage=_usage(completion.usage),
            finish="content_filter" if refused else FINISHES.get(choice.finish_reason, "stop"),
            attempts=retrying.statistics["attempt_number"],
            latency_s=time.perf_counter() - start,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _request(self, messages: list[ChatCompletionMessageParam]) -> ChatCompletion:
        try:
            completion = await self._client.chat.completions.create(
                model=self._name, messages=messages, **self._params
            )
        except openai.APIStatusError as error:
            raise self._translated(error) from None
        except openai.APITimeoutError:
            raise ModelUnavailable(f"{self._where} did not answer in time") from None
        except openai.APIConnectionError:
            raise ModelUnavailable(f"{self._where} cannot be reached") from None
        except (openai.APIError, ValueError) as error:
            raise ModelUnavailable(
                f"{self._where} answered with something that is no completion: {type(error).__name__}"
            ) from None
        if not _is_sound(completion):
            raise ModelUnavailable(f"{self._where} answered with something that is no completion")
        return cast("ChatCompletion", completion)

    @property
    def _where(self) -> str:
        return str(self._client.base_url)

    def _translated(self, error: openai.APIStatusError) -> ModelUnavailable | RequestRefused:
        message = error.message.replace(self._client.api_key, "[key]")[:300]
        said = f"{self._where} answered {error.status_code}: {message}"
        if error.status_code in RETRIED_STATUS or error.status_code >= 500:
            return ModelUnavailable(said)
        return RequestRefused(f"{said} (model {self._name!r})")


def merged(messages: Iterable[Message]) -> list[ChatCompletionMessageParam]:
    """Return the messages as the wire wants them, neighbours of one role made into one."""
    wire: list[dict[str, str]] = []
    for message in messages:
        if wire and wire[-1]["role"] == message.role:
            wire[-1]["content"] += "\n\n" + message.text
        else:
            wire.append({"role": message.role, "content": message.text})
    return cast("list[ChatCompletionMessageParam]", wire)


def _key(base_url: str | None, variable: str | None) -> str:
    """Return the key from the environment; an endpoint without a named variable needs none."""
    if variable is None and base_url is not None:
        return "none"
    name = variable or DEFAULT_KEY
    key = os.environ.get(name)
    if not key:
        raise InputError(f"the environment variable {name} holds no key")
    return key


def _is_sound(completion: object) -> bool:
    """Return whether this is a completion that says something or why it says nothing.

    The client does not check what an endpoint sends: a page of HTML comes through as str, and
    fields that are null come through as None whatever their type says.
    """
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        return False
    choice = completion.choices[0]
    if not isinstance(choice.message, ChatCompletionMessage):
        return False
    said = choice.message.content is not None or choice.message.refusal is not None
    return said or choice.finish_reason in FINISHES


def _usage(usage: CompletionUsage | None) -> Usage:
    """Return the counts that the endpoint states; what it leaves out counts as 0."""
    if usage is None:
        return Usage()
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt=_count(usage.prompt_tokens),
        cached=_count(prompt and prompt.cached_tokens),
        completion=_count(usage.completion_tokens),
        reasoning=_count(completion and completion.reasoning_tokens),
    )


def _count(stated: object) -> int:
    return stated if isinstance(stated, int) and stated >= 0 else 0
