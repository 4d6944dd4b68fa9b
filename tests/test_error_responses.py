"""Error responses in the words of many providers: what they mean, what they say, when to retry."""

import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint import CONVERSATION, Response, completion, error, serving
from icl_loop.core.errors import ContextOverflow, ModelUnavailable, RequestRefused
from icl_loop.core.messages import Reply, Usage
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.error_responses import Failure, describe, parse_failure


def parsed(status: int, body: Any, **headers: str) -> Failure:  # noqa: ANN401  any JSON
    """Return what a response means; a text is the message of an OpenAI-like error."""
    body = {"error": {"message": body}} if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_failure(status, named, json.dumps(body).encode())


def known_errors() -> Iterator[tuple[str, str, int, Any]]:
    """Yield what each error in `provider_errors.txt` means, who says so, its status and its body."""
    meaning = ""
    for line in (
        (Path(__file__).parent / "data" / "provider_errors.txt").read_text("utf-8").splitlines()
    ):
        if line.startswith("["):
            meaning = line.strip("[]")
        elif line and not line.startswith("#"):
            told, _, body = line.partition(": ")
            status, _, who = told.partition(" ")
            yield meaning, who, int(status), json.loads(body) if body[0] in "[{" else body


ERRORS = {
    f"{meaning}, {who}": (meaning, status, body) for meaning, who, status, body in known_errors()
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_providers_say_is_understood(case: str) -> None:
    """An error means the same in every provider's words, whatever the status.

    A passing one is worth a retry, and proves the address right.
    """
    meaning, status, body = ERRORS[case]
    failure = parsed(status, body)
    if meaning == "overflow":
        assert failure.error is ContextOverflow
    elif meaning == "passing":
        assert failure.error is ModelUnavailable
        assert failure.reached
    elif meaning == "filter":
        assert failure.kind == "filter"
    else:
        assert failure.error is RequestRefused
        assert failure.kind == (None if meaning == "refused" else meaning)


def test_a_page_for_too_large_requests() -> None:
    """A proxy that rejects a body as too large does so for shorter requests no longer."""
    failure = parse_failure(413, {}, b"<html><title>413 Request Entity Too Large</title></html>")
    assert failure.error is ContextOverflow


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ("Please try again in 7m12.5s.", {}, 432.5),
        ("Please retry after 26 seconds.", {}, 26),
        ("try again in 250ms", {}, 0.25),
        ("wait for about 2 minutes 5 seconds", {}, 125),
        ("try again in 1 hour", {}, 3600),
        ("try again in 12 milliseconds", {}, 0.012),
        ({"error": {"message": "x", "details": [{"retryDelay": "34s"}]}}, {}, 34),
        ({"error": "loading", "estimated_time": 20.5}, {}, 20.5),
        ({"error": {"message": "slow down", "retry_after_seconds": 5}}, {}, 5),
        ("Too many requests. The limit resets in 12s.", {}, 12),
        ("try again in 9s", {"retry_after": "3"}, 3),
        ("slow down", {"x_ratelimit_reset_tokens": "4s"}, 4),
        (
            "slow down",
            {
                "x_ratelimit_remaining_requests": "7",
                "x_ratelimit_reset_requests": "8h",
                "x_ratelimit_reset_tokens": "4s",
            },
            4,
        ),
        ("wait a moment", {}, None),
    ],
)
def test_requested_waits(body: object, headers: dict[str, str], seconds: float | None) -> None:
    """The wait that an endpoint asks for stands in a header, a field or the message."""
    assert parsed(429, body, **headers).wait_s == seconds


def test_resets_count_only_at_the_limit() -> None:
    """The reset of a limit is no wait after a server fault."""
    assert parsed(500, "on fire", x_ratelimit_reset_tokens="6m0s").wait_s is None


def test_what_nested_errors_say() -> None:
    """A message has the words of the endpoint and those of the server behind it, once each."""
    raw = json.dumps({"error": {"message": "The tokens ran\nout", "code": 1}})
    inner = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}
    assert parsed(400, inner).message == "Provider returned error: The tokens ran out"
    twice = {"message": "no", "error": {"message": "no"}, "detail": "no"}
    assert parsed(400, twice).message == "no"
    located = {
        "detail": [{"loc": ["body", "seed"], "msg": "must be a number", "input": {"a": "b"}}]
    }
    assert parsed(422, located).message == "body.seed: must be a number"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"3", b"\xff\xfe", b'{"error":null}', b"{"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_bodies_without_an_error(status: int, body: bytes) -> None:
    """A body without an error leaves the decision to the status."""
    failure = parse_failure(status, {}, body)
    assert (failure.kind, failure.is_api) == (None, False)
    assert failure.error is (RequestRefused if status == 400 else ModelUnavailable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "type", "detail", "retryDelay", "choices"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(status=st.integers(200, 599), body=JSON)
def test_any_body_is_read(status: int, body: object) -> None:
    """A body of any shape has a meaning and is described in one line."""
    failure = parsed(status, body)
    assert "\n" not in describe(failure, status)
    assert issubclass(failure.error, Exception)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"<!DOCTYPE html><html><head><title>Sign in &amp; go\n on</title>",
            "titled 'Sign in & go on'",
        ),
        (b" <html><body>busy", "answered 403 with a web page"),
    ],
)
def test_web_pages(content: bytes, says: str) -> None:
    """A web page is described by its title, without its HTML."""
    failure = parse_failure(403, {}, content)
    said = describe(failure, 403)
    assert failure.is_page
    assert says in said
    assert "<" not in said


