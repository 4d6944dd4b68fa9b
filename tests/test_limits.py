"""Retries, rate limits, concurrency and budgets."""

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint import CONVERSATION, FAST, Response, completion, error, retrying, serving
from icl_loop.core.errors import BudgetSpent, ModelUnavailable
from icl_loop.core.messages import Usage
from icl_loop.models.limits import (
    INITIAL_RATIO,
    SAFETY_MARGIN,
    Budget,
    ConcurrencyLimiter,
    PromptBound,
    RateLimiter,
)


async def test_lasting_faults_stop_the_session() -> None:
    """A fault that does not pass is retried until the allowance is used up."""
    with serving([error(500, "on fire")]) as endpoint:
        budget = Budget()
        start, short = time.monotonic(), replace(FAST, allowance_s=0.3)
        async with aclosing(retrying(endpoint, budget, retry=short)) as model:
            with pytest.raises(ModelUnavailable, match=r"500.*on fire"):
                await model.complete(CONVERSATION)
        assert time.monotonic() - start < 2.0
        assert len(endpoint.requests) == budget.retries.total() + 1 > 3


@pytest.mark.parametrize(
    "first",
    [
        Response(503, b'{"error":{"message":"Loading model","type":"unavailable_error"}}'),
        Response(503, b"<html>Service Unavailable</html>", "text/html"),
        Response(429, b"", headers={"Retry-After": "0.4"}),
        Response(502, b"<html>away</html>", "text/html", headers={"Retry-After": "0.1"}),
        error(500, "the backend is away"),
    ],
    ids=["loading", "page", "limited", "page with a wait", "fault"],
)
async def test_an_endpoint_that_reports_failures_is_waited_for(first: Response) -> None:
    """A failure that the endpoint itself reports gets the whole allowance, even at the start."""
    short = replace(FAST, startup_allowance_s=0.01)
    with serving([first, first, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, retry=short)) as model:
            assert (await model.complete(CONVERSATION)).attempts == 3


@pytest.mark.parametrize("body", [b"<html>Welcome to nginx</html>", b"", b"[]"])
async def test_a_wrong_address_is_given_up_soon(body: bytes) -> None:
    """An address where something other than an API answers gets the startup allowance only."""
    short = replace(FAST, startup_allowance_s=0.1)
    with serving([Response(body=body)]) as endpoint:
        start = time.monotonic()
        async with aclosing(retrying(endpoint, retry=short)) as model:
            with pytest.raises(ModelUnavailable):
                await model.complete(CONVERSATION)
        assert time.monotonic() - start < 2.0


