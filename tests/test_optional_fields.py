"""Optional request fields: which of them an endpoint accepts is found out, once per model."""

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint import CONVERSATION, USAGE, Endpoint, Response, completion, error, serving
from icl_loop.core.errors import ModelUnavailable, RequestRefused
from icl_loop.core.messages import Reply
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.endpoint import Endpoint as Known
from icl_loop.models.openai.endpoint import Kind
from icl_loop.models.openai.optional_fields import grammar, obeys

LABELS = ("cat", "dog")


async def ask(
    server: Endpoint,
    times: int = 1,
    kind: Kind = "unknown",
    **settings: Any,  # noqa: ANN401  any argument of the model
) -> list[Reply]:
    """Send the conversation several times through one model."""
    chosen = {"cap": 50, "labels": LABELS, "endpoint": Known(kind), **settings}
    model = OpenAIModel("tiny", base_url=server.base_url, **chosen)
    async with aclosing(model):
        return [await model.complete(CONVERSATION) for _ in range(times)]


def strict(*fields: str, say: str = "Unsupported parameter: '{}'", status: int = 400) -> Any:  # noqa: ANN401
    """Return a script that refuses these fields, naming the first that was sent."""

    def respond(request: Mapping[str, Any]) -> Response:
        for name in fields:
            if name in request:
                return error(status, say.format(name))
        return completion("Answer: cat")

    return respond


def caps(endpoint: Endpoint) -> list[tuple[str, ...]]:
    """Return the fields of each request that limit its reply."""
    names = ("max_completion_tokens", "max_tokens")
    return [tuple(name for name in names if name in request) for request in endpoint.requests]


REFUSALS: Mapping[str, Response] = {
    "OpenAI": error(400, "Unsupported parameter: 'max_completion_tokens' is not supported."),
    "pydantic": Response(
        422,
        json.dumps(
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_completion_tokens"],
                        "msg": "Extra inputs are not permitted",
                        "input": 50,
                    }
                ]
            }
        ).encode(),
    ),
    "param": Response(
        400, b'{"error":{"message":"Unknown parameter.","param":"max_completion_tokens"}}'
    ),
    "status 200": Response(
        200, b'{"error":{"message":"unknown field max_completion_tokens","code":400}}'
    ),
    "status 500": error(500, "unexpected keyword argument 'max_completion_tokens'"),
}


@pytest.mark.parametrize("server", REFUSALS)
async def test_a_refused_cap(server: str) -> None:
    """Each request carries a cap; the next field is used, at once and for good, if one is refused."""

    def respond(request: Mapping[str, Any]) -> Response:
        refused = "max_completion_tokens" in request
        return REFUSALS[server] if refused else completion("Answer: cat")

    with serving([respond]) as endpoint:
        replies = await ask(endpoint, times=2)
    assert caps(endpoint) == [("max_completion_tokens",), ("max_tokens",), ("max_tokens",)]
    assert [reply.served and reply.served.cap for reply in replies] == ["max_tokens"] * 2
    assert endpoint.requests[-1]["max_tokens"] == 50


async def test_no_cap() -> None:
    """An endpoint that accepts neither field is asked without a cap, and the reply says so."""
    with serving([strict("max_completion_tokens", "max_tokens")]) as endpoint:
        (reply,) = await ask(endpoint)
    assert caps(endpoint) == [("max_completion_tokens",), ("max_tokens",), ()]
    assert reply.served is not None
    assert reply.served.cap is None


async def test_an_ignored_cap() -> None:
    """A reply far beyond its cap shows that the field is ignored: later requests use the next one."""
    long = completion("Answer: cat", usage={**USAGE, "completion_tokens": 500})
    with serving([long, completion("Answer: cat")]) as endpoint:
        replies = await ask(endpoint, times=2)
    assert caps(endpoint) == [("max_completion_tokens",), ("max_tokens",)]
    assert [reply.served and reply.served.cap for reply in replies] == [None, "max_tokens"]