# ---- over HTTP ---------------------------------------------------------------------------


async def ask(response: Response, **settings: Any) -> Reply:  # noqa: ANN401  settings of the model
    """Return the reply of a model whose endpoint answers with this response."""
    with serving([response], models=["tiny"]) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, **settings)
        async with aclosing(model):
            return await model.complete(CONVERSATION)


@pytest.mark.parametrize("status", [200, 201, 203])
async def test_any_success_is_a_success(status: int) -> None:
    """A completion is accepted with any status of success."""
    assert (await ask(replace(completion("3"), status=status))).text == "3"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    ("location", "says"),
    [
        (
            "https://new.example/v2/chat/completions?key=k",
            r"set base_url to https://new\.example/v2\)",
        ),
        ("/login?next=secret", r"redirects to http://127\.0\.0\.1:\d+/login, .*check base_url"),
        (None, "without an address"),
    ],
)
async def test_redirects(status: int, location: str | None, says: str) -> None:
    """A redirect is not followed; the error says whereto it leads, without its query."""
    headers = {"Location": location} if location else {}
    moved = Response(status, b"<html>Moved</html>", "text/html", headers=headers)
    with pytest.raises(RequestRefused, match=rf"answered {status}.*{says}") as refused:
        await ask(moved)
    assert "secret" not in str(refused.value)


async def test_a_withheld_answer_is_a_reply() -> None:
    """An error of a content filter, or a withheld completion in an error, is an empty reply."""
    body = {"error": {"code": "content_filter", "message": "no"}, "usage": {"prompt_tokens": 9}}
    reply = await ask(Response(400, json.dumps(body).encode()))
    assert (reply.text, reply.finish, reply.usage) == ("", "content_filter", Usage(prompt=9))
    withheld = replace(completion("", finish_reason="content_filter"), status=400)
    assert (await ask(withheld)).usage.prompt == 100


@pytest.mark.parametrize(
    ("status", "body", "settings", "says"),
    [
        (401, "no", {}, "check api_key_env"),
        (403, "no", {"api_key_env": "THIS_KEY"}, "check the key in THIS_KEY"),
        (403, "no", {"headers_env": {"x-key": "THIS_KEY"}}, "check the keys in headers_env"),
        (429, "insufficient balance", {}, "check the plan and the billing"),
        (400, "System role not supported", {}, r"model\.system_role = false"),
        (400, "roles must alternate", {}, r"model\.system_role = false"),
        (400, "roles must alternate", {"merge_roles": False}, r"model\.merge_roles = true"),
        (400, "The model tinny does not exist", {}, "did you mean 'tiny'"),
        (200, "invalid route: unknown endpoint", {}, r"reported an error: .*\(check base_url\)"),
    ],
)
async def test_hints(
    status: int, body: str, settings: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal names the setting to check."""
    monkeypatch.setenv("THIS_KEY", "k")
    with pytest.raises(RequestRefused, match=says):
        await ask(error(status, body), **settings)


async def test_a_web_page_in_place_of_the_endpoint() -> None:
    """A page with a status of refusal is no reason to check the key."""
    page = Response(403, b"<html><title>Wait a moment</title><meta charset=x></html>", "text/html")
    with pytest.raises(
        RequestRefused, match=r"a web page titled 'Wait a moment'.*a firewall"
    ) as found:
        await ask(page)
    assert "key" not in str(found.value)
    with pytest.raises(ModelUnavailable, match="answered 200 with a web page"):
        await ask(replace(page, status=200))


async def test_failures_carry_what_they_cost() -> None:
    """The usage of a reply that cannot be used comes with the exception."""
    with pytest.raises(ModelUnavailable) as failed:
        await ask(completion("Ans", finish_reason="error"))
    assert failed.value.usage == Usage(prompt=100, cached=64, completion=7, reasoning=3)
