"""Tests of planning: its estimates match real runs, and its verdicts are right."""

import asyncio
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from builders import experiment, played
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Usage
from icl_loop.core.records import Turn
from icl_loop.core.tokens import CACHE_STEP, ESTIMATORS, REQUEST_TOKENS, count_messages
from icl_loop.experiment import Experiment, Session
from icl_loop.models import open_model
from icl_loop.planning import Plan, as_json, plan
from icl_loop.planning.cost_estimate import Job, makespan
from icl_loop.runner.run import Run
from icl_loop.server import ServerSettings, build_app, serving
from icl_loop.terminal.formatting import duration
from icl_loop.terminal.plan_tables import context_table, cost_table, plan_sentences
from icl_loop.transcripts import Transcript, read

PRICE = {"input": 3.0, "output": 12.0, "cached": 0.75}
MODEL = {"name": "reference/nearest"}
NOWHERE = "http://127.0.0.1:9/v1"
"""The address of an endpoint that receives no requests."""
SMALL_WINDOW = {"context_window": 3_000}
LADDER = [
    {"name": "feedback", "feedback": {"kind": "correctness"}},
    {"name": "none", "feedback": {"kind": "none"}},
]
CLEAR = [{"name": "label", "feedback": {"kind": "label"}}, LADDER[1]]
"""Arms between which every reference learner shows a large difference."""


def planned(made: Experiment, **options: Any) -> Plan:  # noqa: ANN401  options of plan
    """Return the plan of an experiment."""
    return asyncio.run(plan(made, **options))


async def run_served(
    out: Path,
    model: Mapping[str, Any],
    **changes: Any,  # noqa: ANN401  settings
) -> list[Transcript]:
    """Run an experiment against a local endpoint and return its sessions."""
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    with serving(build_app(models, settings=ServerSettings())) as base_url:
        made = experiment(model={**MODEL, **model, "base_url": base_url}, **changes)
        result = await Run(made, out).play()
    return [read(path) for path in result.paths]


ALONE: dict[str, dict[str, Any]] = {
    **{policy: {"context": {"policy": policy}} for policy in ("block", "within", "last(3)", "all")},
    "stateless": {"context": {"policy": "stateless"}},
    "reset": {"context": {"policy": "reset(6) | block"}},
    "redrawn": {"context": {"policy": "redrawn(0.4)"}},
    "parallel": {"context": {"policy": "parallel(3, 0.6) | block"}},
    "exemplars": {"context": {"exemplars": 1, "policy": "last(2)"}},
    "probed": {"probes": {"at": [0, 9], "count": 4}},
}


SENT = {
    "merged": {},
    "apart": {"merge_roles": False},
    "no system role": {"system_role": False},
}


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("kind", ALONE)
async def test_planned_tokens_match_endpoint(tmp_path: Path, kind: str, sent: str) -> None:
    """Planned tokens, including cached ones, equal those an endpoint reports."""
    model = {**SENT[sent], **({} if kind in ("all", "exemplars") else SMALL_WINDOW)}
    changes = {"streams": 1, "turns": 25, **ALONE[kind]}
    (transcript,) = await run_served(tmp_path, model, **changes)
    made = experiment(model={**MODEL, **model, "base_url": NOWHERE}, **changes)
    (arm,) = (await plan(made)).arms
    reported = usages(transcript)
    assert arm.cost.requests == len(reported) == 25 + len(transcript.probes)
    assert arm.cost.prompt == sum(usage.prompt for usage in reported)
    assert arm.cost.cached == sum(usage.cached for usage in reported)
    assert arm.cost.completion == sum(usage.completion for usage in reported)
    assert arm.context_use.most_shown == max(map(shown, transcript.turns))


async def test_jumping_windows_cost_the_cache() -> None:
    """A plan says that redrawn contexts hardly use the cache, and that parallel ones do."""
    arms = [
        {"name": name, "context": {"policy": policy}}
        for name, policy in (("redrawn", "redrawn(0.5)"), ("parallel", "parallel(4, 0.5)"))
    ]
    made = experiment(
        turns=100, streams=1, arms=arms, model={**MODEL, "base_url": NOWHERE}, price=PRICE
    )
    redrawn, parallel = [each.cost for each in (await plan(made, advised=False)).arms]
    assert redrawn.prompt == pytest.approx(parallel.prompt, rel=0.2)
    assert redrawn.cached < 0.15 * redrawn.prompt
    assert parallel.cached > 0.75 * parallel.prompt
    assert redrawn.usd is not None
    assert redrawn.usd_cached is not None
    assert parallel.usd_cached is not None
    assert redrawn.usd_cached > 0.9 * redrawn.usd
    assert parallel.usd_cached < 0.6 * redrawn.usd_cached


