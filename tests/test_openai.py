"""`OpenAIModel` over real HTTP: requests, replies, errors and keys."""

import json
import math
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import played, session
from contracts import check_model
from endpoint import CONVERSATION, Endpoint, Response, completion, error, retrying, serving
from icl_loop.core.errors import ContextOverflow, InputError, RequestRefused
from icl_loop.core.messages import Image, Message, Reply, Served, Text, Usage, merged
from icl_loop.models.openai import OpenAIModel, encode_messages
from icl_loop.models.openai.response_parser import InvalidResponse, parse_completion
from icl_loop.models.replay import ReplayModel
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.labels import ABSTRACT_NAMES

NUMERALS = tuple("0123456789")


async def ask(endpoint: Endpoint) -> Reply:
    """Send the conversation to the endpoint, with retries."""
    async with aclosing(retrying(endpoint)) as model:
        return await check_model(model, CONVERSATION)


async def test_request() -> None:
    """A request contains the model, the params, and the messages with consecutive roles merged."""
    with serving([completion("Answer: 3")]) as endpoint:
        params = {"temperature": 0.5, "extra_body": {"top_k": 1}}
        model = OpenAIModel("tiny", base_url=endpoint.base_url, params=params)
        async with aclosing(model):
            await model.complete(CONVERSATION)
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


async def test_reply() -> None:
    """A reply has the text, the reported token counts, the number of attempts and the latency."""
    with serving([completion("Answer: 3")]) as endpoint:
        reply = await ask(endpoint)
    assert (reply.text, reply.finish, reply.attempts) == ("Answer: 3", "stop", 1)
    assert reply.usage == Usage(prompt=100, cached=64, completion=7, reasoning=3)
    assert reply.latency_s is not None
    assert reply.latency_s > 0


