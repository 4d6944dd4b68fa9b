"""`OpenAIModel` over real HTTP: requests, replies, errors and keys."""

import json
from contextlib import aclosing
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
from icl_loop.models.replay import ReplayModel


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
        model = OpenAIModel("tinny-7b", base_url=endpoint.base_url)
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
