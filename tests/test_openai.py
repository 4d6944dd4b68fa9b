"""The laws of the wire: what is sent, what is tried again, what is never taken for an answer."""

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, played, session
from contracts import check_model
from endpoint import Answer, Endpoint, completion, error, serving
from icl_loop.core.errors import (
    BudgetSpent,
    ContextOverflow,
    InputError,
    ModelUnavailable,
    RequestRefused,
)
from icl_loop.core.messages import (
    Image,
    Message,
    Reply,
    Served,
    Text,
    Usage,
    assistant,
    merged,
    system,
    user,
)
from icl_loop.models.limits import (
    INITIAL_RATIO,
    SAFETY_MARGIN,
    Budget,
    ConcurrencyLimiter,
    PromptBound,
    RateLimiter,
)
from icl_loop.models.openai import OpenAIModel, encode_messages
from icl_loop.models.replay import ReplayModel
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy
from icl_loop.runner.run import Run
from icl_loop.transcripts import read

ASKED = [system("s"), user("q0"), assistant("a0"), user("told"), user("q1")]


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


async def ask(endpoint: Endpoint) -> Reply:
    """Put the conversation to the endpoint."""
    async with aclosing(retrying(endpoint)) as model:
        return await check_model(model, ASKED)


async def test_what_is_sent() -> None:
    """A request names the model, passes params on, and merges neighbours of one role."""
    with serving([completion("Answer: 3")]) as endpoint:
        params = {"temperature": 0.5, "extra_body": {"top_k": 1}}
        model = OpenAIModel("tiny", base_url=endpoint.base_url, params=params)
        async with aclosing(model):
            await model.complete(ASKED)
    assert endpoint.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "tiny",
            "temperature": 0.5,
            "top_k": 1,
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q0"},
                {"role": "assistant", "content": "a0"},
                {"role": "user", "content": "told\n\nq1"},
            ],
        }
    ]


async def test_what_comes_back() -> None:
    """A reply carries the text, the counts as reported, the attempts and the time it took."""
    with serving([completion("Answer: 3")]) as endpoint:
        reply = await ask(endpoint)
    assert (reply.text, reply.finish, reply.attempts) == ("Answer: 3", "stop", 1)
    assert reply.usage == Usage(prompt=100, cached=64, completion=7, reasoning=3)
    assert reply.latency_s is not None
    assert reply.latency_s > 0


PASSING = {
    "408": error(408),
    "409": error(409),
    "429": error(429),
    "500": error(500),
    "503": Answer(503, b"<html>busy</html>", "text/html"),
    "reset": Answer(hang_up=True),
    "empty body": Answer(),
    "half a body": Answer(body=completion("3").body[:90]),
    "a page": Answer(body=b"<html>hello</html>", content_type="text/html"),
    "no choices": Answer(body=b'{"id":"1","object":"chat.completion","choices":[]}'),
    "a list": Answer(body=b"[]"),
    "null": Answer(body=b"null"),
    "null message": Answer(body=b'{"choices":[{"index":0,"message":null}]}'),
    "null choices": Answer(body=b'{"choices":null}'),
    "null content": completion(None),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_passing_faults_are_tried_again(fault: str) -> None:
    """A fault that may pass is tried again and counted, and is never taken for an answer."""
    with serving([PASSING[fault], PASSING[fault], completion("Answer: 3")]) as endpoint:
        reply = await ask(endpoint)
    assert (reply.text, reply.attempts, len(endpoint.requests)) == ("Answer: 3", 3, 3)


async def test_faults_that_stay_stop_the_session() -> None:
    """A fault that does not pass is given up once the allowance of the turn is used up."""
    with serving([error(500, "on fire")]) as endpoint:
        budget = Budget()
        start, brief = time.monotonic(), replace(FAST, startup_allowance_s=0.3)
        async with aclosing(retrying(endpoint, budget, retry=brief)) as model:
            with pytest.raises(ModelUnavailable, match=r"500.*on fire"):
                await model.complete(ASKED)
        assert time.monotonic() - start < 2.0
        assert len(endpoint.requests) == budget.retries.total() + 1 > 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refusals_stop_at_once(status: int) -> None:
    """A request that the endpoint will never answer is made once; what it said is told."""
    with serving([error(status, "no such thing")]) as endpoint:
        with pytest.raises(RequestRefused, match=f"{status}.*no such thing.*check"):
            await ask(endpoint)
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (completion("Answer: 3", finish_reason="length"), "truncated"),
        (completion("Ans", finish_reason="length"), "truncated"),
        (completion("", finish_reason="content_filter"), "refusal"),
        (completion(None, finish_reason="content_filter"), "refusal"),
        (
            completion(None, message={"role": "assistant", "content": None, "refusal": "No."}),
            "refusal",
        ),
    ],
)
async def test_outcomes_are_no_errors(answer: Answer, outcome: str) -> None:
    """A cut reply, a refusal and a filter are outcomes of a turn, asked once and counted wrong."""
    with serving([answer]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url)
        async with aclosing(model):
            (turn,) = await played(session(1), model)
        assert (turn.outcome, turn.answer, turn.feedback.correct) == (outcome, None, False)
        assert len(endpoint.requests) == 1