TRANSIENT = {
    "408": error(408),
    "409": error(409),
    "429": error(429),
    "500": error(500),
    "503": Response(503, b"<html>busy</html>", "text/html"),
    "reset": Response(disconnect=True),
    "empty body": Response(),
    "half a body": Response(body=completion("3").body[:90]),
    "a page": Response(body=b"<html>hello</html>", content_type="text/html"),
    "no choices": Response(body=b'{"id":"1","object":"chat.completion","choices":[]}'),
    "a list": Response(body=b"[]"),
    "null": Response(body=b"null"),
    "null message": Response(body=b'{"choices":[{"index":0,"message":null}]}'),
    "null choices": Response(body=b'{"choices":null}'),
    "null content": completion(None),
}


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_transient_faults_are_retried(fault: str) -> None:
    """A fault that may pass is retried and counted, and never becomes a reply."""
    with serving([TRANSIENT[fault], TRANSIENT[fault], completion("Answer: 3")]) as endpoint:
        reply = await ask(endpoint)
    assert (reply.text, reply.attempts, len(endpoint.requests)) == ("Answer: 3", 3, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refused_requests_are_not_retried(status: int) -> None:
    """A request that can never succeed is sent once, and the error quotes the endpoint."""
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
async def test_truncated_and_refused_replies_are_outcomes(answer: Response, outcome: str) -> None:
    """Truncated, refused and filtered replies are not retried; the turn records them as wrong."""
    with serving([answer]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url)
        async with aclosing(model):
            (turn,) = await played(session(1), model)
        assert (turn.outcome, turn.answer, turn.feedback.correct) == (outcome, None, False)
        assert len(endpoint.requests) == 1


def test_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable: OPENAI_API_KEY by default, or the one in the settings."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        OpenAIModel("tiny")
    with pytest.raises(InputError, match="OTHER_KEY"):
        OpenAIModel("tiny", base_url="http://127.0.0.1:9/v1", api_key_env="OTHER_KEY")


async def test_the_openai_key_is_not_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another endpoint does not get OPENAI_API_KEY by default."""
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
def test_encoded_messages_equal_the_conversation(messages: list[Message]) -> None:
    """The joined JSON contains exactly the messages, merged or not."""
    for merge_roles, expected in ((True, merged(messages)), (False, messages)):
        sent = json.loads(b"[%b]" % encode_messages(messages, merge_roles=merge_roles))
        assert [each["role"] for each in sent] == [message.role for message in expected]
        for each, message in zip(sent, expected, strict=True):
            if not message.has_image:
                assert each["content"] == message.text
                continue
            kinds = ["text" if isinstance(part, Text) else "image_url" for part in message.parts]
            assert [part["type"] for part in each["content"]] == kinds


@given(CONVERSATIONS)
def test_conversations_without_a_system_role(messages: list[Message]) -> None:
    """Without a system role, a system message at the beginning is merged with the first user message."""
    sent = encode_messages(messages, system_role=False)
    if messages[0].role == "system":
        user = [each for each in messages[1:2] if each.role == "user"]
        first = merged([Message("user", messages[0].parts), *user])
        messages = [*first, *messages[1 + len(user) :]]
    assert json.loads(b"[%b]" % sent) == json.loads(b"[%b]" % encode_messages(messages))


@given(CONVERSATIONS)
def test_cache_breakpoints(messages: list[Message]) -> None:
    """System messages and the last message end in breakpoints; nothing else changes."""
    sent = json.loads(b"[%b]" % encode_messages(messages, cache_control=True))
    plain = json.loads(b"[%b]" % encode_messages(messages))
    for index, (marked, message) in enumerate(zip(sent, plain, strict=True)):
        assert marked["role"] == message["role"]
        if marked["role"] != "system" and index < len(sent) - 1:
            assert marked == message
            continue
        assert marked["content"][-1].pop("cache_control") == {"type": "ephemeral"}
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        assert marked["content"] == parts


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
async def test_overflow_wordings(server: str) -> None:
    """A request that is too long raises ContextOverflow, whatever the server calls it."""
    status, body = OVERFLOWS[server]
    with serving([Response(status, json.dumps(body).encode())]) as endpoint:
        with pytest.raises(ContextOverflow):
            await ask(endpoint)
        assert len(endpoint.requests) == 1


async def test_a_session_shortens_its_requests_until_they_fit() -> None:
    """A request refused as too long is sent again with fewer turns; the session replays the same."""
    too_long = Response(400, b'{"error":{"code":"context_length_exceeded","message":"no"}}')
    answers = [*[completion("Answer: 3", usage=None)] * 5, too_long, completion("Answer: 3")]
    chosen = session(9, policy="last(4)", model={"name": "t", "context_window": 3000})
    with serving(answers) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            turns = await played(chosen, model)
    assert [turn.overflows for turn in turns] == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert len(endpoint.requests) == 10
    assert len(endpoint.requests[6]["messages"]) < len(endpoint.requests[5]["messages"])
    assert await played(chosen, ReplayModel(turns)) == turns


# ---- parts of a response -------------------------------------------------------------------


def parsed(answer: Response, labels: Sequence[str] = NUMERALS) -> Reply:
    """Return the reply that a response holds."""
    return parse_completion(answer.body, labels, partial(parse_answer, labels=labels))


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [
        ("stop STOP end_turn eos_token stop_sequence COMPLETE done FinishReason.STOP", "stop"),
        (
            "length MAX_TOKENS model_length max_output_tokens maxTokens FINISH_REASON_MAX_TOKENS",
            "length",
        ),
        (
            "content_filter SAFETY PROHIBITED_CONTENT BLOCKLIST SPII refusal sensitive",
            "content_filter",
        ),
        ("content-filter guardrail_intervened RECITATION IMAGE_SAFETY", "content_filter"),
        ("tool_calls tool_use function_call", "stop"),
        ("OTHER pause_turn 7", "unknown"),
    ],
)
def test_finish_reasons(reasons: str, finish: str) -> None:
    """Every provider's finish reason has one of four meanings; an unknown one is quoted."""
    for reason in reasons.split():
        reply = parsed(completion("Answer: 3", finish_reason=reason))
        assert (reply.text, reply.finish) == ("Answer: 3", finish)
        assert reply.served == Served("tiny-2026", "fp_1", reason if finish == "unknown" else None)
    assert parsed(completion("3", finish_reason=None)).finish == "stop"
    assert parsed(completion("3", finish_reason={"type": "length"})).finish == "length"


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "abort", "cancelled", "network_error", "insufficient_system_resource"),
        *("MALFORMED_FUNCTION_CALL", "malformed_answer", "engine_overloaded", "backend_error"),
    ],
)
@pytest.mark.parametrize("text", ["", "Answer: 3"])
def test_failed_replies(reason: str, text: str) -> None:
    """A reply that the provider reports as failed is none, whatever it says, but its tokens count."""
    with pytest.raises(InvalidResponse, match=reason) as failed:
        parsed(completion(text, finish_reason=reason))
    assert failed.value.usage == Usage(prompt=100, cached=64, completion=7, reasoning=3)
    with pytest.raises(InvalidResponse, match="upstream is away"):
        parsed(completion(text, error={"code": 502, "message": "upstream is away"}))