async def test_the_cap_of_params() -> None:
    """A limit in `params` replaces the cap and is recorded."""
    with serving([completion("Answer: cat")]) as endpoint:
        (reply,) = await ask(endpoint, params={"max_tokens": 7})
    assert caps(endpoint) == [("max_tokens",)]
    assert endpoint.requests[0]["max_tokens"] == 7
    assert reply.served is not None
    assert reply.served.cap == "max_tokens"


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "max_completion_tokens is too large: 50. This model supports at most 40."),
        error(402, "You can only afford 12 tokens; use fewer max_completion_tokens."),
        error(400, "Unknown parameter: 'colour'"),
    ],
)
async def test_other_refusals(refusal: Response) -> None:
    """A refusal of a value, of the account or of the user's own field is final."""
    with serving([refusal]) as endpoint, pytest.raises(RequestRefused):
        await ask(endpoint, params={"colour": "red"})
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("status", "say"),
    [(400, "unknown field"), (404, "No endpoints found that can handle the requested parameters")],
)
async def test_refusals_without_a_name(status: int, say: str) -> None:
    """If a refusal does not say which field is unknown, the dispensable ones are given up first."""
    refusing = strict("max_completion_tokens", "logprobs", say=say, status=status)
    with serving([refusing]) as endpoint:
        (reply,) = await ask(endpoint, answer_format="choice")
    assert "logprobs" not in endpoint.requests[-1]
    assert reply.served is not None
    assert reply.served.cap == "max_tokens"