async def test_probes_with_other_verdicts_are_planned(tmp_path: Path) -> None:
    """Requests and tokens of counterfactual probes are planned as they are asked.

    What is planned as cached is shared with one of the last requests; an endpoint may remember more.
    """
    probes = {"at": [0, 9], "count": 2, "verdicts": ["told", "flipped", "shuffled", "removed"]}
    changes = {"streams": 1, "turns": 12, "probes": probes}
    (transcript,) = await run_served(tmp_path, SMALL_WINDOW, **changes)
    made = experiment(model={**MODEL, **SMALL_WINDOW, "base_url": NOWHERE}, **changes)
    (arm,) = (await plan(made)).arms
    reported = usages(transcript)
    assert arm.cost.requests == len(reported) == 12 + 2 + 4 * 2
    assert arm.cost.prompt == sum(usage.prompt for usage in reported)
    assert arm.cost.completion == sum(usage.completion for usage in reported)
    assert 0 < arm.cost.cached <= sum(usage.cached for usage in reported)


def usages(transcript: Transcript) -> list[Usage]:
    """Return the reported usage of every request in a session."""
    turns = [turn.reply.usage for turn in transcript.turns]
    return turns + [probe.reply.usage for probe in transcript.probes]


async def test_planned_cache_ignores_other_sessions(tmp_path: Path) -> None:
    """Planned and reported cached tokens differ at most by the system prompt of each session."""
    changes = {"streams": 3, "turns": 6}
    saved = await run_served(tmp_path, {}, **changes)
    made = experiment(model={**MODEL, "base_url": NOWHERE}, **changes)
    expense = (await plan(made)).cost
    reported = [usage for transcript in saved for usage in usages(transcript)]
    assert expense.prompt == sum(usage.prompt for usage in reported)
    frame = system_tokens(next(made.sessions()))
    assert 0 <= sum(usage.cached for usage in reported) - expense.cached <= 3 * frame


TOLD = {
    "delayed": {"delay": 3},
    "demonstrations": {"kind": "demonstrations"},
    "yoked": {"kind": "yoked", "donor": "feedback"},
}


@pytest.mark.parametrize("kind", TOLD)
async def test_planned_tokens_by_feedback(tmp_path: Path, kind: str) -> None:
    """Planned tokens are right for delayed, demonstrated and yoked feedback."""
    arms = [{"name": "feedback"}, {"name": kind, "feedback": TOLD[kind]}]
    saved = await run_served(tmp_path, {}, arms=arms)
    made = experiment(model={**MODEL, "base_url": NOWHERE}, arms=arms)
    for arm in (await plan(made, advised=False)).arms:
        mine = [transcript for transcript in saved if transcript.header.arm == arm.arm]
        reported = [usage for transcript in mine for usage in usages(transcript)]
        assert arm.cost.requests == len(reported) == 24
        assert arm.cost.prompt == sum(usage.prompt for usage in reported)
        assert arm.cost.cached <= sum(usage.cached for usage in reported)


def test_incomplete_donor() -> None:
    """Sessions yoked to incomplete donors make no requests, as in a run."""
    arms = [LADDER[0], {"name": "yoked", "feedback": TOLD["yoked"]}]
    full = experiment(turns=40, arms=arms, context={"policy": "all"}, model=SMALL_WINDOW)
    made = planned(full, advised=False)
    assert made.arms[1].cost.requests == 0
    assert made.can_show is False


def shown(turn: Turn) -> int:
    """Return the number of past turns in a request."""
    return sum(last - first + 1 for first, last in turn.kept)


def system_tokens(session: Session) -> int:
    """Return the tokens of a session's system prompt."""
    return count_messages(session.window.counter, [session.task.system])


def test_stateless_cache() -> None:
    """Stateless requests share only the system prompt, cached in steps of 128 tokens."""
    made = experiment(context={"policy": "stateless"})
    frame = system_tokens(next(made.sessions()))
    expense = planned(made).cost
    assert expense.cached == (expense.requests - 2) * (frame - frame % CACHE_STEP) > 0
    assert expense.prompt > expense.requests * (frame + REQUEST_TOKENS)