async def test_an_endpoint_that_is_down_is_named() -> None:
    """An address where nothing answers is named in the error."""
    with serving([completion("3")]) as endpoint:
        pass
    async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
        with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:\d+/v1 cannot be reached"):
            await model.complete(ASKED)


async def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the named variable is sent; it is in no transcript and in no error."""
    canary = "sk-canary-0123456789"
    monkeypatch.setenv("MY_KEY", canary)
    model = {"name": "tiny", "api_key_env": "MY_KEY"}
    answers = [completion("Answer: 3"), completion("Answer: 4"), error(401, f"bad key {canary}")]
    with serving(answers) as endpoint:
        model["base_url"] = endpoint.base_url
        result = await Run(experiment(streams=1, turns=3, model=model), tmp_path).play()
    assert endpoint.keys == [f"Bearer {canary}"] * 3
    (stop,) = result.stopped
    assert "401" in str(stop.reason)
    assert canary not in repr(stop)
    assert canary not in str(stop.reason)
    (path,) = result.paths
    assert len(read(path).turns) == 2
    assert canary.encode() not in path.read_bytes()


def test_the_openai_key_is_sent_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another endpoint gets a key only if the variable is named; OpenAI's own needs its own."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        OpenAIModel("tiny")
    with pytest.raises(InputError, match="OTHER_KEY"):
        OpenAIModel("tiny", base_url="http://127.0.0.1:9/v1", api_key_env="OTHER_KEY")


async def test_no_key_is_sent_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint with no variable named is not sent OpenAI's key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    with serving([completion("3")]) as endpoint:
        await ask(endpoint)
    assert endpoint.keys == [None]


CONVERSATIONS = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant"]),
        st.lists(
            st.builds(Text, st.text(max_size=9)) | st.builds(Image, st.binary(max_size=9)),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@given(CONVERSATIONS)
def test_ready_pieces_make_the_same_body(messages: list[Message]) -> None:
    """The body joined from ready pieces means exactly the messages, merged or apart."""
    for merge_roles, expected in ((True, merged(messages)), (False, messages)):
        sent = json.loads(b"[%b]" % encode_messages(messages, merge_roles=merge_roles))
        assert [each["role"] for each in sent] == [message.role for message in expected]
        for each, message in zip(sent, expected, strict=True):
            if not message.is_seen:
                assert each["content"] == message.text
                continue
            kinds = ["text" if isinstance(part, Text) else "image_url" for part in message.parts]
            assert [part["type"] for part in each["content"]] == kinds


OVERFLOWS = {
    "OpenAI": (400, {"error": {"code": "context_length_exceeded", "message": "Too much."}}),
    "vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 8 tokens.",
            "code": 400,
        },
    ),
    "vLLM prompt": (
        400,
        {
            "error": {
                "message": "The decoder prompt (length 9) is longer than the maximum model length of 8."
            }
        },
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "request (9 tokens)",
            }
        },
    ),
    "older llama.cpp": (500, {"error": "the request exceeds the available context size"}),
    "Ollama": (400, {"error": "input length exceeds maximum context length"}),
    "Ollama window": (400, {"error": {"message": "prompt too long; exceeded max context length"}}),
}


@pytest.mark.parametrize("server", OVERFLOWS)
async def test_too_long_is_known_in_every_prompts(server: str) -> None:
    """A request that is too long is told apart from other refusals, however a server says it."""
    status, body = OVERFLOWS[server]
    with serving([Answer(status, json.dumps(body).encode())]) as endpoint:
        with pytest.raises(ContextOverflow):
            await ask(endpoint)
        assert len(endpoint.requests) == 1


async def test_a_session_trims_until_it_fits_and_replays() -> None:
    """Refused as too long, a turn shows less and is asked again; what was saved replays the same."""
    too_long = Answer(400, b'{"error":{"code":"context_length_exceeded","message":"no"}}')
    answers = [*[completion("Answer: 3", usage=None)] * 5, too_long, completion("Answer: 3")]
    chosen = session(9, policy="last(4)", model={"name": "t", "context_window": 3000})
    with serving(answers) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            turns = await played(chosen, model)
    assert [turn.overflows for turn in turns] == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert len(endpoint.requests) == 10
    assert len(endpoint.requests[6]["messages"]) < len(endpoint.requests[5]["messages"])
    assert await played(chosen, ReplayModel(turns)) == turns


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "0.3"}, 0.3),
        ({"Retry-After": "1"}, 1.0),
        ({"retry-after-ms": "200"}, 0.2),
        ({"x-ratelimit-reset-requests": "250ms"}, 0.25),
        ({"x-ratelimit-reset-tokens": "0m0.3s"}, 0.3),
    ],
)
async def test_a_rate_limit_is_obeyed(headers: dict[str, str], least: float) -> None:
    """After 429 nothing is asked before the time that the server named, by whichever header."""
    limited = Answer(429, b'{"error":{"message":"slow down"}}', headers=headers)
    with serving([completion("3"), limited, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            await model.complete(ASKED)
            start = time.monotonic()
            reply = await model.complete(ASKED)
    assert time.monotonic() - start >= least
    assert reply.attempts == 2


async def test_an_endpoint_with_nothing_left_is_waited_for() -> None:
    """When the server says that no request is left, the next one waits for the reset."""
    last = completion(
        "3", headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    )
    with serving([last, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            await model.complete(ASKED)
            start = time.monotonic()
            await model.complete(ASKED)
    assert time.monotonic() - start >= 0.29


async def test_a_rate_limit_halves_what_passes_at_once() -> None:
    """A 429 halves the requests at once; successes raise it again, never above where it began."""
    limiter = RateLimiter(max_concurrency=4)
    with serving([error(429), error(429), completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, rate_limiter=limiter)) as model:
            await model.complete(ASKED)
            assert limiter.concurrency.limit == pytest.approx(2.0)
            for _ in range(9):
                await model.complete(ASKED)
    assert limiter.concurrency.limit == 4


@given(max_concurrency=st.integers(1, 5), requests=st.integers(1, 12))
async def test_concurrency_is_limited(max_concurrency: int, requests: int) -> None:
    """No more requests are in flight than the limit allows, and all finish."""
    most = 0
    limiter = ConcurrencyLimiter(max_concurrency)

    async def use_slot() -> None:
        nonlocal most
        async with limiter.slot():
            most = max(most, limiter.active)
            await asyncio.sleep(0)

    await asyncio.gather(*(use_slot() for _ in range(requests)))
    assert most == min(max_concurrency, requests)
    assert limiter.active == 0


@pytest.mark.parametrize(
    ("budget", "says"),
    [(Budget(max_tokens=250), "tokens"), (Budget(max_usd=0.00025), r"\$0\.0003")],
)
async def test_a_budget_stops_before_it_is_passed(budget: Budget, says: str) -> None:
    """The request that could pass the budget is not made."""
    with serving([completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, budget, count=lambda _: 100)) as model:
            await model.complete(ASKED)
            await model.complete(ASKED)
            with pytest.raises(BudgetSpent, match=says):
                await model.complete(ASKED)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "budget", [Budget(max_tokens=900), Budget(max_usd=0.0009)], ids=["tokens", "usd"]
)
async def test_a_budget_holds_though_the_server_counts_more(budget: Budget) -> None:
    """A server that counts thrice what we count is sent nothing that could pass the budget."""
    thrice = completion("3", usage={"prompt_tokens": 300, "completion_tokens": 0})
    with serving([thrice]) as endpoint:
        async with aclosing(retrying(endpoint, budget, count=lambda _: 100)) as model:
            await model.complete(ASKED)
            await model.complete(ASKED)
            with pytest.raises(BudgetSpent, match="next request could"):
                await model.complete(ASKED)
    assert budget.spent.prompt == 600


@pytest.mark.parametrize(
    "budget", [Budget(max_tokens=35), Budget(max_usd=0.000025)], ids=["tokens", "usd"]
)
async def test_a_budget_holds_though_the_server_reports_nothing(budget: Budget) -> None:
    """Where no usage is reported, what is counted here is taken for it."""
    with serving([completion("3", usage=None)]) as endpoint:
        async with aclosing(
            retrying(endpoint, budget, count=lambda asked: 2 * len(asked))
        ) as model:
            await model.complete(ASKED)
            await model.complete(ASKED)
            with pytest.raises(BudgetSpent, match="next request could"):
                await model.complete(ASKED)
    assert (budget.spent.prompt, budget.spent.completion) == (20, 4)


REPORTS = st.lists(st.tuples(st.integers(1, 9_999), st.integers(1, 9_999)), min_size=1)


@given(reports=REPORTS, exact=st.booleans())
def test_a_bound_is_not_below_any_reply(reports: list[tuple[int, int]], exact: bool) -> None:  # noqa: FBT001  drawn
    """No reply, counted again, is above the bound, nor is the bound ever below the count."""
    bound = PromptBound(len, exact=exact)
    assert bound.upper_bound(100) == (100 if exact else 100 * INITIAL_RATIO)
    for counted, reported in reports:
        bound.observe(counted, reported)
    for counted, reported in reports:
        assert bound.upper_bound(counted) >= max(counted, reported)
    highest = max(reported / counted for counted, reported in reports)
    assert bound.ratio <= max(1, SAFETY_MARGIN * highest)


def test_an_exact_count_is_taken_at_its_word() -> None:
    """A count that the replies never exceed is not scaled, and no report is no reply."""
    bound = PromptBound(len)
    for reported in (100, 97, 0):
        bound.observe(100, reported)
        assert bound.upper_bound(1_000) == 1_000
    estimated = PromptBound(len, exact=False)
    estimated.observe(100, 0)
    assert estimated.ratio == INITIAL_RATIO


async def test_what_is_asked_for_is_recorded() -> None:
    """Who answered, and the log probability of each label where the endpoint lists them."""
    listed = [
        {"token": " 3", "logprob": -0.1},
        {"token": "5", "logprob": -2.5},
        {"token": "x", "logprob": -9},
    ]
    content = [
        {"token": "Answer:", "logprob": 0.0, "top_logprobs": []},
        {"token": " 3", "logprob": -0.1, "top_logprobs": listed},
    ]
    answer = completion("Answer: 3", logprobs={"content": content})
    with serving([answer]) as endpoint:
        labels = [str(digit) for digit in range(10)]
        model = OpenAIModel(
            "tiny", base_url=endpoint.base_url, answer_format="logprobs", labels=labels
        )
        async with aclosing(model):
            reply = await model.complete(ASKED)
    assert reply.label_logprobs == {"3": -0.1, "5": -2.5}
    assert reply.served == Served("tiny-2026", "fp_1")
    assert endpoint.requests[0]["logprobs"] is True


async def test_a_schema_names_the_labels() -> None:
    """Under `schema` the request asks for JSON whose only answers are the labels."""
    with serving([completion('{"answer": "cat"}')]) as endpoint:
        model = OpenAIModel(
            "tiny", base_url=endpoint.base_url, answer_format="schema", labels=["cat", "dog"]
        )
        async with aclosing(model):
            await model.complete(ASKED)
    schema = endpoint.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["cat", "dog"]


@pytest.mark.parametrize("field", ["model", "messages", "stream", "n"])
def test_params_leave_our_fields_alone(field: str) -> None:
    """Fields of a request that are ours to set are refused in `params`."""
    with pytest.raises(InputError, match=field):
        OpenAIModel("tiny", base_url="http://127.0.0.1:9/v1", params={field: 1})


async def test_a_misspelt_model_is_told_the_nearest() -> None:
    """A 404 names the model and the nearest one that the endpoint lists."""
    with serving([error(404, "gone")], models=["tiny-7b", "large"]) as endpoint:
        model = OpenAIModel("tinny-7b", base_url=endpoint.base_url)
        async with aclosing(model):
            with pytest.raises(RequestRefused, match="did you mean 'tiny-7b'"):
                await model.complete(ASKED)


async def test_the_window_is_calibrated_by_what_the_server_counts() -> None:
    """A server that counts thrice what we count is never sent more than its window holds."""
    chosen = session(60, policy="within", model={"name": "t", "context_window": 9000})

    def counted(request: dict[str, Any]) -> Answer:
        text = "".join(message["content"] for message in request["messages"])
        return completion("Answer: 3", usage={"prompt_tokens": len(text), "completion_tokens": 4})

    with serving([counted]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            turns = await played(chosen, model)
    sizes = [turn.reply.usage.prompt for turn in turns]
    room = 9000 - chosen.window.reserve
    assert max(sizes) <= room
    assert min(sizes[-20:]) > 0.8 * room
    assert turns[0].calibration == 1.0
    assert turns[-1].calibration > 1.5


async def test_a_reply_is_not_waited_for_for_ever() -> None:
    """A server that takes longer than the time-out is given up, and that may pass."""
    with serving([replace(completion("3"), delay_s=0.8)]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, timeout_s=0.2)
        async with aclosing(model):
            with pytest.raises(ModelUnavailable, match="did not answer in time"):
                await model.complete(ASKED)


async def test_azure_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may stand in a header of another name, and an address may end in a query."""
    monkeypatch.setenv("AZURE_KEY", "azure-secret")
    with serving([error(401, "no access for azure-secret")]) as endpoint:
        model = OpenAIModel(
            "deployed",
            base_url=f"{endpoint.base_url}/deployments/x?api-version=2026-01-01",
            headers_env={"api-key": "AZURE_KEY"},
        )
        async with aclosing(model):
            with pytest.raises(RequestRefused, match=r"no access for \[key\]"):
                await model.complete(ASKED)
    (request,), (headers,) = endpoint.requests, endpoint.headers
    assert request["path"] == "/v1/deployments/x/chat/completions?api-version=2026-01-01"
    assert headers["api-key"] == "azure-secret"
    assert "authorization" not in headers


