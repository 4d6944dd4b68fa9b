"""The server, over real HTTP and with OpenAI's own client."""

import asyncio
import base64
import http.client
import json
import math
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from builders import played, session
from icl_loop.core.errors import InputError, ModelUnavailable, RequestRefused
from icl_loop.core.messages import Image, Message, Reply, Text, Usage, assistant, system, user
from icl_loop.core.tokens import (
    CACHE_STEP,
    ESTIMATORS,
    REQUEST_TOKENS,
    count_message,
    count_messages,
)
from icl_loop.models import CallableModel, ChatModel, ScriptedModel, open_model
from icl_loop.models.openai import OpenAIModel
from icl_loop.server import (
    FAULTS,
    RequestLog,
    ServerSettings,
    build_app,
    parse_faults,
    serve,
    serving,
)
from icl_loop.server.app import MAX_BODY_BYTES
from icl_loop.server.faults import INVALID_BODIES

NAME = "reference/nearest"
ECHO = CallableModel(lambda messages: f"You said: {messages[-1].text}\n\n Goodbye. ")
HELLO = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello there"}]
TLS = ssl.create_default_context()
"""Created once, because that is slow; nothing here is encrypted."""
SMALL = json.dumps({"model": "m", "messages": HELLO}).encode()


@contextmanager
def served(
    model: ChatModel = ECHO,
    log: RequestLog | None = None,
    **settings: Any,  # noqa: ANN401  any field of ServerSettings
) -> Iterator[str]:
    """Serve one model as `m`."""
    with serving(build_app({"m": model}, settings=ServerSettings(**settings), log=log)) as url:
        yield url


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """The address of a shared server with default settings."""
    with served() as url:
        yield url


@asynccontextmanager
async def client(url: str, key: str = "x") -> AsyncIterator[openai.AsyncOpenAI]:
    """Return OpenAI's client without retries."""
    http_client = openai.DefaultAsyncHttpxClient(verify=TLS)
    made = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http_client)
    async with made:
        yield made


async def ask(url: str, messages: object = HELLO, **fields: Any) -> Any:  # noqa: ANN401  as the client types it
    """Request a completion from `m`."""
    async with client(url) as api:
        return await api.chat.completions.create(**{"model": "m", "messages": messages, **fields})


class Connection:
    """One connection for arbitrary requests."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(
        self,
        body: bytes = SMALL,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the response."""
        self._connection.request(method, path, body, dict(headers or {}))
        response = self._connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, names, response.read()

    def get(self, path: str) -> Any:  # noqa: ANN401  any JSON
        """Return the JSON at a path."""
        status, _, body = self.send(b"", path, "GET")
        assert status == 200
        return json.loads(body)


def error_of(body: bytes) -> dict[str, Any]:
    """Return the error in a body that has OpenAI's error format."""
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return dict(error)


def recording(received: list[Sequence[Message]], reply: Reply | None = None) -> ChatModel:
    """Return a model that records the conversations it gets."""

    class Recording:
        async def complete(self, messages: Sequence[Message]) -> Reply:
            received.append(messages)
            return reply or Reply("Answer: 3")

    return Recording()


# ---- formats -----------------------------------------------------------------------------


async def test_completion_format() -> None:
    """A completion has every field of OpenAI's completions, and its token counts add up."""
    reply = Reply("Answer: 3", usage=Usage(reasoning=5), finish="length")
    with served(recording([], reply)) as url:
        completion: ChatCompletion = await ask(url)
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.message.to_dict() == {
        "role": "assistant",
        "content": "Answer: 3",
        "refusal": None,
    }
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", "m")
    assert completion.system_fingerprint == "fp_icl_loop"
    assert abs(completion.created - time.time()) < 60
    usage = completion.usage
    assert usage is not None
    assert usage.completion_tokens == ESTIMATORS["o200k_base"].count("Answer: 3") + 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 5


async def test_prompt_tokens() -> None:
    """Prompt tokens are those of the messages and the request, by the counter in the settings."""
    counter = ESTIMATORS["cl100k_base"]
    with served(counter=counter) as url:
        completion = await ask(url)
    expected = count_messages(counter, [system("s"), user("hello there")]) + REQUEST_TOKENS
    assert completion.usage.prompt_tokens == expected