def test_cost() -> None:
    """Cost is tokens times price, with and without a cache."""
    model = {"name": "m", "base_url": NOWHERE}
    made = planned(experiment(model=model, price=PRICE, arms=CLEAR), advised=False)
    for each in (made.cost, *(arm.cost for arm in made.arms)):
        fresh = each.prompt - each.cached
        assert each.usd == pytest.approx((each.prompt * 3 + each.completion * 12) / 1e6)
        cached_price = fresh * 3 + each.cached * 0.75 + each.completion * 12
        assert each.usd_cached == pytest.approx(cached_price / 1e6)


def test_list_price() -> None:
    """Without a price in the file, the list price of the model applies."""
    expense = planned(experiment(model={"name": "gpt-4o-mini"})).cost
    assert expense.usd == pytest.approx((expense.prompt * 0.15 + expense.completion * 0.6) / 1e6)


def test_unknown_price() -> None:
    """Without a known price, cost is None and the plan says how to set one."""
    made = planned(experiment(model={"name": "my-own-model", "base_url": NOWHERE}))
    assert made.cost.prompt > 0
    assert made.cost.usd is made.cost.usd_cached is None
    assert any("my-own-model" in said and "[price]" in said for said in plan_sentences(made))


@pytest.mark.parametrize("encoding", ["grid", "article", "sparse"])
async def test_fits_matches_run(encoding: str) -> None:
    """The planned number of samples that fit equals that of a run, within one."""
    window = {"grid": 4_000, "article": 12_000, "sparse": 3_000}[encoding]
    made = experiment(
        turns=30,
        streams=1,
        task={"encoding": encoding},
        model={"context_window": window},
        context={"policy": "within"},
    )
    exposure = (await plan(made)).arms[0].context_use
    turns = await played(next(made.sessions()))
    assert abs(exposure.fits - shown(turns[-1])) <= 1
    assert exposure.most_shown == max(map(shown, turns)) < 29


def test_fits_is_extrapolated() -> None:
    """If all turns fit, the number that fit is extrapolated from their size."""
    wide = {"model": {"context_window": 100_000}}
    narrow = planned(experiment()).arms[0].context_use
    broad = planned(experiment(**wide)).arms[0].context_use
    assert narrow.most_shown == broad.most_shown == 11
    assert broad.fits == pytest.approx(narrow.fits * 100 / 32, rel=0.05)


def test_reply_tokens() -> None:
    """Longer replies cost more and leave less room for samples."""
    made = experiment(streams=1)
    short, long = planned(made), planned(made, reply_tokens=300)
    assert long.cost.completion == pytest.approx(300 * 12, rel=0.01)
    assert long.cost.prompt > short.cost.prompt + 11 * 12 / 2 * 280
    assert long.arms[0].context_use.fits < short.arms[0].context_use.fits / 2


def test_infeasible_design() -> None:
    """A design with too few samples in context is called infeasible, with advice."""
    small = {"task": {"encoding": "article", "size": 8}, "model": {"context_window": 7_000}}
    few, made = (
        planned(
            experiment(turns=turns, streams=streams, arms=LADDER, **small), advised=streams == 5
        )
        for turns, streams in ((30, 6), (50, 5))
    )
    assert few.can_show is made.can_show is False
    assert "cannot show learning" in few.verdict
    assert few.arms[0].context_use.fits < 25
    assert f"about {few.arms[0].context_use.fits} past samples fit" in few.verdict
    assert made.advice is not None
    assert made.advice.streams >= 6
    assert made.advice.power > 0.8
    assert any("helps most" in said for said in plan_sentences(made))


def test_feasible_design() -> None:
    """A feasible design is called feasible, without advice."""
    made = planned(experiment(turns=60, streams=8, arms=CLEAR, analysis={"effect": 0.3}))
    assert made.can_show
    assert "This design can show learning" in made.verdict
    assert made.advice is None
    found = made.detectability
    assert found is not None
    assert found.detectable is not None
    assert found.effect_power is not None
    assert 0 < found.detectable < found.difference
    assert (found.effect_power >= 0.8) == (found.detectable <= 0.3)


def test_effect_of_interest_unreachable() -> None:
    """A design whose reference learners stay below the effect of interest is infeasible."""
    made = experiment(turns=30, streams=6, arms=CLEAR, analysis={"effect": 0.99})
    more = planned(made, advised=False)
    assert more.detectability is not None
    assert more.detectability.detectable is not None
    assert more.detectability.difference > more.detectability.detectable
    assert more.can_show is False
    assert "difference of interest, 99 points" in more.verdict


