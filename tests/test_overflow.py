"""Windows as the endpoint counts them: calibration, and requests that it rejects as too long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from builders import experiment, play_on
from icl_loop.analysis import conclude
from icl_loop.analysis.frame import tabulate
from icl_loop.context.calibration import HIGHEST, LOWEST, Calibration
from icl_loop.context.window import from_spans
from icl_loop.core.errors import ContextOverflow
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.core.tokens import ESTIMATORS, IMAGE_TOKENS, count_messages
from icl_loop.experiment import Session
from icl_loop.runner.session import play_session


@dataclass
class Endpoint:
    """Answers as a function of the request, counts in its own way, and rejects long requests.

    It reports `jump` times as many tokens for every thirtieth request.
    """

    rate: float = 1.0
    limit: float = float("inf")
    jump: float = 1.0
    answered: int = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply with the reported tokens."""
        characters = sum(len(message.text) for message in messages)
        tokens = self.rate * count_messages(ESTIMATORS["o200k_base"], messages)
        if self.answered % 30 == 29:
            tokens *= self.jump
        if tokens > self.limit:
            raise ContextOverflow("too long")
        self.answered += 1
        return Reply(f"Answer: {characters % 10}", usage=Usage(round(tokens)))


def made(turns: int, policy: str, **changes: Any) -> Session:  # noqa: ANN401  settings
    """Return a session in a small window."""
    (chosen,) = experiment(
        turns=turns,
        streams=1,
        model={"name": "simulated/chance", "context_window": 6_000},
        context={"policy": policy, "reserve": 200},
        feedback={"kind": "correctness"},
        **changes,
    ).sessions()
    return chosen


def untimed(entry: Event | Probe) -> Event | Probe:
    """Return an entry without its time and latency."""
    return replace(entry, reply=replace(entry.reply, at=None, latency_s=None))


def suspicions(events: Sequence[Event]) -> list[str]:
    """Return the caveats that prompts may have been cut."""
    turns = [event for event in events if isinstance(event, Turn)]
    warnings = conclude(tabulate({("low", 0): turns}, chance=0.1)).warnings
    return [each for each in warnings if "fewer tokens" in each]


def test_calibration_is_bounded() -> None:
    """Calibration stays in a sensible range whatever is reported, and is 1 if the counts agree."""
    calibration = Calibration()
    assert calibration.value == 1
    calibration.add(1, 1_000_000)
    assert calibration.value == pytest.approx(LOWEST, rel=0.05)
    calibration.add(1_001, 1_000)
    assert calibration.value == 1
    calibration.add(10**9, 1_000)
    assert calibration.value == pytest.approx(HIGHEST, rel=0.05)
    pictures = Calibration()
    pictures.add(200, 100 + IMAGE_TOKENS, IMAGE_TOKENS)
    assert pictures.value == pytest.approx(200 / (100 + IMAGE_TOKENS), rel=0.05)


@pytest.mark.parametrize(
    "report",
    [
        lambda first, _: first or 60,  # only what the cache does not hold
        lambda _, tokens: min(tokens, 900),  # cut at 900
        lambda _, tokens: min(tokens, 900 - tokens % 90),  # whole messages are cut
    ],
)
@pytest.mark.parametrize("policy", ["within", "block", "last(20) | within"])
async def test_the_window_is_kept_if_reports_are_too_low(
    report: Callable[[int, int], int], policy: str
) -> None:
    """No request passes the window that the first report justifies, whatever is reported later."""
    chosen, sizes = made(60, policy), list[int]()

    class Low:
        async def complete(self, messages: Sequence[Message]) -> Reply:
            sizes.append(round(1.5 * count_messages(ESTIMATORS["o200k_base"], messages)))
            return Reply("Answer: 3", usage=Usage(report(sizes[0] * (len(sizes) == 1), sizes[-1])))

    events = [event async for event in play_on(chosen, Low())]
    assert max(sizes) <= 1.05 * (6_000 - 200)
    (warning,) = suspicions(events)
    assert "arm 'low'" in warning


async def test_honest_reports_raise_no_suspicion() -> None:
    """Counts that differ from ours, or jump, are no sign of cut prompts, unless they are far lower."""
    for model in (Endpoint(rate=0.6), Endpoint(jump=10), Endpoint(rate=3)):
        events = [event async for event in play_on(made(60, "within"), model)]
        assert suspicions(events) == []
    always = [event async for event in play_on(made(9, "within"), Endpoint(rate=0.2))]
    assert len(suspicions(always)) == 1


@pytest.mark.parametrize("policy", ["within", "block", "reservoir(None)", "notes(12, 60) | within"])
async def test_the_limit_is_recorded_where_a_request_was_rejected(policy: str) -> None:
    """After a rejection no request exceeds the limit recorded with it, in resumed sessions as well."""
    chosen, model = made(24, policy), Endpoint(limit=1_800)
    whole = [event async for event in play_on(chosen, model)]
    assert [event.limit is not None for event in whole] == [event.overflows > 0 for event in whole]
    limits = [event.limit for event in whole if event.limit is not None]
    assert limits
    last = max(place for place, event in enumerate(whole) if event.limit is not None)
    assert all(event.counted and event.counted <= limits[-1] for event in whole[last:])
    for cut in range(len(whole) + 1):
        rest = [event async for event in play_on(chosen, model, whole[:cut])]
        assert [untimed(event) for event in rest] == [untimed(event) for event in whole[cut:]]


async def test_a_session_saved_without_limits_can_be_continued() -> None:
    """If an older transcript records rejections but no limit, the accepted request sets it."""
    chosen, model = made(24, "within"), Endpoint(limit=1_800)
    whole = [event async for event in play_on(chosen, model)]
    older = [replace(event, limit=None) for event in whole[:20]]
    accepted = [event.counted or 0 for event in older if event.overflows]
    rest = [event async for event in play_on(chosen, model, older)]
    assert all(event.counted and event.counted <= accepted[-1] for event in rest)
    assert not any(event.overflows for event in rest)


@pytest.mark.parametrize("policy", ["within", "block", "block(1.0, 0.0)"])
async def test_resume_equals_uninterrupted_if_reported_tokens_jump(policy: str) -> None:
    """A resumed session equals the uninterrupted one even if its window shrinks to a tenth and grows."""
    chosen = made(120, policy)
    whole = [event async for event in play_on(chosen, Endpoint(rate=0.5, jump=10))]
    shown = [len(from_spans(event.kept)) for event in whole]
    assert max(shown) > 4 * min(shown[40:])
    for cut in (45, 90):
        model = Endpoint(rate=0.5, jump=10, answered=cut)
        rest = [event.request async for event in play_on(chosen, model, whole[:cut])]
        assert rest == [event.request for event in whole[cut:]]


async def test_probes_keep_the_limit() -> None:
    """Probes of a resumed session equal those of the uninterrupted one, and keep its limit."""
    probing = {"count": 2, "at": [4, 14, 20]}
    chosen, model = made(20, "within", probes=probing), Endpoint(limit=1_800)
    whole = [entry async for entry in play_session(chosen, (), model)]
    asked = [entry for entry in whole if isinstance(entry, Probe)]
    assert len(asked) == 6
    assert sum(entry.overflows for entry in whole if isinstance(entry, Turn)) > 0
    for cut in range(0, len(whole) + 1, 5):
        again = [each async for each in play_session(chosen, whole[:cut], model)]
        probed = [each for each in again if isinstance(each, Probe)]
        saved = sum(isinstance(each, Probe) for each in whole[:cut])
        assert list(map(untimed, probed)) == list(map(untimed, asked[saved:]))