@pytest.mark.parametrize(
    "limited",
    [
        Response(429, b'{"error":"slow down"}', headers={"Retry-After": "3600"}),
        error(429, "slow down, try again in 1 hour"),
    ],
)
async def test_a_wait_beyond_the_allowance(limited: Response) -> None:
    """A wait that is longer than the allowance stops the session at once, and the error tells it."""
    with serving([limited]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            with pytest.raises(ModelUnavailable, match=r"slow down.*3,600 s \(60 min\).* 20 s"):
                await model.complete(CONVERSATION)
        assert len(endpoint.requests) == 1


async def test_long_waits_are_shown() -> None:
    """While a request waits for long, the budget tells until when and why."""
    used_up = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60s"}
    limited = Response(429, b'{"error":"slow down"}', headers={"Retry-After": "15"})
    for response, reason in ((limited, "slow down"), (completion("3", headers=used_up), "used up")):
        budget = Budget()
        with serving([response]) as endpoint:
            async with aclosing(retrying(endpoint, budget)) as model:
                asking = asyncio.ensure_future(model.complete(CONVERSATION))
                if response.status == 200:
                    await asking
                    asking = asyncio.ensure_future(model.complete(CONVERSATION))
                while not budget.waits and not asking.done():
                    await asyncio.sleep(0.01)
                (wait,) = budget.waits.values()
                assert 10 < wait.until - time.monotonic() <= 60
                assert reason in wait.reason
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
        assert not budget.waits


@pytest.mark.parametrize("rate", [60.0, 6.0, 0.5])
async def test_waits_for_own_limits_are_shown(rate: float) -> None:
    """A request that waits for a rate limit of the user's own is shown, with about the time it waits."""
    for name in ("requests", "tokens"):
        limits: dict[str, Any] = {f"{name}_per_minute": rate}
        budget, limiter = Budget(), RateLimiter(**limits)
        for _ in range(max(1, int(rate))):
            await limiter.wait(1, budget)
        waiting = [asyncio.ensure_future(limiter.wait(1, budget)) for _ in range(9)]
        await asyncio.sleep(0)
        longest = max(wait.until for wait in budget.waits.values()) - time.monotonic()
        assert longest == pytest.approx(9 * 60 / rate, rel=0.1)
        assert {wait.reason for wait in budget.waits.values()} == {f"for limits.{name}_per_minute"}
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not budget.waits


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
async def test_retry_after(headers: dict[str, str], least: float) -> None:
    """After a 429 the retry waits as long as the server asks, by any of the usual headers."""
    limited = Response(429, b'{"error":{"message":"slow down"}}', headers=headers)
    with serving([completion("3"), limited, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            await model.complete(CONVERSATION)
            start = time.monotonic()
            reply = await model.complete(CONVERSATION)
    assert time.monotonic() - start >= least
    assert reply.attempts == 2


async def test_an_exhausted_rate_limit() -> None:
    """If a response says that no requests are left, the next request waits for the reset."""
    last = completion(
        "3", headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    )
    with serving([last, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint)) as model:
            await model.complete(CONVERSATION)
            start = time.monotonic()
            await model.complete(CONVERSATION)
    assert time.monotonic() - start >= 0.29


async def test_concurrency_adapts() -> None:
    """A 429 halves the concurrency limit; successes raise it again, up to its maximum."""
    limiter = RateLimiter(max_concurrency=4)
    with serving([error(429), error(429), completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, rate_limiter=limiter)) as model:
            await model.complete(CONVERSATION)
            assert limiter.concurrency.limit == pytest.approx(2.0)
            for _ in range(9):
                await model.complete(CONVERSATION)
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
async def test_a_budget_is_not_exceeded(budget: Budget, says: str) -> None:
    """A request that could exceed the budget is not sent."""
    with serving([completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, budget, count=lambda _: 100)) as model:
            await model.complete(CONVERSATION)
            await model.complete(CONVERSATION)
            with pytest.raises(BudgetSpent, match=says):
                await model.complete(CONVERSATION)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "budget", [Budget(max_tokens=900), Budget(max_usd=0.0009)], ids=["tokens", "usd"]
)
async def test_a_budget_holds_if_the_server_counts_more(budget: Budget) -> None:
    """The budget holds for a server that counts three times as many tokens as we do."""
    triple = completion("3", usage={"prompt_tokens": 300, "completion_tokens": 1})
    with serving([triple]) as endpoint:
        async with aclosing(retrying(endpoint, budget, count=lambda _: 100)) as model:
            await model.complete(CONVERSATION)
            await model.complete(CONVERSATION)
            with pytest.raises(BudgetSpent, match="next request could"):
                await model.complete(CONVERSATION)
    assert budget.spent.prompt == 600


@pytest.mark.parametrize(
    "budget", [Budget(max_tokens=35), Budget(max_usd=0.000025)], ids=["tokens", "usd"]
)
async def test_a_budget_holds_without_reported_usage(budget: Budget) -> None:
    """If a server reports no usage, our own counts are used."""
    with serving([completion("3", usage=None)]) as endpoint:
        async with aclosing(
            retrying(endpoint, budget, count=lambda asked: 2 * len(asked))
        ) as model:
            await model.complete(CONVERSATION)
            await model.complete(CONVERSATION)
            with pytest.raises(BudgetSpent, match="next request could"):
                await model.complete(CONVERSATION)
    assert (budget.spent.prompt, budget.spent.completion) == (20, 4)


LONG = {"prompt_tokens": 100, "completion_tokens": 3_000}


async def test_a_budget_holds_for_replies_beyond_the_limit() -> None:
    """However long the replies are, no request is sent that one as long as before would not allow."""
    budget = Budget(max_tokens=9_500)
    with serving([completion("3", usage=LONG)]) as endpoint:
        async with aclosing(retrying(endpoint, budget, count=lambda _: 100)) as model:
            asked = [model.complete(CONVERSATION) for _ in range(8)]
            replies = await asyncio.gather(*asked, return_exceptions=True)
    assert len(endpoint.requests) == 3
    assert budget.spent.total == 9_300
    assert sum(isinstance(each, BudgetSpent) for each in replies) == 5


async def test_the_first_request_of_a_limited_run_goes_alone() -> None:
    """Requests start together once a reply has shown how many tokens they take, if that matters."""
    for budget, alone in ((Budget(max_tokens=10**6), True), (Budget(), False)):
        with serving([replace(completion("3"), delay_s=0.2)]) as endpoint:
            async with aclosing(retrying(endpoint, budget)) as model:
                asked = asyncio.gather(*(model.complete(CONVERSATION) for _ in range(5)))
                await asyncio.sleep(0.1)
                assert budget.in_flight == (1 if alone else 5)
                await asyncio.sleep(0.2)
                assert not alone or budget.in_flight == 4
                await asked


@pytest.mark.parametrize("limit", [{"max_tokens": 1_000}, {"max_usd": 0.0005}])
async def test_a_limit_that_a_reply_passes(limit: dict[str, Any]) -> None:
    """A reply that takes more than could be expected stops the next request, which says so."""
    budget = Budget(**limit)
    usage = {"prompt_tokens": 900, "completion_tokens": 3_000}
    with serving([completion("3", usage=usage)]) as endpoint:
        async with aclosing(retrying(endpoint, budget)) as model:
            assert (await model.complete(CONVERSATION)).text == "3"
            with pytest.raises(BudgetSpent, match=r"more .*than expected"):
                await model.complete(CONVERSATION)
    assert budget.passed


async def test_attempts_without_a_usable_reply_are_paid() -> None:
    """Tokens of failed attempts count towards the budget and stay with the reply that follows."""
    budget, failed = Budget(max_tokens=10_000), completion("Ans", finish_reason="error")
    with serving([failed, failed, completion("3")]) as endpoint:
        async with aclosing(retrying(endpoint, budget)) as model:
            reply = await model.complete(CONVERSATION)
    assert (reply.usage.discarded_prompt, reply.usage.discarded_completion) == (200, 14)
    assert budget.spent.total == reply.usage.total == 3 * 107
    refused = Budget(max_tokens=250)
    with serving([failed]) as endpoint:
        async with aclosing(retrying(endpoint, refused)) as model:
            with pytest.raises(BudgetSpent):
                await model.complete(CONVERSATION)
        assert len(endpoint.requests) == 2


@given(st.lists(st.builds(Usage, *[st.integers(0, 10**6)] * 6)), st.floats(-9, 9))
def test_charges_add_up(usages: list[Usage], usd: float) -> None:
    """The tokens of a budget are those of all replies, and its cost never sinks."""
    budget, costs = Budget(), [0.0]
    for usage in usages:
        budget.add(usage, usd)
        costs.append(budget.usd)
    assert budget.spent.total == sum(usage.total for usage in usages)
    assert costs == sorted(costs)


REPORTS = st.lists(st.tuples(st.integers(1, 9_999), st.integers(1, 9_999)), min_size=1)


@given(reports=REPORTS, exact=st.booleans())
def test_prompt_bound(reports: list[tuple[int, int]], exact: bool) -> None:  # noqa: FBT001  drawn by hypothesis
    """The bound is at least the local count and every count reported so far, but not far above."""
    bound = PromptBound(len, exact=exact)
    assert bound.upper_bound(100) == (100 if exact else 100 * INITIAL_RATIO)
    for counted, reported in reports:
        bound.observe(counted, reported)
    for counted, reported in reports:
        assert bound.upper_bound(counted) >= max(counted, reported)
    highest = max(reported / counted for counted, reported in reports)
    assert bound.ratio <= max(1, SAFETY_MARGIN * highest)


def test_exact_counts_are_not_scaled() -> None:
    """An exact count that no reply exceeds is not scaled; a missing report changes nothing."""
    bound = PromptBound(len)
    for reported in (100, 97, 0):
        bound.observe(100, reported)
        assert bound.upper_bound(1_000) == 1_000
    estimated = PromptBound(len, exact=False)
    estimated.observe(100, 0)
    assert estimated.ratio == INITIAL_RATIO