def test_controls() -> None:
    """Controls differ from the first arm only in feedback: none, or yoked to that arm."""
    arms = [
        LADDER[0],
        {"name": "yoked", "feedback": TOLD["yoked"]},
        LADDER[1],
        {"name": "label", "feedback": {"kind": "label"}},
        {"name": "short", "feedback": {"kind": "none"}, "context": {"policy": "last(3)"}},
    ]
    primary = {"primary": ["feedback", "yoked"]}
    made = planned(experiment(turns=16, arms=arms, analysis=primary), advised=False)
    assert made.detectability is not None
    assert (made.detectability.first, made.detectability.second) == ("feedback", "yoked")
    assert [(each.first, each.second) for each in made.controls] == [("feedback", "none")]
    assert any("must also beat 'none'" in said for said in plan_sentences(made))
    assert made.joint is not None
    assert made.joint.contrasts == (("feedback", "yoked"), ("feedback", "none"))
    assert 0 <= made.joint.power <= 1


PROBED = {**LADDER[0], "probes": {"at": [16], "count": 2, "verdicts": ["told", "flipped"]}}


@pytest.mark.parametrize(
    ("arms", "lacking"),
    [
        (LADDER, "at most"),
        ([PROBED, LADDER[1]], "than with flipped verdicts"),
        ([{**LADDER[0], "context": {"policy": "stateless"}}, LADDER[1]], "cannot be"),
        ([LADDER[0], {"name": "yoked", "feedback": TOLD["yoked"]}], "cannot be"),
        ([LADDER[0], LADDER[1], {"name": "yoked", "feedback": TOLD["yoked"]}], ""),
        ([PROBED, {"name": "label", "feedback": {"kind": "label"}}], ""),
    ],
)
def test_what_controls_leave_open(arms: list[dict[str, Any]], lacking: str) -> None:
    """The plan finds the controls as the analysis does; probes with flipped verdicts are one."""
    made = planned(experiment(turns=16, arms=arms), advised=False)
    assert lacking in made.lacking
    assert bool(lacking) == bool(made.lacking)
    assert (made.lacking in plan_sentences(made)) == bool(lacking)
    assert [each.second for each in made.controls] == [arm["name"] for arm in arms[2:]]


def test_joint_power() -> None:
    """The joint power is at most that of each contrast, and a design with too little cannot show learning."""
    arms = [CLEAR[0], {"name": "yoked", "feedback": {"kind": "yoked", "donor": "label"}}, LADDER[1]]
    for turns in (24, 60):
        made = planned(experiment(turns=turns, streams=7, arms=arms), advised=False)
        assert made.joint is not None
        assert made.detectability is not None
        powers = [each.reference_power for each in (made.detectability, *made.controls)]
        assert len(powers) == 2
        assert made.joint.power <= min(powers) + 0.03
        assert made.joint.power >= sum(powers) - 1 - 0.03
        assert made.can_show is False or made.joint.power >= 0.8
        assert sum("at once" in said for said in plan_sentences(made)) >= 1


@pytest.mark.parametrize("streams", [5, 6])
def test_smallest_attainable_p(streams: int) -> None:
    """A plan states the smallest attainable p; no contrast is called testable if it is above .05."""
    other = {"name": "other", "model": {"name": "m", "base_url": NOWHERE}}
    for arms in (CLEAR, [{"name": "b"}, other]):
        made = planned(experiment(turns=30, streams=streams, arms=arms), advised=False)
        assert made.least_p == 2 ** (1 - streams)
        assert made.detectability is not None
        untestable = streams == 5
        assert (made.detectability.detectable is None) == untestable
        assert made.can_show is False or not untestable
        assert ("6 streams are needed" in made.verdict) == untestable


def test_single_arm() -> None:
    """A design with one arm has no verdict."""
    made = planned(experiment())
    assert made.can_show is None
    assert "one arm" in made.verdict


def test_arms_that_differ_in_model() -> None:
    """For arms that differ only in the model, feasibility is unknown."""
    arms = [{"name": "a", "model": {"name": "m", "base_url": NOWHERE}}, {"name": "b"}]
    made = planned(experiment(arms=arms, streams=6))
    assert made.can_show is None
    assert "differ only in the model" in made.verdict
    assert made.detectability is not None
    assert made.detectability.detectable is not None


def test_context_full_early() -> None:
    """A design whose context fills up before the second half is infeasible."""
    full = experiment(turns=40, arms=LADDER, context={"policy": "all"}, model=SMALL_WINDOW)
    made = planned(full, advised=False)
    assert made.can_show is False
    assert "is full after" in made.verdict
    assert made.arms[0].context_use.turns < 20
    assert made.arms[0].curves[0].late is None
    assert json.dumps(as_json(made), allow_nan=False)


