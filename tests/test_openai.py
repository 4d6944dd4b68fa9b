"""The laws of the wire: what is sent, what is tried again, what is never taken for an answer."""

from contextlib import aclosing
from pathlib import Path

import pytest

from contracts import check_model
from endpoint import Answer, Endpoint, completion, error, serving
from icl_loop.errors import InputError, ModelUnavailable, RequestRefused
from icl_loop.messages import Reply, Usage, assistant, system, user
from icl_loop.models.openai import ATTEMPTS, OpenAIModel
from icl_loop.runner import Run
from icl_loop.transcripts import read
from making import experiment, played, session

ASKED = [system("s"), user("q0"), assistant("a0"), user("told"), user("q1")]


async def ask(endpoint: Endpoint) -> Reply:
    """Put the conversation to the endpoint, waiting next to nothing between attempts."""
    model = OpenAIModel("tiny", base_url=endpoint.base_url, first_wait_s=0.001)
    async with aclosing(model):
        return await check_model(model, ASKED)


async def test_what_is_sent() -> None:
    """A request names the model, passes params on, and merges neighbours of one role."""
    with serving([completion("Answer: 3")]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, params={"temperature": 0.5})
        async with aclosing(model):
            await model.complete(ASKED)
    assert endpoint.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "tiny",
            "temperature": 0.5,
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
    """A fault that does not pass is given up after the stated number of attempts."""
    with serving([error(500, "on fire")]) as endpoint:
        with pytest.raises(ModelUnavailable, match=r"500.*on fire"):
            await ask(endpoint)
        assert len(endpoint.requests) == ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refusals_stop_at_once(status: int) -> None:
    """A request that the endpoint will never answer is made once; what it said is told."""
    with serving([error(status, "no such thing")]) as endpoint:
        with pytest.raises(RequestRefused, match=f"{status}.*no such thing.*'tiny'"):
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
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:\d+/v1/ cannot be reached"):
        await ask(endpoint)


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
    (stop,) = result.stops
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
    assert endpoint.keys == ["Bearer none"]