def test_replies_without_text() -> None:
    """What was paid for is a reply even without text; nothing at all is asked again."""
    nothing = {"prompt_tokens": 9, "completion_tokens": 0}
    for text in (None, "", "\n\n"):
        with pytest.raises(InvalidResponse, match="empty"):
            parsed(completion(text, usage=nothing))
    assert parsed(completion("\n")).text == "\n"
    assert parsed(completion(None, finish_reason="length", usage=nothing)).finish == "length"
    thought = {"role": "assistant", "content": None, "reasoning_content": "It is 3."}
    assert parsed(completion(None, message=thought)).reasoning_text == "It is 3."
    called = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    for reason in ("stop", "tool_calls"):
        reply = parsed(completion(None, message=called, finish_reason=reason))
        assert (reply.finish, reply.served) == (
            "unknown",
            Served("tiny-2026", "fp_1", "tool_calls"),
        )


@pytest.mark.parametrize(
    "message",
    [
        {"content": "3", "reasoning_content": "loops"},
        {"content": "3", "reasoning": "loops", "reasoning_details": [{"text": "loops"}]},
        {"content": "3", "reasoning": None, "thinking": "loops"},
        {
            "content": "3",
            "reasoning_details": [
                {"type": "reasoning.encrypted", "data": "gAAA"},
                {"type": "reasoning.summary", "summary": "lo"},
                {"type": "reasoning.text", "text": "ops"},
            ],
        },
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "loops"}]},
                {"type": "redacted_thinking", "data": "gAAA"},
                {"type": "text", "text": "3"},
            ]
        },
        {"content": [{"type": "reasoning", "text": "loops"}, "3"]},
    ],
)
def test_reasoning_is_kept_beside_the_text(message: dict[str, Any]) -> None:
    """Reasoning is found in every field that providers use, and is never part of the text."""
    reply = parsed(completion(None, message=message))
    assert (reply.text, reply.reasoning_text) == ("3", "loops")


COUNTS = [
    (
        {"prompt_tokens": 100, "completion_tokens": 3, "prompt_cache_hit_tokens": 80},
        (100, 80, 3, 0),
    ),
    ({"prompt_tokens": 100, "completion_tokens": 3, "cached_tokens": 80}, (100, 80, 3, 0)),
    ({"prompt_tokens": 100.0, "completion_tokens": "3", "total_tokens": 140}, (100, 0, 40, 0)),
    (
        {
            "prompt_tokens": 20,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 80},
        },
        (100, 80, 3, 0),
    ),
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "completion_tokens_details": {"reasoning_tokens": 50},
        },
        (9, 0, 53, 50),
    ),
    (
        {
            "input_tokens": 5,
            "output_tokens": 3,
            "cache_read_input_tokens": 80,
            "cache_creation_input_tokens": 15,
        },
        (100, 80, 3, 0),
    ),
    ({"input_tokens": 5, "output_tokens": 3, "cache_creation_input_tokens": 95}, (100, 0, 3, 0)),
    (
        {
            "prompt_tokens": 0,
            "input_tokens": 20,
            "output_tokens": 3,
            "cache_read_input_tokens": 80,
        },
        (100, 80, 3, 0),
    ),
    (
        {"prompt_cache_hit_tokens": 80, "prompt_cache_miss_tokens": 20, "completion_tokens": 3},
        (100, 80, 3, 0),
    ),
    (
        {"input_tokens": 90, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 64}},
        (90, 64, 3, 0),
    ),
]