@pytest.mark.parametrize("usage", [True, False])
async def test_streaming(plain: str, usage: bool) -> None:  # noqa: FBT001  a parameter of the test
    """The streamed pieces join to the reply; the usage is included on request."""
    text = "Why \n\n usage is " + str(usage)
    messages = [{"role": "user", "content": text}]
    whole = await ask(plain, messages)
    stream = await ask(plain, messages, stream=True, stream_options={"include_usage": usage})
    chunks = [chunk async for chunk in stream]
    with Connection(plain) as connection:
        _, headers, body = connection.send(SMALL[:-1] + b',"stream":true}')
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    joined = "".join(choice.delta.content or "" for choice in said)
    assert joined == whole.choices[0].message.content
    assert len(said) > 5
    assert said[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in said if choice.finish_reason] == ["stop"]
    assert said[-1].finish_reason == "stop"
    assert len({(chunk.id, chunk.object) for chunk in chunks}) == 1
    assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage] * usage
    assert headers["content-type"].startswith("text/event-stream")
    assert body.endswith(b"\n\ndata: [DONE]\n\n")


async def test_model_list() -> None:
    """All models are listed, and each can be retrieved by name, even with a slash."""
    models = {NAME: open_model(NAME), "simulated/chance": open_model("simulated/chance")}
    with serving(build_app(models, settings=ServerSettings())) as url:
        async with client(url) as api:
            assert [model.id async for model in api.models.list()] == list(models)
            assert (await api.models.retrieve(NAME)).id == NAME
            with pytest.raises(openai.NotFoundError, match="did you mean 'simulated/chance'"):
                await api.models.retrieve("simulated/chanse")


async def test_messages_reach_the_model() -> None:
    """Roles, texts, parts and images reach the model as they were sent."""
    received: list[Sequence[Message]] = []
    png = b"\x89PNG\r\n\x1a\n and the rest"
    url_of_png = "data:image/png;base64," + base64.b64encode(png).decode()
    messages = [
        {"role": "developer", "content": "frame 枠 🙂"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": url_of_png, "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": ""},
    ]
    with served(recording(received)) as url:
        completion = await ask(url, messages)
    seen = Message("user", (Text("see"), Image(png)))
    assert received == [[system("frame 枠 🙂"), seen, assistant("")]]
    counted = count_messages(ESTIMATORS["o200k_base"], received[0]) + REQUEST_TOKENS
    assert completion.usage.prompt_tokens == counted


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"why": {"type": "string"}, "digit": {"enum": ["3", "4"]}},
        },
    },
}


@pytest.mark.parametrize(
    ("reply", "content", "refusal"),
    [
        (Reply("Answer: 3"), '{"digit": "3"}', None),
        (Reply("I cannot say."), None, "I cannot say."),
        (Reply("Answer: 3", finish="length"), "Answer: 3", None),
    ],
)
async def test_schema(reply: Reply, content: str | None, refusal: str | None) -> None:
    """With a schema the parsed answer is returned as JSON; a reply without one is a refusal."""
    with served(ScriptedModel([reply, reply])) as url:
        completion = await ask(url, response_format=SCHEMA)
        stream = await ask(url, response_format=SCHEMA, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    message = completion.choices[0].message
    assert (message.content, message.refusal) == (content, refusal)
    assert "".join(delta.content or "" for delta in deltas) == (content or "")
    assert "".join(delta.refusal or "" for delta in deltas) == (refusal or "")


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
async def test_cap(plain: str, field: str) -> None:
    """A reply has at most as many tokens as the request allows, and says if it was cut."""
    whole, cut = await ask(plain), await ask(plain, **{field: 3})
    assert whole.choices[0].finish_reason == "stop"
    assert cut.choices[0].finish_reason == "length"
    assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)
    assert cut.usage.completion_tokens <= 3