def test_many_streams() -> None:
    """Beyond eight streams, eight are tried and scaled up."""
    few, many = planned(experiment(streams=8)), planned(experiment(streams=40))
    assert many.tried == 8
    assert many.cost.prompt == 5 * few.cost.prompt
    assert any("8 of 40 streams" in said for said in plan_sentences(many))


def test_small_dataset() -> None:
    """Trials use no more streams than the data set allows."""
    flowers = {"dataset": "iris", "encoding": "table"}
    long = {
        "turns": 147,
        "seed": 15,
        "streams": 1,
        "task": flowers,
        "context": {"policy": "stateless"},
    }
    with pytest.raises(InputError, match="play at most"):
        planned(experiment(**long))
    lasting = {**long, "turns": 146}
    assert planned(experiment(**lasting), advised=False).tried == 1


def test_plan_json() -> None:
    """Planning is deterministic, and its JSON contains no NaN."""
    first, second = (
        json.dumps(as_json(planned(experiment(arms=CLEAR, turns=30, streams=6))), allow_nan=False)
        for _ in range(2)
    )
    assert first == second


def test_duration() -> None:
    """Requests of a session run one after another; built-in models take no time."""
    model = {"name": "m", "base_url": NOWHERE}
    assert planned(experiment(model=model), latency_s=2.0).seconds == 24
    assert planned(experiment(model=model), latency_s=2.0, concurrency=1).seconds == 48
    paced = experiment(model=model, limits={"requests_per_minute": 6})
    assert planned(paced).seconds == 240
    assert planned(experiment()).seconds == 0


def test_an_assumed_time_is_stated() -> None:
    """A plan says which seconds per request its times assume, if there are any times."""
    slow = planned(experiment(model={"name": "m", "base_url": NOWHERE}), latency_s=2.5)
    assert sum("2.5 s per request (--latency)" in each for each in plan_sentences(slow)) == 1
    assert not any("--latency" in each for each in plan_sentences(planned(experiment())))


@given(lengths=st.lists(st.integers(0, 100), min_size=1), places=st.integers(1, 10))
def test_makespan_bounds(lengths: list[int], places: int) -> None:
    """A makespan is at least the longest job and an even share, and at most Graham's bound."""
    jobs = {("a", number, 0): Job(length) for number, length in enumerate(lengths)}
    span, even = makespan(jobs, places), sum(lengths) / places
    assert max(*lengths, even) <= span <= even + max(lengths)
    assert makespan(jobs, 1) == sum(lengths)


def test_makespan_with_donors() -> None:
    """A yoked session starts after its donor and occupies no slot before."""
    jobs = {("y", 0, 0): Job(3, ("d", 0, 0)), ("d", 0, 0): Job(5), ("n", 0, 0): Job(4)}
    assert makespan(jobs, 1) == 12
    assert makespan(jobs, 2) == makespan(jobs, 9) == 8


def test_tables() -> None:
    """Every arm has a row in both tables; unknown cost is a dash."""
    model = {"name": "my-own-model", "base_url": NOWHERE}
    made = planned(experiment(model=model, arms=CLEAR, streams=6), advised=False)
    console = Console(width=120, file=StringIO(), record=True)
    console.print(cost_table(made), context_table(made))
    text = console.export_text()
    assert all(text.count(f" {arm} ") == 2 for arm in ("label", "none"))
    assert f"{made.cost.prompt:,}" in text
    assert " – " in text


def test_duration_format() -> None:
    """Durations are shown in their two largest units."""
    assert [duration(each) for each in (0, 59.4, 60, 3599, 3600, 90_000)] == [
        *("0 s", "59 s", "1 min", "1 h 0 min", "1 h 0 min", "25 h 0 min")
    ]


def test_window_too_small() -> None:
    """A context window without room for a question is an error."""
    with pytest.raises(InputError, match="no room for one question"):
        planned(experiment(model={"context_window": 1_100}))


def test_first_request() -> None:
    """The first request counts the system prompt, the question and the request overhead."""
    made = experiment(streams=1, turns=1)
    (session,) = made.sessions()
    counted = count_messages(
        ESTIMATORS["o200k_base"], [session.task.system, session.task.question(0)]
    )
    expense = planned(made).cost
    assert Usage(expense.prompt, expense.cached) == Usage(counted + REQUEST_TOKENS, 0)
