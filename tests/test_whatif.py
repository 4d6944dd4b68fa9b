"""The laws of what-if: it shows what a policy would have shown, and asks nobody."""

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
from icl_loop.context import POLICIES, context_policy, from_spans
from icl_loop.core.errors import ContextFull, ContextOverflow, InputError
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Note, Turn
from icl_loop.core.tokens import ESTIMATORS, count_messages
from icl_loop.experiment import Session
from icl_loop.models import ChatModel, ScriptedModel
from icl_loop.plots import save, what_if_chart
from icl_loop.replay.verification import verify
from icl_loop.replay.what_if import (
    RequestContents,
    as_json,
    as_played,
    policy_summaries,
    request_contents,
    shown_under,
    turns_of,
)
from icl_loop.terminal.formatting import percent
from icl_loop.terminal.what_if_tables import what_if_table
from icl_loop.transcripts import SourceIdentity, Transcript
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
    """Return a session as it would be read once it was played."""
    playing = play_on(chosen, model)
    went: list[Turn | Note] = []
    with suppress(ContextFull):
        async for event in playing:
            went.append(event)  # noqa: PERF401  what came before the window was full is kept
    turns = tuple(event for event in went if isinstance(event, Turn))
    notes = tuple(event for event in went if isinstance(event, Note))
    return Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0, notes=notes)