async def test_label_logprobs() -> None:
    """The label's token lists log probabilities in order, and the tokens join to the text."""
    known = {"3": -0.1, "4": -2.5, "5": -20_000.0}
    reply = Reply("Not 4.\nAnswer: 3", label_logprobs=known)
    with served(ScriptedModel([reply, reply, Reply("Answer: 3")])) as url:
        completion = await ask(url, logprobs=True, top_logprobs=3)
        stream = await ask(url, logprobs=True, top_logprobs=2, stream=True)
        streamed = [chunk.choices[0] async for chunk in stream]
        without = await ask(url, logprobs=True, top_logprobs=2)
    tokens = completion.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == reply.text
    assert (tokens[-1].token, tokens[-1].logprob, tokens[-1].bytes) == ("3", -0.1, [51])
    top = [(each.token, each.logprob) for each in tokens[-1].top_logprobs]
    assert top == [("3", -0.1), ("4", -2.5), ("5", -9999.0)]
    assert "".join(each.delta.content or "" for each in streamed) == reply.text
    (last,) = [each.logprobs for each in streamed if each.delta.content == "3"]
    assert [each.token for each in last.content[0].top_logprobs] == ["3", "4"]
    assert without.choices[0].logprobs is None


# ---- the prefix cache --------------------------------------------------------------------

turns = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)


def test_cached_tokens() -> None:
    """Cached tokens are those of the longest prefix of an earlier request, in steps of 128.

    They are zero at first and for another model, and at most the prompt tokens.
    """
    counter = ESTIMATORS["o200k_base"]
    said = {mark: f"{mark} 0.1" * 30 for mark in "abcdef"}
    app = build_app({"m": ECHO, "other": ECHO}, settings=ServerSettings())
    numbers = count()

    with serving(app) as url, Connection(url) as connection:

        def cached(model: str, texts: list[str]) -> int:
            messages = [{"role": "user", "content": text} for text in texts]
            _, _, body = connection.send(
                json.dumps({"model": model, "messages": messages}).encode()
            )
            usage = json.loads(body)["usage"]
            tokens: int = usage["prompt_tokens_details"]["cached_tokens"]
            assert tokens <= usage["prompt_tokens"]
            return tokens

        @given(st.lists(turns, min_size=1, max_size=6))
        def check(conversations: list[list[str]]) -> None:
            first = f"conversation {next(numbers)}"  # no earlier example has this prefix
            before: list[list[str]] = []
            for marks in conversations:
                texts = [first, *(said[mark] for mark in marks)]
                best = max((shared(texts, other) for other in before), default=0)
                known = sum(count_message(counter, user(text)) for text in texts[:best])
                assert cached("m", texts) == known - known % CACHE_STEP
                before.append(texts)
            assert cached("other", before[0]) == 0

        check()


def shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common prefix."""
    alike = [a == b for a, b in zip(one, other, strict=False)]
    return alike.index(False) if False in alike else len(alike)


# ---- faults ------------------------------------------------------------------------------

STATUSES: Mapping[str, type[openai.APIStatusError]] = {
    "429": openai.RateLimitError,
    "500": openai.InternalServerError,
    "503": openai.InternalServerError,
}


@pytest.mark.parametrize("fault", STATUSES)
async def test_status_faults(fault: str) -> None:
    """A failing status raises the client's error for it, and the model gets no request."""
    received: list[Sequence[Message]] = []
    with (
        served(recording(received), faults={fault: 1.0}, retry_after_s=2.5) as url,
        pytest.raises(STATUSES[fault]) as caught,
    ):
        await ask(url)
    assert caught.value.status_code == int(fault)
    assert received == []
    waits = [caught.value.response.headers.get(name) for name in ("retry-after", "retry-after-ms")]
    assert waits == (["3", "2500"] if fault == "429" else [None, None])


async def test_reset_fault() -> None:
    """A reset connection sends no byte of a response, and the model gets no request."""
    received: list[Sequence[Message]] = []
    log = RequestLog()
    with served(recording(received), log, faults={"reset": 1.0}) as url:
        with pytest.raises(openai.APIConnectionError):
            await ask(url)
        with Connection(url) as connection, pytest.raises(ConnectionResetError) as caught:
            connection.send()
    assert type(caught.value) is not http.client.RemoteDisconnected, (
        "the connection was closed, not reset"
    )
    assert received == []
    assert (log.total, log.unanswered, log.statuses) == (2, 2, {})