async def test_a_flood_is_not_taken_in() -> None:
    """A reply of any size takes no more memory than is allowed, stated size or not."""
    flood = Answer(body=b" " * (20 * 2**20))
    with serving([flood]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url)
        async with aclosing(model):
            with pytest.raises(RequestRefused, match="returned more than 16777216 bytes"):
                await model.complete(ASKED)


async def test_no_key_is_no_secret() -> None:
    """Where no key is sent, what an endpoint says is told word by word."""
    said = "none of the parabudgets is known"
    with serving([error(400, said)]) as endpoint, pytest.raises(RequestRefused, match=said):
        await ask(endpoint)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Name a proxy for every address."""
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return partial(monkeypatch.setenv, "http_proxy")


AFAR = "http://models.invalid/v1"


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_proxy_is_asked(scheme: str, proxied: Callable[[str], None]) -> None:
    """An HTTP proxy that the environment names is asked, its scheme stated or not."""
    with serving([error(404, "gone")], models=["tiny-7b"]) as endpoint:
        proxied(scheme + endpoint.base_url.removeprefix("http://").removesuffix("/v1"))
        async with aclosing(OpenAIModel("tinny-7b", base_url=AFAR)) as model:
            with pytest.raises(RequestRefused, match="did you mean 'tiny-7b'"):
                await model.complete(ASKED)
    assert endpoint.requests[0]["path"] == "http://models.invalid/v1/chat/completions"


@pytest.mark.parametrize(
    ("base_url", "says"),
    [(AFAR, "the proxy is unreachable"), (AFAR.replace("http", "https"), "the proxy answered 501")],
)
async def test_a_proxy_that_fails_is_blamed(
    base_url: str, says: str, proxied: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is down, or will not pass a request on, is told from an endpoint that is down."""
    with serving([completion("3")]) as down:
        proxied(down.base_url)
    with serving([completion("3")]) as endpoint:
        monkeypatch.setenv("https_proxy", endpoint.base_url)
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            with pytest.raises(ModelUnavailable, match=f"cannot be reached: {says}"):
                await model.complete(ASKED)