@dataclass
class Endpoint:
    """Answers as another model does, counts tokens in its own way and refuses what is too long."""

    model: ChatModel
    limit: int = 1_000_000

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply with the tokens that are reported."""
        tokens = round(1.17 * count_messages(ESTIMATORS["o200k_base"], messages))
        if tokens > self.limit:
            raise ContextOverflow("too long")
        return replace(await self.model.complete(messages), usage=Usage(tokens))


def test_every_policy_is_tried() -> None:
    """These laws are stated of every policy that does not need the model."""
    named = {part.split("(")[0].strip() for text in POLICY_TEXTS for part in text.split("|")}
    assert named == POLICIES.keys() - {"notes"}


# ---- what was played ---------------------------------------------------------------------


@EACH_POLICY
async def test_what_was_played_is_what_would_have_been(text: str) -> None:
    """The policy that was played, given as what-if, shows exactly what was shown at every turn."""
    kinds: list[dict[str, Any]] = [{}, {"model": SMALL, "feedback": "correctness"}]
    for changes in kinds:
        played = await saved(session(TURNS, policy=text, **changes))
        again = shown_under(played, context_policy(text))
        assert again.turns == played.turns
        assert again.header == played.header


@EACH_POLICY
async def test_what_an_endpoint_says_of_its_window_is_kept(text: str) -> None:
    """What was played is met again where an endpoint counts otherwise and refuses requests."""
    chosen = session(TURNS, policy=text, model=SMALL)
    played = await saved(chosen, Endpoint(chosen.open_model(), 2_600))
    assert shown_under(played, context_policy(text)).turns == played.turns
    assert len({turn.calibration for turn in played.turns}) > 1


async def test_refusals_are_met_again() -> None:
    """A request that was refused as too long is refused again, and later ones are as short."""
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
async def test_it_holds_in_every_kind_of_session(changes: dict[str, Any]) -> None:
    """In whatever words and pictures a session was played, what was played is met again."""
    for text in ("per_class(2)", "nearest(5)", "only_correct | block"):
        played = await saved(session(TURNS, policy=text, **changes))
        assert shown_under(played, context_policy(text)).turns == played.turns


async def test_answers_are_read_by_the_rule_that_was_played() -> None:
    """An answer is confirmed as it was read when it was played, also if it was read again since."""
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


# ---- what was not ------------------------------------------------------------------------


@EACH_POLICY
async def test_it_is_what_playing_would_have_shown(text: str) -> None:
    """For a model that says the same whatever it is shown, what-if is what playing would have been."""
    lines = [f"Answer: {turn * 7 % 10}" for turn in range(TURNS)]
    before = await saved(session(TURNS, policy="last(2)", model=SMALL), ScriptedModel(lines))
    other = await saved(session(TURNS, policy=text, model=SMALL), ScriptedModel(lines))
    assert without_times(shown_under(before, context_policy(text))) == without_times(other)


def without_times(transcript: Transcript) -> list[Turn]:
    """Return the turns without what no two plays have in common."""
    return [
        replace(turn, reply=replace(turn.reply, latency_s=None, at=None))
        for turn in transcript.turns
    ]


async def test_what_would_have_been_replays() -> None:
    """A session under another policy is a session: every request of it can be derived again."""
    played = await saved(session(TURNS, feedback="correctness"))
    for text in POLICY_TEXTS:
        other = shown_under(played, context_policy(text))
        assert await verify(other) == len(other.turns)
        assert other.header.settings["context"]["policy"] == str(context_policy(text))


async def test_it_ends_where_the_window_is_full() -> None:
    """Under a policy that insists on what does not fit, a session ends there and says so."""
    played = await saved(session(TURNS, model=SMALL))
    full = shown_under(played, context_policy("all"))
    assert 5 < len(full.turns) < TURNS
    assert full.end is not None
    assert (full.end.status, full.end.turns) == ("context_full", len(full.turns))
    assert shown_under(played, context_policy("last(3)")).end == played.end


async def test_tokens_that_were_not_saved_are_counted() -> None:
    """A session saved before tokens were counted is counted again; others stay as they are."""
    played = await saved(session(9, policy="last(3)"))
    assert as_played(played) is played
    old = replace(
        played, turns=tuple(replace(turn, counted=None, prefix=None) for turn in played.turns)
    )
    assert as_played(old).turns == played.turns


async def test_what_was_shown_is_not_chosen_anew_to_be_counted() -> None:
    """Turns that were shown under another policy, as a branch shares them, are counted as shown."""
    played = await saved(session(TURNS, policy="last(5)"))
    uncounted = tuple(replace(turn, counted=None, prefix=None) for turn in played.turns)
    context = {**played.header.settings["context"], "policy": "stateless"}
    settings = {**played.header.settings, "context": context}
    header = played.header.model_copy(update={"settings": settings})
    assert as_played(replace(played, header=header, turns=uncounted)).turns == played.turns


async def test_notes_need_the_model() -> None:
    """A policy that has the model take notes is refused in words."""
    played = await saved(session(3))
    with pytest.raises(InputError, match=r"notes\(every=5, tokens=500\) \| last.*needs the model"):
        shown_under(played, context_policy("notes(5) | last"))


async def test_likeness_needs_pictures() -> None:
    """A policy that compares pictures is refused for a session without them."""
    played = await saved(session(3, dataset="iris", encoding="table"))
    with pytest.raises(InputError, match="compares pictures, and a table is none"):
        shown_under(played, context_policy("nearest(3)"))


async def test_settings_of_another_version_are_refused() -> None:
    """Settings that cannot be followed are refused, and the key is named."""
    played = await saved(session(2))
    task = {**played.header.settings["task"], "size": "large"}
    header = played.header.model_copy(update={"settings": {**played.header.settings, "task": task}})
    with pytest.raises(InputError, match=r"a-0\.jsonl: recorded settings, task\.size"):
        shown_under(replace(played, header=header), context_policy("last"))


# ---- what the requests held --------------------------------------------------------------


@pytest.mark.parametrize("text", ["block", "last(4)", "reservoir(6)", "notes(5)", "stateless"])
async def test_the_learner_sees_what_was_shown(text: str) -> None:
    """What a reference learner answered when it played is what its baseline answers."""
    played = await saved(session(TURNS, policy=text))
    requests = await request_contents(played, played=True)
    assert requests.right.tolist() == [turn.feedback.correct for turn in played.turns]


@pytest.mark.parametrize("feedback", ["label", "correctness", "none"])
async def test_classes_are_counted(feedback: str) -> None:
    """Every turn shown counts for its right class, and for the class that was told, if any was."""
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


# ---- arms under policies -----------------------------------------------------------------


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
    """An arm under a policy is the mean over its sessions, each counting once."""
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


def test_outlooks_are_json(several: list[RequestContents]) -> None:
    """Outlooks are written as JSON of plain values."""
    report = json.loads(json.dumps(as_json(policy_summaries(several), "reference/nearest")))
    assert report["learner"] == "reference/nearest"
    assert [row["policy"] for row in report["policy_summaries"]][1:] == ["last(n=3)", "stateless"]
    assert len(report["policy_summaries"][0]["baseline_late_ci"]) == 2


def test_the_table_has_a_row_a_policy(several: list[RequestContents]) -> None:
    """The table has a row for each policy, what was played marked, and hostile names steer nothing."""
    rows = policy_summaries(several)
    text = shown(what_if_table([*rows, replace(rows[0], arm=HOSTILE)], "reference/nearest"), 160)
    assert is_plain(text)
    lines = text.splitlines()
    assert sum("* block(high=1.0, low=0.5)" in line for line in lines) == 2
    [last] = [line for line in lines if "last(n=3)" in line]
    assert f"{rows[1].tokens:,.0f}" in last.split()
    assert f"{rows[1].prefix_share:.0%}" in last.split()


def test_a_narrow_table_loses_no_number(several: list[RequestContents]) -> None:
    """In eighty columns every number of the table is there, uncut."""
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
    """The chart has a line for each policy in each of its four panels, and names them."""
    chart = what_if_chart(turns_of(several), "reference/nearest", window=5)
    file = tmp_path / f"chart.{ending}"
    save(cast("alt.LayerChart", chart), file)
    text = file.read_text()
    for words in ("as played", "last(n=3)", "stateless", "prefix share", "small / feedback"):
        assert words in text


def test_the_chart_draws_means(several: list[RequestContents]) -> None:
    """A line is the mean over sessions at every turn; a share is of a window, in its middle."""
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


def test_nothing_cannot_be_drawn(several: list[RequestContents]) -> None:
    """No turns, or a window of none, is refused in words."""
    with pytest.raises(InputError, match="no turns"):
        what_if_chart(turns_of(several).clear(), "reference/nearest")
    with pytest.raises(InputError, match="window=0"):
        what_if_chart(turns_of(several), "reference/nearest", 0)