@pytest.mark.parametrize("fault", sorted(INVALID_BODIES))
def test_invalid_body_faults(fault: str) -> None:
    """Garbage, empty and truncated bodies come with status 200 and contain no completion."""
    log = RequestLog()
    with served(log=log, faults={fault: 1.0}) as url, Connection(url) as connection:
        for body in (SMALL, SMALL[:-1] + b',"stream":true}'):
            status, headers, answer = connection.send(body, headers={"X-Client-Request-Id": "a"})
            assert (status, headers["content-length"]) == (200, str(len(answer)))
            assert (answer == b"") == (fault == "empty")
            assert (b"chat.completion" in answer) == (fault == "truncated")
            assert b"[DONE]" not in answer
            with pytest.raises(json.JSONDecodeError):
                json.loads(answer)
    assert (log.asked["a"], log.answered["a"], log.faults[fault]) == (2, 0, 2)


async def test_slow_fault() -> None:
    """A slow response is a valid one that takes longer."""
    log = RequestLog()
    with served(
        log=log, faults={"slow": 1.0}, slow_s=0.3, latency_s=0.1, latency_jitter_s=0.1
    ) as url:
        start = time.perf_counter()
        completion = await ask(url)
    assert time.perf_counter() - start > 0.39
    assert completion.choices[0].message.content.startswith("You said: hello")
    assert log.faults == {"slow": 1}


def test_faults_depend_on_the_seed() -> None:
    """The same seed fails the same requests, at about the given rates; another seed fails others."""
    rates = {"500": 0.25, "429": 0.25, "garbage": 0.1}

    def statuses(seed: int, faults: Mapping[str, float] = rates) -> list[str]:
        with served(seed=seed, faults=faults) as url, Connection(url) as connection:
            answers = [connection.send() for _ in range(150)]
        return [str(status) + answer[:1].decode() for status, _, answer in answers]

    once = statuses(1)
    assert once == statuses(1, dict(reversed(rates.items())))
    assert once != statuses(2)
    for answer, rate in {"500{": 0.25, "429{": 0.25, "200<": 0.1, "200{": 0.4}.items():
        assert abs(once.count(answer) / len(once) - rate) < 0.1


def test_parse_faults() -> None:
    """Faults are written as name=rate, separated by commas."""
    assert parse_faults("") == {}
    assert parse_faults(" 429=0.1, reset = 2e-2,") == {"429": 0.1, "reset": 0.02}
    assert parse_faults(",".join(f"{fault}=0.125" for fault in FAULTS)) == dict.fromkeys(
        FAULTS, 0.125
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rest=0.1", r"unknown fault 'rest'.*'reset'"),
        ("429=1.5", r"from 0 to 1, got 429=1\.5"),
        ("429=-0.1", "from 0 to 1"),
        ("429=nan", "from 0 to 1"),
        ("429=0.6,500=0.6", r"at most 1, got 1\.2"),
        ("429", r"429=0\.1, got '429'"),
        ("429=often", "got '429=often'"),
        ("429=0.1,429=0.2", "two rates"),
    ],
)
def test_invalid_faults(text: str, said: str) -> None:
    """An unknown fault or an invalid rate is an input error that quotes it."""
    with pytest.raises(InputError, match=said):
        ServerSettings(faults=parse_faults(text))


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_s": -1},
        {"slow_s": float("nan")},
        {"context_window": 0},
        {"api_key": ""},
        {"faults": {"fire": 0.5}},
    ],
)
def test_invalid_settings(wrong: dict[str, Any]) -> None:
    """Invalid settings are input errors."""
    with pytest.raises(InputError):
        ServerSettings(**wrong)


# ---- errors ------------------------------------------------------------------------------


async def test_api_key() -> None:
    """Without the right key every route but /health answers 401; no key is ever repeated."""
    right, wrong = "sk-right-canary", "sk-wrong-canary"
    log = RequestLog()
    assert right not in repr(ServerSettings(api_key=right))
    with served(log=log, api_key=right) as url:
        async with client(url, right) as api:
            assert len([model async for model in api.models.list()]) == 1
        with Connection(url) as connection:
            for path in ("/v1/models", "/v1/models/m", "/stats"):
                assert connection.send(b"", path, "GET")[0] == 401
            assert connection.get("/health") == {"status": "ok"}
            status, headers, body = connection.send(headers={"Authorization": f"Bearer {wrong}"})
    assert (status, error_of(body)["code"]) == (401, "invalid_api_key")
    for key in (right, wrong):
        assert key not in f"{headers} {body!r} {log}"


