"""What-if shows what a policy would have shown, without any request."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import altair as alt
import numpy as np
import pytest

from builders import experiment, play_on, session
from icl_loop.cli.what_if import what_if_table
from icl_loop.context.policy_parser import POLICIES, context_policy
from icl_loop.context.window import from_spans
from icl_loop.core.errors import ContextFull, ContextOverflow, InputError
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Event, Note, Turn
from icl_loop.core.tokens import ESTIMATORS, count_messages
from icl_loop.experiment import PriceSettings, Session
from icl_loop.models import ChatModel, ScriptedModel
from icl_loop.plots import save, what_if_chart
from icl_loop.replay.policy_summary import (
    RequestContents,
    policy_summaries,
    request_contents,
    turns_of,
)
from icl_loop.replay.verification import verify
from icl_loop.replay.what_if import as_played, shown_under
from icl_loop.terminal.formatting import percent
from icl_loop.transcripts import Transcript
from icl_loop.transcripts.header import SourceIdentity
from terminal_text import HOSTILE, is_plain, shown

TURNS = 30
SMALL = {"name": "reference/nearest", "context_window": 4_000}
POLICY_TEXTS = (
    "all",
    "stateless",
    "last(5)",
    "within(900)",
    "block",
    "block(0.9, 0.3)",
    "first",
    "first(4)",
    "only_correct",
    "only_incorrect | last(3)",
    "stochastic(0.4)",
    "only_correct | redrawn(0.4)",
    "parallel(3, 0.4)",
    "parallel(2) | block(0.9, 0.3)",
    "reservoir",
    "reservoir(6)",
    "per_class(1)",
    "nearest(4)",
    "reset(11)",
    "only_correct | stochastic | nearest(3)",
    "reset(9) | block",
)
EACH_POLICY = pytest.mark.parametrize("text", POLICY_TEXTS)


async def saved(chosen: Session, model: ChatModel | None = None) -> Transcript:
    """Play a session and return its transcript."""
    playing = play_on(chosen, model)
    entries = list[Event]()
    with suppress(ContextFull):
        async for event in playing:
            entries.append(event)
    turns = tuple(event for event in entries if isinstance(event, Turn))
    notes = tuple(event for event in entries if isinstance(event, Note))
    return Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0, notes=notes)


@dataclass
class Endpoint:
    """Answers like another model, counts tokens differently and rejects long requests."""

    model: ChatModel
    limit: int = 1_000_000

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply with the reported tokens."""
        tokens = round(1.17 * count_messages(ESTIMATORS["o200k_base"], messages))
        if tokens > self.limit:
            raise ContextOverflow("too long")
        return replace(await self.model.complete(messages), usage=Usage(tokens))


def test_every_policy_is_tested() -> None:
    """Every policy that does not need the model is among those tested here."""
    named = {part.split("(")[0].strip() for text in POLICY_TEXTS for part in text.split("|")}
    assert named == POLICIES.keys() - {"notes"}


# ---- the policy that was played ----------------------------------------------------------


@EACH_POLICY
async def test_the_played_policy_changes_nothing(text: str) -> None:
    """Under the policy it was played with, a session is unchanged."""
    kinds: list[dict[str, Any]] = [{}, {"model": SMALL, "feedback": "correctness"}]
    for changes in kinds:
        played = await saved(session(TURNS, policy=text, **changes))
        again = shown_under(played, context_policy(text))
        assert again.turns == played.turns
        assert again.header == played.header


@EACH_POLICY
async def test_the_token_counts_of_the_endpoint_are_used(text: str) -> None:
    """A session is unchanged even if the endpoint counts differently and rejects requests."""
    chosen = session(TURNS, policy=text, model=SMALL)
    played = await saved(chosen, Endpoint(chosen.open_model(), 2_600))
    assert shown_under(played, context_policy(text)).turns == played.turns
    assert len({turn.calibration for turn in played.turns}) > 1


async def test_rejected_requests_limit_other_policies() -> None:
    """After a rejected request, no other policy shows a longer request than was accepted."""
    chosen = session(TURNS, policy="last(20)", model=SMALL)
    played = await saved(chosen, Endpoint(chosen.open_model(), 2_600))
    assert any(turn.overflows for turn in played.turns)
    assert shown_under(played, context_policy("last(20)")).turns == played.turns
    most = max(turn.counted or 0 for turn in played.turns)
    other = shown_under(played, context_policy("within"))
    since = next(turn.index for turn in played.turns if turn.overflows)
    assert all((turn.counted or 0) <= most for turn in other.turns[since:])


