"""The laws of what a session holds of its past, and of what it goes on from."""

import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import experiment
from icl_loop.context import (
    Chain,
    Held,
    Past,
    Policy,
    Shown,
    TokenTotals,
    Window,
    context_policy,
    shown_in,
)
from icl_loop.core.errors import ContextOverflow
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.core.tokens import ESTIMATORS, count_messages
from icl_loop.experiment import Session
from icl_loop.loop import events, hear, history_of
from icl_loop.models import ChatModel
from icl_loop.runner.engines import Saved, entries

MOVING = [
    "stateless",
    "last(3)",
    "within",
    "within(700)",
    "block",
    "block(1.0, 0.0)",
    "first",
    "first(4)",
    "notes(6, 60)",
    "reset(40)",
    "last(9) | block",
    "first(20) | last(3)",
    "notes(7, 60) | last(3)",
    "reset(40) | last(50) | within(900)",
]
FLAT = ["stateless", "within", "block", "first(4)", "notes(6, 60)", "reset(40) | last(9)"]
LOOKING_BACK = [
    "reservoir(5)",
    "last(30) | only_correct",
    "only_correct | last(3)",
    "first(9) | per_class(1)",
]


class Everything(Policy):
    """Lets everything pass and says nothing of what may be let go of."""

    def choose(self, past: Past) -> Shown:
        """Return the candidates."""
        return past.candidates


@dataclass
class Endpoint:
    """Answers as the request makes it, counts in its own way, and refuses what is too long."""

    rate: float = 1.0
    limit: float = float("inf")

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply with the tokens that are reported."""
        tokens = round(self.rate * count_messages(ESTIMATORS["o200k_base"], messages))
        if tokens > self.limit:
            raise ContextOverflow("too long")
        label = sum(len(message.text) for message in messages) % 10
        return Reply(f"Answer: {label}", usage=Usage(tokens))


def made(turns: int, policy: str, window: int = 3_000, **changes: Any) -> Session:  # noqa: ANN401  settings
    """Return a session in a small window."""
    table: dict[str, Any] = {"kind": "correctness", **changes.pop("feedback", {})}
    (chosen,) = experiment(
        turns=turns,
        streams=1,
        model={"name": "simulated/chance", "context_window": window},
        context={"policy": policy, "reserve": 200},
        feedback=table,
        **changes,
    ).sessions()
    return chosen


def playing(chosen: Session, model: ChatModel, begun: Sequence[Event] = ()) -> AsyncIterator[Event]:
    """Play what is left of a session."""
    return events(chosen.task, model, chosen.policy, chosen.window, begun)


@pytest.mark.parametrize("policy", [*MOVING, *LOOKING_BACK])
async def test_what_is_let_go_of_is_missed_by_nobody(policy: str) -> None:
    """A session sends the same requests whether or not it lets go of turns."""
    rate, delay = (0.8, 0) if len(policy) % 2 else (2.5, 2)
    chosen = made(80, policy, feedback={"delay": delay})
    kept = Chain((Everything(), *chosen.policy.parts))
    lets_go = [event async for event in playing(chosen, Endpoint(rate))]
    keeps = [each async for each in events(chosen.task, Endpoint(rate), kept, chosen.window)]
    assert [event.request for event in lets_go] == [event.request for event in keeps]
    assert [event.prefix for event in lets_go] == [event.prefix for event in keeps]


@pytest.mark.parametrize("policy", FLAT)
async def test_a_turn_that_is_never_shown_again_is_not_held(policy: str) -> None:
    """Late in a session no more of its turns and notes are alive than early."""
    chosen, alive = made(180, policy, window=2_000), list[int]()
    held: weakref.WeakSet[Turn] = weakref.WeakSet()
    async for event in playing(chosen, Endpoint()):
        if isinstance(event, Turn):
            held.add(event)
            alive.append(len(held))
    assert max(alive[90:]) <= max(alive[:90]) < 70


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=20), st.integers(1, 4))
def test_what_is_held_stands_where_it_stood(steps: list[tuple[int, int]], newest: int) -> None:
    """Whatever is let go of, what is needed keeps its place, and the rest is refused in words."""
    held, length, least = Held[str](), 0, 0
    for added, moved in steps:
        for place in range(length, length + added):
            held.append(str(place))
        length, least = length + added, min(least + moved, length + added)
        held.hold(partial(range, least, length), newest)
        assert len(held) == length
        for place in [*range(least, length), *range(max(0, length - newest), length)]:
            assert held[place] == held[place - length] == str(place)
    gone = [place for place in range(length) if _is_gone(held, place)]
    assert gone == list(range(len(gone)))
    with pytest.raises(IndexError):
        held[length]


def _is_gone(held: Held[str], place: int) -> bool:
    try:
        return held[place] != str(place)
    except LookupError as error:
        return "was let go of" in str(error)


def test_an_endpoint_that_counts_next_to_nothing_leaves_a_window() -> None:
    """However few tokens an endpoint says a long request had, the window stays a finite number."""
    tally = TokenTotals(Window(), 0)
    tally.ratios.append(1 / 1_000_000)
    assert 0 < tally.budget(0) < 10**9


# ---- going on ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["within", "block", "reservoir(None)", "notes(12, 60) | within"])
async def test_a_refusal_is_remembered_by_whoever_goes_on(policy: str) -> None:
    """Begun after any of its turns or resumed there, a session asks what it would have asked uncut.

    The endpoint refuses what is longer than it says it can read.
    """
    chosen, model = made(24, policy, window=6_000), Endpoint(limit=1_800)
    whole = [event async for event in playing(chosen, model)]
    assert sum(event.overflows for event in whole) > 0
    for cut in range(len(whole) + 1):
        rest = [event async for event in playing(chosen, model, whole[:cut])]
        assert [untimed(event) for event in rest] == [untimed(event) for event in whole[cut:]]


@dataclass
class Leaping:
    """Answers as `Endpoint` does, but counts one request in some thirty ten times over."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply with the tokens that are reported."""
        leaps = sum(len(message.text) for message in messages) % 31 == 0
        return await Endpoint(5.0 if leaps else 0.5).complete(messages)