async def test_unknown_model() -> None:
    """An unknown model is a 404 with the code `model_not_found` that suggests the nearest name."""
    app = build_app({NAME: open_model(NAME)}, settings=ServerSettings())
    with (
        serving(app) as url,
        pytest.raises(openai.NotFoundError, match=f"did you mean '{NAME}'") as caught,
    ):
        await ask(url, model="reference/nearst")
    assert caught.value.code == "model_not_found"


async def test_context_window() -> None:
    """A prompt that fills the window is answered; one token more is `context_length_exceeded`."""
    prompt = 4 + 1 + 4 + 2 + REQUEST_TOKENS
    with served(context_window=prompt) as url:
        assert (await ask(url)).usage.prompt_tokens == prompt
    log = RequestLog()
    with (
        served(log=log, context_window=prompt - 1) as url,
        pytest.raises(openai.BadRequestError, match="maximum context length") as caught,
    ):
        await ask(url)
    assert caught.value.code == "context_length_exceeded"
    assert str(prompt) in caught.value.message
    assert str(prompt - 1) in caught.value.message
    assert log.longest_prompt == prompt


def unavailable(_: Sequence[Message]) -> str:
    """Fail as a model that is temporarily unavailable."""
    raise ModelUnavailable("upstream is down")


def refusing(_: Sequence[Message]) -> str:
    """Fail as a model that refuses a request."""
    raise RequestRefused("this is not a question")


class Broken:
    """A model with a bug."""

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  as in the protocol
        """Fail."""
        raise ZeroDivisionError


async def test_model_errors() -> None:
    """A model's refusal becomes a 400 with its message, and an unavailable model a 503."""
    with (
        served(CallableModel(refusing)) as url,
        pytest.raises(openai.BadRequestError, match="not a question"),
    ):
        await ask(url)
    with (
        served(CallableModel(unavailable)) as url,
        pytest.raises(openai.InternalServerError, match="upstream is down") as caught,
    ):
        await ask(url)
    assert caught.value.status_code == 503


def test_unexpected_exception(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is a 500 in OpenAI's format; it is counted, and its traceback logged."""
    log = RequestLog()
    with served(Broken(), log) as url, Connection(url) as connection:
        status, _, body = connection.send()
    assert (status, error_of(body)["message"]) == (500, "the server failed: ZeroDivisionError")
    assert log.statuses == {500: 1}
    assert "ZeroDivisionError" in caplog.text


INVALID_REQUESTS = {
    "empty": b"",
    "not JSON": b"hello",
    "truncated": SMALL[:30],
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"model":"\xff"}',
    "UTF-16": SMALL.decode().encode("utf-16"),
    "deep": b"[" * 200_000,
    "deep and whole": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number too long": b"9" * 5_000,
    "half a surrogate pair": rb'{"model":"m","messages":[{"role":"user","content":"\ud83d"}]}',
    "no messages": b'{"model":"m"}',
    "empty messages": b'{"model":"m","messages":[]}',
    "messages of text": b'{"model":"m","messages":"hi"}',
    "null message": b'{"model":"m","messages":[null]}',
    "no role": b'{"model":"m","messages":[{"content":"hi"}]}',
    "role of another type": b'{"model":"m","messages":[{"role":["user"],"content":"hi"}]}',
    "tool": b'{"model":"m","messages":[{"role":"tool","content":"hi"}]}',
    "null content": b'{"model":"m","messages":[{"role":"user","content":null}]}',
    "no parts": b'{"model":"m","messages":[{"role":"user","content":[]}]}',
    "unknown part": b'{"model":"m","messages":[{"role":"user","content":[{"type":"audio"}]}]}',
    "remote image": b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"https://example.org/3.png"}}]}]}',
    "not a PNG": b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"data:image/png;base64,AAAA"}}]}]}',
    "not base64": b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
    b'"image_url":{"url":"data:image/png;base64,***"}}]}]}',
    "two completions": SMALL[:-1] + b',"n":2}',
    "stream of text": SMALL[:-1] + b',"stream":"yes"}',
    "stream of one": SMALL[:-1] + b',"stream":1}',
    "21 logprobs": SMALL[:-1] + b',"logprobs":true,"top_logprobs":21}',
    "top_logprobs without logprobs": SMALL[:-1] + b',"top_logprobs":2}',
    "any JSON": SMALL[:-1] + b',"response_format":{"type":"json_object"}}',
    "no enum": SMALL[:-1] + b',"response_format":{"type":"json_schema","json_schema":{}}}',
    "labels that are equal when parsed": SMALL[:-1]
    + b',"response_format":{"type":"json_schema","json_schema":{"schema"'
    b':{"properties":{"a":{"enum":["3","\xef\xbc\x93"]}}}}}}',
}