@pytest.mark.parametrize("proxy", ["socks5://me:pass@127.0.0.1:1080", "http://", "http://h:port"])
async def test_a_proxy_of_another_kind_is_refused(
    proxy: str, proxied: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is no HTTP proxy is refused in words before any request, but only if needed."""
    proxied(proxy)
    with pytest.raises(InputError, match=r"http_proxy.*models\.invalid.*no_proxy") as refused:
        OpenAIModel("tiny", base_url=AFAR)
    assert "pass" not in str(refused.value)
    monkeypatch.setenv("no_proxy", "models.invalid")
    await OpenAIModel("tiny", base_url=AFAR).aclose()


ConversationParser = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(
    listener: ConversationParser, trusted: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Hand every connection to `listener`; give the address."""
    heard: set[asyncio.Task[None] | None] = set()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.add(asyncio.current_task())
        with suppress(OSError, EOFError):
            try:
                await listener(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=trusted)
    scheme = "https" if trusted else "http"
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.gather(*filter(None, heard))


async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time for two seconds."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
    for _turn in range(40):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_a_trickle_is_not_listened_to_for_ever() -> None:
    """The time-out bounds the whole of a reply, however steadily it trickles in."""
    async with (
        listening(trickle) as base_url,
        aclosing(OpenAIModel("tiny", base_url=base_url, timeout_s=0.3)) as model,
    ):
        start = time.monotonic()
        with pytest.raises(ModelUnavailable, match="did not answer in time"):
            await model.complete(ASKED)
        assert time.monotonic() - start < 1.5


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    await reader.readuntil(b"\r\n\r\n")
    body = completion("Answer: 3").body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a certificate that signs itself, and its key; skips without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on this machine")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    asked = "req -x509 -newkey rsa:2048 -nodes -subj /CN=tiny -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", "-", "-out", "-"]
    done = subprocess.run([openssl, *asked.split(), *files], check=True, capture_output=True)
    path.write_bytes(done.stdout)
    return path


async def test_a_certificate_that_is_not_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an unknown authority is refused at once, and trusted where it is named."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(certificate)
    async with listening(answer, own) as base_url:
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            with pytest.raises(RequestRefused, match=r"not trusted: self.signed.*SSL_CERT_FILE"):
                await model.complete(ASKED)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with aclosing(OpenAIModel("tiny", base_url=base_url)) as model:
            assert (await model.complete(ASKED)).text == "Answer: 3"


async def misunderstand(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer in plain HTTP whatever is said."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def test_tls_where_there_is_none() -> None:
    """An endpoint that speaks no TLS is not called unreachable."""
    async with listening(misunderstand) as base_url:
        secure = base_url.replace("http:", "https:")
        async with aclosing(OpenAIModel("tiny", base_url=secure)) as model:
            with pytest.raises(ModelUnavailable, match="failed the TLS handshake"):
                await model.complete(ASKED)


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of certificates that cannot be read is named before any request."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="SSL_CERT_FILE"):
        OpenAIModel("tiny", base_url=AFAR)