@pytest.mark.parametrize(("usage", "counts"), COUNTS)
def test_token_counts(usage: dict[str, Any], counts: tuple[int, int, int, int]) -> None:
    """Tokens are counted in full, whether or not a provider lists cached ones and reasoning apart."""
    assert parsed(completion("3", usage=usage)).usage == Usage(*counts)


def test_token_counts_of_llama_cpp() -> None:
    """The timings of llama.cpp count where there is no usage, and tell how much was cached."""
    body = json.loads(completion("3", usage=None).body)
    body["timings"] = {"cache_n": 90, "prompt_n": 10, "predicted_n": 4}
    assert parsed(Response(body=json.dumps(body).encode())).usage == Usage(100, 90, 4)


ODD: list[Any] = [
    None,
    "x",
    [],
    {},
    -5,
    1.5,
    math.nan,
    math.inf,
    True,
    [None],
    {"a": []},
    "9" * 400,
]


@given(
    odd=st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(ODD)
            for name in (
                "usage",
                "created",
                "model",
                "system_fingerprint",
                "id",
                "object",
                "timings",
                "logprobs",
                "prompt_tokens",
                "cached_tokens",
                "prompt_tokens_details",
                "content",
                "token",
                "logprob",
                "top_logprobs",
                "reasoning",
                "reasoning_details",
                "tool_calls",
                "refusal",
                "annotations",
            )
        },
    )
)
def test_odd_fields_never_discard_an_answer(odd: dict[str, Any]) -> None:
    """A sound text is kept whatever stands in other fields, and no odd number is."""
    usage = {"completion_tokens": 2, **odd}
    tokens = [{"token": "3", "logprob": -0.5, **odd}, {"token": "3", "logprob": -0.5}]
    body = {"choices": [{"logprobs": {"content": tokens, **odd}, "message": {}}], "usage": usage}
    body |= odd
    body["choices"][0] |= {"logprobs": odd["logprobs"]} if "logprobs" in odd else {}  # type: ignore[index]
    body["choices"][0]["message"] = {**odd, "content": "Answer: 3"}  # type: ignore[index]
    reply = parsed(Response(body=json.dumps(body).encode()))
    assert (reply.text, reply.finish) == ("Answer: 3", "stop")
    assert min(reply.usage.prompt, reply.usage.cached, reply.usage.completion) >= 0
    assert all(map(math.isfinite, (reply.label_logprobs or {}).values()))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"X", b"\\ud83d"),
        (b"X", b"\xf0\x9f\x98"),
        (b"X", b"\xff"),
        (b"X", b"\n\t\x01"),
        (b"{", b"\xef\xbb\xbf{"),
        (b"1,", b"9" * 5_000 + b","),
    ],
)
def test_odd_bytes(before: bytes, after: bytes) -> None:
    """A body that is not quite UTF-8 or JSON is read; U+FFFD replaces what is no character."""
    reply = parsed(Response(body=completion("Answer: 3\nX").body.replace(before, after, 1)))
    assert reply.text.startswith("Answer: 3\n")
    assert reply.text.encode().decode() == reply.text


# ---- log probabilities of labels -------------------------------------------------------------