def test_invalid_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Every invalid body is a 400 with a message, and the connection stays usable."""
    received: list[Sequence[Message]] = []
    with served(recording(received)) as url, Connection(url) as connection:
        for name, body in INVALID_REQUESTS.items():
            status, _, answer = connection.send(body)
            assert status == 400, name
            assert error_of(answer)["type"] == "invalid_request_error"
        assert received == []
        assert connection.send()[0] == 200
    assert caplog.records == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "logprobs",
        "top_logprobs",
        "response_format",
        "stop",
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "wizard"]) | JSON, "content": JSON}
    ),
    max_size=3,
)
BODIES = JSON | st.dictionaries(FIELDS, JSON | MESSAGES).map(lambda odd: json.loads(SMALL) | odd)


def test_random_bodies(caplog: pytest.LogCaptureFixture) -> None:
    """Any JSON gets a 200, or a 4xx with a message, and nothing is logged."""
    with served() as url, Connection(url) as connection:

        @given(BODIES)
        def check(body: object) -> None:
            status, headers, answer = connection.send(json.dumps(body).encode())
            if status != 200:
                assert 400 <= status < 500
                error_of(answer)
            elif headers["content-type"] == "application/json":
                assert json.loads(answer)["object"] == "chat.completion"

        check()
        assert connection.get("/stats")["statuses"].keys() <= {"200", "400", "404"}
    assert caplog.records == []


def test_unknown_paths_and_methods(plain: str) -> None:
    """An unknown path is a 404 and an unknown method a 405, both in OpenAI's format."""
    with Connection(plain) as connection:
        for path, method, expected in [
            ("/v1/embeddings", "POST", 404),
            ("/", "GET", 404),
            ("/v1/chat/completions", "GET", 405),
            ("/v1/models", "DELETE", 405),
        ]:
            status, _, body = connection.send(b"", path, method)
            assert status == expected
            assert path in error_of(body)["message"]


def test_body_limit(plain: str) -> None:
    """A body beyond the limit is a 413, and the connection stays usable."""
    with Connection(plain) as connection:
        status, _, body = connection.send(b" " * (MAX_BODY_BYTES + 1))
        assert (status, error_of(body)["type"]) == (413, "invalid_request_error")
        assert connection.send()[0] == 200


# ---- the log ----------------------------------------------------------------------------


async def test_request_log() -> None:
    """The log counts requests by outcome, and completions by the client's id."""
    log = RequestLog()
    replies = ScriptedModel(["Answer: 3"] * 3)
    with served(replies, log, faults={"429": 0.5}, seed=4) as url, Connection(url) as connection:
        statuses = []
        for index in range(4):
            headers = {"X-Client-Request-Id": f"turn {index}"}
            while True:
                statuses.append(connection.send(headers=headers)[0] if index < 3 else 0)
                if statuses[-1] != 429:
                    break
        statuses[-1] = connection.send(b"no request", headers={"X-Client-Request-Id": "bad"})[0]
        stats = connection.get("/stats")
    assert log.total == len(statuses) == sum(log.statuses.values())
    assert log.statuses == {200: 3, 400: 1, 429: statuses.count(429)}
    assert statuses.count(429) == log.faults["429"] > 0
    assert log.answered == {"turn 0": 1, "turn 1": 1, "turn 2": 1}
    assert log.asked.keys() == {"turn 0", "turn 1", "turn 2", "bad"}
    assert log.asked.total() == log.total
    assert (log.unanswered, log.in_flight, log.most_in_flight) == (0, 0, 1)
    assert stats == json.loads(json.dumps(vars(log)))