@pytest.mark.parametrize("policy", ["within", "block", "block(1.0, 0.0)"])
async def test_counts_that_leap_leave_a_session_that_goes_on(policy: str) -> None:
    """Where windows shrink to a tenth and grow again, what is gone on with is what was never cut."""
    chosen = made(120, policy, window=6_000)
    whole = [event async for event in playing(chosen, Leaping())]
    shown = [len(shown_in(event.kept)) for event in whole]
    assert max(shown) > 4 * min(shown[40:])
    for cut in (0, 45, 90):
        rest = [event.request async for event in playing(chosen, Leaping(), whole[:cut])]
        assert rest == [event.request for event in whole[cut:]]


async def test_probes_know_what_was_refused() -> None:
    """Probes of a session cut anywhere are those of the session uncut, and are refused no longer request."""
    probing = {"count": 2, "at": [4, 14, 20]}
    chosen, model = made(20, "within", window=6_000, probes=probing), Endpoint(limit=1_800)
    whole = [entry async for entry in entries(chosen, Saved(), model)]
    asked = [entry for entry in whole if isinstance(entry, Probe)]
    assert len(asked) == 6
    assert sum(entry.overflows for entry in whole if isinstance(entry, Turn)) > 0
    for cut in range(0, len(whole) + 1, 5):
        saved = Saved()
        for entry in whole[:cut]:
            saved = saved.and_then(entry)
        again = [each async for each in entries(chosen, saved, model)]
        probed = [each for each in again if isinstance(each, Probe)]
        assert list(map(untimed, probed)) == list(map(untimed, asked[len(saved.probes) :]))


async def test_a_policy_that_would_have_shown_less_is_not_bound_by_it() -> None:
    """A branch under another policy may ask for at least as much as was answered before."""
    chosen = made(24, "within", window=6_000)
    whole = [event async for event in playing(chosen, Endpoint(limit=1_800))]
    for text in ("stateless", "all"):
        history = history_of(chosen.task, context_policy(text), chosen.window)
        for event in whole:
            hear(history, context_policy(text), event)
        refused = [event.counted or 0 for event in whole if event.overflows]
        assert history.tally.limit >= refused[-1]


def untimed(entry: Event | Probe) -> Event | Probe:
    """Return what was played without when and how fast."""
    return replace(entry, reply=replace(entry.reply, at=None, latency_s=None))