def token(text: str, *others: str, logprob: float = -0.1) -> dict[str, Any]:
    """Return a token as responses list it, with alternatives of log probability -2."""
    listed = [{"token": text, "logprob": logprob}]
    listed += [{"token": other, "logprob": -2.0} for other in others]
    return {"token": text, "logprob": logprob, "top_logprobs": listed}


BOTH = math.log(math.exp(-1) + math.exp(-2))
RARE = [{"token": " ", "logprob": -6.0}]
NEAR = {"3": -0.1, "5": -0.1}
NOWHERE = "http://127.0.0.1:9/v1"
CARDS = ("card_arrival", "card_lost", "top-up")
SCORED: list[tuple[Sequence[str], list[dict[str, Any]], dict[str, float] | None]] = [
    (
        NUMERALS,
        [token("Answer:"), token(" 3", " 5", " x"), token("\n9"), token(" of 10", " 8")],
        {"3": -0.1, "5": -2.0},
    ),
    (
        NUMERALS,
        [token("Perhaps"), token(" 3", " 8"), token(".\nAnswer:"), token(" 3", "5"), token(".")],
        {"3": -0.1, "5": -2.0},
    ),
    (
        NUMERALS,
        [
            token("<think>"),
            token("3", "1"),
            token("</think>"),
            token("**"),
            token("3", "7"),
            token("**"),
        ],
        {"3": -0.1, "7": -2.0},
    ),
    (
        NUMERALS,
        [token("~~"), token("5"), token("~~"), token(" <b>"), token("3", "7"), token("</b>")],
        {"3": -0.1, "7": -2.0},
    ),
    (
        NUMERALS,
        [token('{"answer":'), token(' "'), token("4", "6"), token('"}')],
        {"4": -0.1, "6": -2.0},
    ),
    (NUMERALS, [token("Answer:"), token(" 3", " three", "5", logprob=-1)], {"3": BOTH, "5": -2.0}),
    (NUMERALS, [token(" 3", " ", logprob=-1)], None),
    (NUMERALS, [{**token("3", "5"), "top_logprobs": [*RARE, *token("5")["top_logprobs"]]}], NEAR),
    (NUMERALS, [token("Answer:"), token(" 3 or"), token(" 5", " 7")], None),
    (
        CARDS,
        [token("Answer:"), token(" card", " top", " the"), token("_arr", "_lost"), token("ival")],
        {"card_arrival": -0.2, "card_lost": -2.1, "top-up": -2.0},
    ),
    (CARDS, [token("Answer:"), token(" Top", " card"), token(" up")], None),
    (("C", "C++"), [token("C", "D"), token("++", ".")], None),
    (NUMERALS, [token("3", "5", logprob=-math.inf)], None),
    (NUMERALS, [token("3", "5", logprob=math.nan)], None),
]


@pytest.mark.parametrize(("labels", "tokens", "expected"), SCORED)
def test_label_logprobs_are_those_of_the_answer(
    labels: Sequence[str], tokens: list[dict[str, Any]], expected: dict[str, float] | None
) -> None:
    """A label has the log probability of the tokens that decide for it where the answer stands.

    There is none at all if another token is likely enough and leaves the label open.
    """
    text = "".join(each["token"] for each in tokens)
    reply = parsed(completion(text, logprobs={"content": tokens}), labels)
    assert reply.label_logprobs == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["card_arrival", "top-up", "card_lost"], ["card_arrival", "card_lost"]),
        (["C++", "Rust", "C"], ["C", "C++"]),
        (["Rainbow", "sun", "rain"], ["rain", "Rainbow"]),
        (["9", "10", "11"], ["10", "11"]),
    ],
)
def test_labels_that_share_a_first_token(labels: list[str], named: list[str]) -> None:
    """Labels whose probabilities cannot be told apart are refused before any request, with a remedy."""
    with pytest.raises(InputError) as caught:
        OpenAIModel("tiny", base_url=NOWHERE, answer_format="logprobs", labels=labels)
    assert all(repr(label) in str(caught.value) for label in named)
    assert "abstract" in str(caught.value)
    OpenAIModel("tiny", base_url=NOWHERE, answer_format="choice", labels=labels)