async def test_client_disconnect() -> None:
    """After a disconnect the model gets no request, and the request counts as unanswered."""
    received: list[Sequence[Message]] = []
    log = RequestLog()
    start = time.perf_counter()
    with (
        served(recording(received), log, faults={"slow": 1.0}, slow_s=60) as url,
        pytest.raises(openai.APITimeoutError),
    ):
        await ask(url, timeout=0.2)
    assert (received, log.unanswered, log.in_flight) == ([], 1, 0)
    assert time.perf_counter() - start < 10


async def test_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """A server that stops aborts the requests in flight after a moment, without a traceback."""
    with served(latency_s=60) as url:
        asking = asyncio.create_task(ask(url))
        await asyncio.sleep(0.3)
    with pytest.raises(openai.APIConnectionError):
        await asking
    assert "Traceback" not in caplog.text


# ---- whole sessions ----------------------------------------------------------------------


async def test_a_served_session_equals_a_local_one() -> None:
    """A session through the server has the same requests, answers and feedback as a local one."""
    direct = await played(session(12))
    log = RequestLog()
    app = build_app({NAME: open_model(NAME, seed=7)}, settings=ServerSettings(), log=log)
    with serving(app) as url:
        model = OpenAIModel(NAME, base_url=url)
        async with aclosing(model):
            through = await played(session(12), model)
    for one, other in zip(direct, through, strict=True):
        assert (one.request, one.reply.text) == (other.request, other.reply.text)
        assert (one.answer, one.feedback) == (other.answer, other.feedback)
        assert 0 < other.reply.usage.prompt <= log.longest_prompt
    assert (log.total, log.statuses) == (12, {200: 12})
    assert through[-1].reply.usage.cached > 0


@pytest.mark.parametrize(
    "name",
    [
        "neural/in-context",
        "simulated/chance",
        "simulated/constant",
        "simulated/label-counter",
        "simulated/win-stay-lose-shift",
        "reference/nearest",
        "reference/propagation",
        "reference/ridge",
    ],
)
async def test_label_logprobs_of_a_session(name: str) -> None:
    """A served model returns the log probabilities of the labels that it has without a server."""
    local = await played(session(8), open_model(name, seed=7, answer_format="logprobs"))
    app = build_app({name: open_model(name, seed=7)}, settings=ServerSettings())
    with serving(app) as url:
        labels = [str(digit) for digit in range(10)]
        model = OpenAIModel(name, base_url=url, answer_format="logprobs", labels=labels)
        async with aclosing(model):
            through = await played(session(8), model)
    for one, other in zip(local, through, strict=True):
        known = one.reply.label_logprobs
        assert known is not None
        assert math.fsum(map(math.exp, known.values())) == pytest.approx(1)
        assert other.reply.label_logprobs == pytest.approx(known)


# ---- listening ----------------------------------------------------------------------------


def test_loopback_only() -> None:
    """The server listens on loopback; another address must be allowed explicitly."""
    app = build_app({"m": ECHO}, settings=ServerSettings())
    with serving(app) as url:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"127.0.0.1:{port}.*in use"):
            serve(app, port=port or 0)
    with pytest.raises(InputError, match=r"0\.0\.0\.0 can be reached by other machines"):
        serve(app, "0.0.0.0")  # noqa: S104  refused
    for host in ("no such host", "a" * 70 + ".example", "256.1.1.1"):
        with pytest.raises(InputError, match="cannot listen on"):
            serve(app, host)
    with pytest.raises(InputError, match="from 0 to 65535, got 70000"):
        serve(app, port=70_000)


SCRIPT = """
from icl_loop.models import CallableModel
from icl_loop.server import ServerSettings, build_app, serve
app = build_app({"m": CallableModel(lambda _: "3")}, settings=ServerSettings(latency_s=0.2))
serve(app, '0.0.0.0', expose=True, ready=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


def test_interrupt(tmp_path: Path) -> None:
    """After an interrupt the server finishes the requests in flight, prints nothing, and returns."""
    with (
        (tmp_path / "stderr").open("w+") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout is not None
        port = urlsplit(process.stdout.readline().strip()).port
        with socket.create_connection(("127.0.0.1", port or 0)) as connection:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(SMALL) + SMALL)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert process.stdout.read() == "stopped\n"
        assert process.wait(10) == 0
    assert (tmp_path / "stderr").read_text() == ""