@pytest.mark.parametrize(
    "changes",
    [
        {"feedback": "none"},
        {"feedback": "demonstrations"},
        {"encoding": "png"},
        {"prompts": "plain-ja"},
        {"labels": "abstract"},
        {"swap_at": 7},
    ],
    ids=str,
)
async def test_sessions_of_every_kind_are_unchanged(changes: dict[str, Any]) -> None:
    """A session is unchanged under its own policy for any feedback, encoding, prompts or labels."""
    for text in ("per_class(2)", "nearest(5)", "only_correct | block"):
        played = await saved(session(TURNS, policy=text, **changes))
        assert shown_under(played, context_policy(text)).turns == played.turns


async def test_rescored_sessions_keep_their_rule() -> None:
    """A rescored session is replayed with the answer rule that it was played with."""
    (chosen,) = experiment(
        turns=TURNS,
        streams=1,
        context={"policy": "per_class(1)"},
        feedback={"kind": "correctness"},
        answers={"rule": "last"},
    ).sessions()
    played = await saved(chosen, ScriptedModel(["It may be a 4, but rather a 3, I think"] * TURNS))
    assert any(turn.kept for turn in played.turns)
    assert shown_under(played, chosen.policy).turns == played.turns
    settings = {**played.header.settings, "answers": {"rule": "strict"}}
    source = SourceIdentity(
        id="", sha256="", experiment="", settings=played.header.settings, icl_loop=""
    )
    header = played.header.model_copy(update={"settings": settings, "source": source})
    assert shown_under(replace(played, header=header), chosen.policy).turns == played.turns


# ---- other policies ----------------------------------------------------------------------


@EACH_POLICY
async def test_what_if_equals_playing_under_the_policy(text: str) -> None:
    """For a model that ignores the context, what-if equals playing under the other policy."""
    lines = [f"Answer: {turn * 7 % 10}" for turn in range(TURNS)]
    before = await saved(session(TURNS, policy="last(2)", model=SMALL), ScriptedModel(lines))
    other = await saved(session(TURNS, policy=text, model=SMALL), ScriptedModel(lines))
    assert without_times(shown_under(before, context_policy(text))) == without_times(other)


def without_times(transcript: Transcript) -> list[Turn]:
    """Return the turns without their times."""
    return [
        replace(turn, reply=replace(turn.reply, latency_s=None, at=None))
        for turn in transcript.turns
    ]


async def test_the_result_verifies() -> None:
    """A session under another policy can be verified like a saved one."""
    played = await saved(session(TURNS, feedback="correctness"))
    for text in POLICY_TEXTS:
        other = shown_under(played, context_policy(text))
        assert await verify(other) == len(other.turns)
        assert other.header.settings["context"]["policy"] == str(context_policy(text))


async def test_the_session_ends_where_the_window_is_full() -> None:
    """Where the turns that a policy requires do not fit, the session ends as context_full."""
    played = await saved(session(TURNS, model=SMALL))
    full = shown_under(played, context_policy("all"))
    assert 5 < len(full.turns) < TURNS
    assert full.end is not None
    assert (full.end.status, full.end.turns) == ("context_full", len(full.turns))
    assert shown_under(played, context_policy("last(3)")).end == played.end


async def test_missing_token_counts_are_added() -> None:
    """A session saved without token counts gets them; others stay as they are."""
    played = await saved(session(9, policy="last(3)"))
    assert as_played(played) is played
    old = replace(
        played, turns=tuple(replace(turn, counted=None, prefix=None) for turn in played.turns)
    )
    assert as_played(old).turns == played.turns


async def test_token_counts_are_of_the_turns_shown() -> None:
    """Missing counts are computed from the turns shown, even if the policy would choose others."""
    played = await saved(session(TURNS, policy="last(5)"))
    uncounted = tuple(replace(turn, counted=None, prefix=None) for turn in played.turns)
    context = {**played.header.settings["context"], "policy": "stateless"}
    settings = {**played.header.settings, "context": context}
    header = played.header.model_copy(update={"settings": settings})
    assert as_played(replace(played, header=header, turns=uncounted)).turns == played.turns


async def test_notes_need_the_model() -> None:
    """A policy with notes is rejected, because only the model can write them."""
    played = await saved(session(3))
    with pytest.raises(InputError, match=r"notes\(every=5, tokens=500\) \| last.*needs the model"):
        shown_under(played, context_policy("notes(5) | last"))