async def test_a_refusal_that_no_field_explains() -> None:
    """Fields that were left out in vain are sent again: the refusal was about something else."""
    numbers = count()

    def refuse(_: object) -> Response:
        return error(400, f"Invalid argument: the text is not supported (id {next(numbers)}f-a)")

    with serving([refuse]) as server:
        model = OpenAIModel("tiny", base_url=server.base_url, cap=50)
        async with aclosing(model):
            for _ in range(2):
                with pytest.raises(RequestRefused):
                    await model.complete(CONVERSATION)
    assert caps(server)[0] == ("max_completion_tokens",)
    assert caps(server) == caps(server)[: len(caps(server)) // 2] * 2
    assert () in caps(server)
    assert (model.fields.chosen["cap"].name, model.fields.dropped) == ("max_completion_tokens", {})


async def test_failures_of_another_kind() -> None:
    """A failed completion that mentions a field is retried, and the field is kept."""
    failed = completion(None, usage=None, logprobs=None, message={"content": None})
    with serving([failed, completion("Answer: cat")]) as endpoint:
        with pytest.raises(ModelUnavailable):
            await ask(endpoint, answer_format="logprobs")
        (reply,) = await ask(endpoint, answer_format="logprobs")
    assert reply.text == "Answer: cat"
    assert [request["top_logprobs"] for request in endpoint.requests] == [20, 20]


# ---- replies limited to the labels ----

CONSTRAINTS = ("grammar", "structured_outputs", "guided_choice", "response_format", "format")
FIRST: Mapping[Kind, str] = {
    "llama.cpp": "grammar",
    "vLLM": "structured_outputs",
    "Ollama": "response_format",
    "OpenAI": "response_format",
    "unknown": "response_format",
}


def constraints(endpoint: Endpoint) -> list[str | None]:
    """Return the field of each request that limits its reply to the labels."""
    return [
        next((name for name in CONSTRAINTS if name in request), None)
        for request in endpoint.requests
    ]


@pytest.mark.parametrize("kind", FIRST)
async def test_the_first_constraint(kind: Kind) -> None:
    """The format `choice` begins with the field that the server is known to understand."""
    text = '{"answer": "cat"}' if FIRST[kind] == "response_format" else "Answer: cat"
    with serving([completion(text)]) as endpoint:
        (reply,) = await ask(endpoint, answer_format="choice", kind=kind)
    assert constraints(endpoint) == [FIRST[kind]]
    assert reply.served is not None
    assert reply.served.constraint == FIRST[kind]


async def test_a_refused_constraint(caplog: pytest.LogCaptureFixture) -> None:
    """A refused constraint is replaced at once by the next; without any, replies are free text."""
    script = strict(*CONSTRAINTS, say="{} is not supported by this model")
    with serving([script]) as endpoint:
        (reply,) = await ask(endpoint, answer_format="choice", kind="vLLM")
    expected = ["structured_outputs", "guided_choice", "response_format", None]
    assert constraints(endpoint) == expected
    assert reply.served is not None
    assert reply.served.constraint is None
    assert reply.text == "Answer: cat"
    assert "free text" in caplog.text


async def test_an_ignored_constraint() -> None:
    """A reply that does not obey is kept, and later requests use the next constraint."""
    script = [completion("I think it is a cat."), completion("Answer: cat")]
    with serving(script) as endpoint:
        replies = await ask(endpoint, times=3, answer_format="choice", kind="vLLM", cap=None)
    assert constraints(endpoint) == ["structured_outputs", "guided_choice", "guided_choice"]
    assert replies[0].text == "I think it is a cat."
    assert [each.served and each.served.constraint for each in replies] == [
        None,
        "guided_choice",
        "guided_choice",
    ]


@pytest.mark.parametrize("refused", [0, 1, 2])
async def test_log_probabilities_of_a_choice(refused: int) -> None:
    """`choice` requests log probabilities; it asks for fewer, then for none, if they are refused."""
    answers: Sequence[Response] = [error(400, "top_logprobs must be at most 5")] * refused
    with serving([*answers, completion("Answer: cat")]) as endpoint:
        await ask(endpoint, answer_format="choice", kind="vLLM")
    assert len(endpoint.requests) == refused + 1
    assert endpoint.requests[-1].get("top_logprobs") == [20, 5, None][refused]
    assert endpoint.requests[-1]["structured_outputs"] == {"choice": ["Answer: cat", "Answer: dog"]}


async def test_a_truncated_reply_says_nothing_about_a_constraint() -> None:
    """A reply cut at its cap does not show that the constraint was ignored."""
    with serving([completion("Answer: c", finish_reason="length")]) as endpoint:
        await ask(endpoint, times=2, answer_format="choice", kind="llama.cpp")
    assert constraints(endpoint) == ["grammar", "grammar"]


async def test_the_schema_format_is_not_negotiated() -> None:
    """A schema that was asked for by name is never dropped."""
    with serving([strict("response_format")]) as endpoint, pytest.raises(RequestRefused):
        await ask(endpoint, answer_format="schema")
    assert len(endpoint.requests) == 1


def read_grammar(text: str) -> list[str]:
    """Return the texts of a grammar of alternatives, read as llama.cpp documents it."""
    texts, place = list[str](), text.index("::=") + 3
    while (start := text.find('"', place)) >= 0:
        place, read = start + 1, ""
        while text[place] != '"':
            if text[place] != "\\":
                read, place = read + text[place], place + 1
            elif text[place + 1] in "xU":
                digits = 2 if text[place + 1] == "x" else 8
                read += chr(int(text[place + 2 : place + 2 + digits], 16))
                place += 2 + digits
            else:
                read, place = read + text[place + 1], place + 2
        texts.append(read)
        place += 1
    return texts


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_a_grammar_has_exactly_its_texts(lines: list[str]) -> None:
    """Quotes, backslashes, line ends and other alphabets survive; the grammar is plain ASCII."""
    written = grammar(lines)
    assert written.isascii()
    assert "\n" not in written
    assert read_grammar(written) == lines


@pytest.mark.parametrize(
    ("name", "text", "obeyed"),
    [
        ("grammar", "Answer: cat", True),
        ("grammar", " Answer: cat\n", True),
        ("grammar", "<think>A dog?</think>Answer: cat", True),
        ("grammar", "It is a cat. Answer: cat", False),
        ("grammar", '{"answer": "cat"}', False),
        ("response_format", '{\n "answer" : "cat"\n}', True),
        ("response_format", '{"answer": "cow"}', False),
        ("response_format", "Answer: cat", False),
        ("response_format", "[" * 2_000, False),
    ],
)
def test_obedience(name: str, text: str, *, obeyed: bool) -> None:
    """A reply obeys a constraint if it is exactly one that the constraint allows."""
    assert obeys(name, text, LABELS, "Answer: {label}") is obeyed


@pytest.mark.parametrize(
    ("kind", "field"), [("llama.cpp", "id_slot"), ("OpenAI", "prompt_cache_key")]
)
async def test_sessions_keep_their_caches(kind: Kind, field: str) -> None:
    """All requests of a session name its slot or its cache; the field is dropped if it is refused."""
    with serving([strict("never")]) as taken, serving([strict(field)]) as refused:
        for server in (taken, refused):
            model = OpenAIModel("tiny", base_url=server.base_url, endpoint=Known(kind))
            async with aclosing(model):
                for number in (0, 1, 0):
                    session = model.for_session(f"session {number}", slot=number)
                    assert (await session.complete(CONVERSATION)).text == "Answer: cat"
    sent = [request[field] for request in taken.requests]
    assert sent in ([0, 1, 0], ["session 0", "session 1", "session 0"])
    assert [field in request for request in refused.requests] == [True, False, False, False]