@pytest.mark.parametrize(
    "labels", [NUMERALS, ABSTRACT_NAMES, "ABC", ["World", "Sports", "Sci/Tech"]]
)
def test_labels_that_begin_differently(labels: Sequence[str]) -> None:
    """Digits, letters, all abstract names and labels of different words can be scored."""
    OpenAIModel("tiny", base_url=NOWHERE, answer_format="logprobs", labels=labels)


def test_reasoning_tokens_are_not_the_answer() -> None:
    """Tokens of reasoning that the text leaves out are not mistaken for the answer's."""
    tokens = [
        token("Answer:"),
        token(" 3", " 1"),
        token("</t>"),
        token("Answer:"),
        token(" 3", " 7"),
    ]
    reply = parsed(completion("Answer: 3", logprobs={"content": tokens}))
    assert reply.label_logprobs == {"3": -0.1, "7": -2.0}


async def test_label_logprobs() -> None:
    """A reply has the served model and the log probability of each label in the response."""
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
            reply = await model.complete(CONVERSATION)
    assert reply.label_logprobs == {"3": -0.1, "5": -2.5}
    assert reply.served == Served("tiny-2026", "fp_1")
    assert endpoint.requests[0]["logprobs"] is True


async def test_answer_schema() -> None:
    """With `schema`, the request asks for JSON whose answer is one of the labels."""
    with serving([completion('{"answer": "cat"}')]) as endpoint:
        model = OpenAIModel(
            "tiny", base_url=endpoint.base_url, answer_format="schema", labels=["cat", "dog"]
        )
        async with aclosing(model):
            await model.complete(CONVERSATION)
    schema = endpoint.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["cat", "dog"]


@pytest.mark.parametrize("field", ["model", "messages", "stream", "n"])
def test_reserved_params(field: str) -> None:
    """`params` may not set fields that the program sets itself."""
    with pytest.raises(InputError, match=field):
        OpenAIModel("tiny", base_url="http://127.0.0.1:9/v1", params={field: 1})


async def test_a_misspelt_model() -> None:
    """The error after a 404 suggests the model with the nearest name."""
    with serving([error(404, "gone")], models=["tiny-7b", "large"]) as endpoint:
        model = OpenAIModel("tinny-7b", base_url=f"{endpoint.base_url}?api-version=1")
        async with aclosing(model):
            with pytest.raises(RequestRefused, match="did you mean 'tiny-7b'"):
                await model.complete(CONVERSATION)


async def test_the_window_is_calibrated() -> None:
    """A server that counts three times as many tokens is never sent more than its window holds."""
    chosen = session(60, policy="within", model={"name": "t", "context_window": 9000})

    def counted(request: dict[str, Any]) -> Response:
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


async def test_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may be sent in another header, and the base URL may have a query."""
    monkeypatch.setenv("AZURE_KEY", "azure-secret")
    with serving([error(401, "no access for azure-secret")]) as endpoint:
        model = OpenAIModel(
            "deployed",
            base_url=f"{endpoint.base_url}/deployments/x?api-version=2026-01-01",
            headers_env={"api-key": "AZURE_KEY"},
        )
        async with aclosing(model):
            with pytest.raises(RequestRefused, match=r"no access for \[key\]"):
                await model.complete(CONVERSATION)
    (request,), (headers,) = endpoint.requests, endpoint.headers
    assert request["path"] == "/v1/deployments/x/chat/completions?api-version=2026-01-01"
    assert headers["api-key"] == "azure-secret"
    assert "authorization" not in headers


async def test_errors_without_a_key_are_quoted_in_full() -> None:
    """Without a key nothing is redacted, not even the word "none"."""
    said = "none of the parabudgets is known"
    with serving([error(400, said)]) as endpoint, pytest.raises(RequestRefused, match=said):
        await ask(endpoint)