async def test_nearest_reads_table_rows() -> None:
    """What-if finds the most similar table rows without the data set, as playing does."""
    lines = [f"Answer: {turn}" for turn in range(TURNS)]
    iris: dict[str, Any] = {"dataset": "iris", "encoding": "table"}
    before = await saved(session(TURNS, policy="last(2)", **iris), ScriptedModel(lines))
    other = await saved(session(TURNS, policy="nearest(3)", **iris), ScriptedModel(lines))
    again = shown_under(before, context_policy("nearest(3)"))
    assert without_times(again) == without_times(other)


async def test_invalid_settings_are_rejected() -> None:
    """An invalid recorded setting gives an error that names file and key."""
    played = await saved(session(2))
    task = {**played.header.settings["task"], "size": "large"}
    header = played.header.model_copy(update={"settings": {**played.header.settings, "task": task}})
    with pytest.raises(InputError, match=r"a-0\.jsonl: recorded settings, task\.size"):
        shown_under(replace(played, header=header), context_policy("last"))


# ---- contents of requests ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["block", "last(4)", "reservoir(6)", "notes(5)", "stateless"])
async def test_the_baseline_equals_playing_the_learner(text: str) -> None:
    """The baseline of a session that its learner played is the session's own score."""
    played = await saved(session(TURNS, policy=text))
    requests = await request_contents(played, played=True)
    assert requests.right.tolist() == [turn.feedback.correct for turn in played.turns]


@pytest.mark.parametrize("feedback", ["label", "correctness", "none"])
async def test_classes_are_counted(feedback: str) -> None:
    """Turns shown are counted by correct label and by told label."""
    played = await saved(session(TURNS, policy="last(7)", feedback=feedback))
    requests = await request_contents(played)
    for turn in played.turns:
        past = [played.turns[index] for index in from_spans(turn.kept)]
        told = past if feedback == "label" else [each for each in past if each.feedback.correct]
        told = [] if feedback == "none" else told
        for counted, expected in ((requests.shown, past), (requests.told, told)):
            labels = [each.label for each in expected]
            assert counted[turn.index].tolist() == [
                labels.count(label) for label in played.header.labels
            ]
    assert requests.exposure.tolist() == [len(from_spans(turn.kept)) for turn in played.turns]
    assert requests.tokens.tolist() == [turn.counted for turn in played.turns]
    assert requests.prefix.tolist() == [turn.prefix for turn in played.turns]


# ---- summaries ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several() -> list[RequestContents]:
    """Two streams of an arm, as played and under two other policies."""

    async def made() -> list[RequestContents]:
        found = []
        for stream in (0, 1):
            played = await saved(session(TURNS, stream))
            found.append(await request_contents(played, played=True))
            for text in ("last(3)", "stateless"):
                found.append(await request_contents(shown_under(played, context_policy(text))))  # noqa: PERF401
        return found

    return asyncio.run(made())


def test_sessions_of_an_arm_are_averaged(several: list[RequestContents]) -> None:
    """A summary is the mean over the sessions of an arm."""
    rows = policy_summaries(several)
    assert [(row.played, row.policy, row.sessions) for row in rows] == [
        (True, "block(high=1.0, low=0.5)", 2),
        (False, "last(n=3)", 2),
        (False, "stateless", 2),
    ]
    for place, row in enumerate(rows):
        sessions = several[place], several[place + 3]
        assert row.tokens == pytest.approx(np.mean([each.tokens for each in sessions]))
        assert row.largest == max(each.tokens.max() for each in sessions)
        shares = [each.prefix.sum() / each.tokens.sum() for each in sessions]
        assert row.prefix_share == pytest.approx(np.mean(shares))
        assert row.exposure == pytest.approx(np.mean([each.exposure for each in sessions]))
        assert sum(row.shown_by_class.values()) == pytest.approx(row.exposure)
        late = [each.right[TURNS // 2 :].mean() for each in sessions]
        assert row.baseline_late.mean == pytest.approx(np.mean(late))
    assert rows[2].exposure == rows[2].classes == 0
    assert rows[1].exposure == pytest.approx((0 + 1 + 2 + 27 * 3) / TURNS)


def test_the_cost_of_each_policy(several: list[RequestContents]) -> None:
    """Cost is the mean over sessions of all tokens, with the prefix at the price of cached ones."""
    price = PriceSettings(input=3.0, output=12.0, cached=0.5)
    assert all(row.usd is row.usd_prefix is None for row in policy_summaries(several))
    rows = policy_summaries(several, price)
    for place, row in enumerate(rows):
        sessions = several[place], several[place + 3]
        tokens, prefix, replies = [
            np.mean([getattr(each, of).sum() for each in sessions])
            for of in ("tokens", "prefix", "completion")
        ]
        assert row.usd == pytest.approx((3 * tokens + 12 * replies) / 1e6)
        assert row.usd_prefix == pytest.approx((3 * tokens - 2.5 * prefix + 12 * replies) / 1e6)
    text = shown(what_if_table(rows, "reference/nearest"), 120)
    assert all(f"{row.usd:.2f}" in text for row in rows)


def test_summaries_are_json(several: list[RequestContents]) -> None:
    """Summaries can be written as JSON; two sessions have no interval."""
    rows = json.loads(json.dumps([row.fields() for row in policy_summaries(several)]))
    assert [row["policy"] for row in rows][1:] == ["last(n=3)", "stateless"]
    assert rows[0]["baseline_late_ci"] is None
    assert 0 <= rows[0]["baseline_late"] <= 1


def test_the_table_has_a_row_per_policy(several: list[RequestContents]) -> None:
    """The table marks the policy that was played, and prints control characters harmlessly."""
    rows = policy_summaries(several)
    text = shown(what_if_table([*rows, replace(rows[0], arm=HOSTILE)], "reference/nearest"), 160)
    assert is_plain(text)
    lines = text.splitlines()
    assert sum("* block(high=1.0, low=0.5)" in line for line in lines) == 2
    [last] = [line for line in lines if "last(n=3)" in line]
    assert f"{rows[1].tokens:,.0f}" in last.split()
    assert f"{rows[1].prefix_share:.0%}" in last.split()


def test_a_narrow_table_shows_every_number(several: list[RequestContents]) -> None:
    """A table of eighty columns shows every number in full."""
    rows = [replace(row, tokens=31_234.0, largest=131_072) for row in policy_summaries(several)]
    text = shown(what_if_table(rows, "reference/nearest"), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for row in rows:
        words = (f"{row.tokens:,.0f}", f"{row.largest:,}", f"{row.prefix_share:.0%}")
        assert {*words, *percent(row.baseline_late).split()} <= set(text.split())


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_the_chart_names_its_policies(
    several: list[RequestContents], tmp_path: Path, ending: str
) -> None:
    """The chart names its policies and panels."""
    chart = what_if_chart(turns_of(several), "reference/nearest", window=5)
    file = tmp_path / f"chart.{ending}"
    save(cast("alt.LayerChart", chart), file)
    text = file.read_text()
    for words in ("as played", "last(n=3)", "stateless", "cacheable share", "small / feedback"):
        assert words in text


def test_the_chart_draws_means(several: list[RequestContents]) -> None:
    """Lines are means over sessions per turn, or shares of a window, placed at its middle."""
    chart = what_if_chart(turns_of(several), "reference/nearest", 10).to_dict()
    [panels] = [row["hconcat"] for row in chart["vconcat"]]
    drawn = [panel.get("data") or panel["layer"][0]["data"] for panel in panels]
    tokens, share, exposure, baseline = (
        [point for point in chart["datasets"][data["name"]] if point["name"] == "last(n=3)"]
        for data in drawn
    )
    sessions = several[1], several[4]
    for points, of in ((tokens, "tokens"), (exposure, "exposure")):
        expected = np.mean([getattr(each, of) for each in sessions], axis=0)
        assert [point["turn"] for point in points] == list(range(1, TURNS + 1))
        assert [point["value"] for point in points] == pytest.approx(expected)
    middles = [5.5 + turn for turn in range(TURNS - 9)]
    for points, above, below in ((share, "prefix", "tokens"), (baseline, "right", None)):
        assert [point["turn"] for point in points] == middles
        for first, point in enumerate(points):
            window = slice(first, first + 10)
            over = sum(getattr(each, above)[window].sum() for each in sessions)
            under = sum(getattr(each, below)[window].sum() if below else 10 for each in sessions)
            assert point["value"] == pytest.approx(over / under)


def test_an_empty_chart_is_rejected(several: list[RequestContents]) -> None:
    """A chart without turns, or with an empty window, is rejected."""
    with pytest.raises(InputError, match="no turns"):
        what_if_chart(turns_of(several).clear(), "reference/nearest")
    with pytest.raises(InputError, match="at least 1"):
        what_if_chart(turns_of(several), "reference/nearest", 0)
