"""Samples that the model chooses among candidates before it is asked about them."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from builders import experiment, play_on, transcripts_of
from contracts import check_policy
from icl_loop.analysis import frame, session_curves, sessions, summarise
from icl_loop.analysis.side_requests import choice_sentences
from icl_loop.analysis.spending import spending
from icl_loop.context.policy_parser import context_policy
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply, merged
from icl_loop.core.records import Choice, Turn
from icl_loop.core.tokens import count_message
from icl_loop.experiment import Session
from icl_loop.export import export
from icl_loop.models import CallableModel, ChatModel
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.planning import plan
from icl_loop.replay.branching import branches
from icl_loop.replay.verification import examine, verify
from icl_loop.runner.run import Run
from icl_loop.runner.session import play_session
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.prompts import open_prompt_set, shipped
from icl_loop.terminal.session_view import BRIEF, SessionView
from icl_loop.transcripts import read
from icl_loop.transcripts.columns import table_path
from icl_loop.transcripts.loading import saved_sessions

EVERY, AMONG, TURNS = 3, 4, 12
CHOSEN = range(EVERY - 1, TURNS, EVERY)
FIXED = [turn for turn in range(TURNS) if turn not in CHOSEN]
ARMS = [{"name": "model"}, {"name": "random", "task": {"choice": {"by": "random"}}}]


def choosing(by: str = "model", model: str = "reference/propagation", **changes: Any) -> Session:  # noqa: ANN401  any setting
    """Return a session in which the sample of every third turn is chosen among four."""
    task = {"dataset": "iris", "choice": {"every": EVERY, "among": AMONG, "by": by}}
    task |= changes.pop("task", {})
    made = experiment(streams=1, task=task, model={"name": model}, **changes)
    return next(iter(made.sessions()))


def both(**changes: Any) -> Any:  # noqa: ANN401  any setting
    """Return an experiment in which the model chooses in one arm and chance in the other."""
    task = {"dataset": "iris", "choice": {"every": EVERY, "among": AMONG}}
    return experiment(task=task, model={"name": "reference/propagation"}, arms=ARMS, **changes)


def saying(text: str) -> CallableModel:
    """Return a model that always replies the same."""
    return CallableModel(lambda _: text)


async def events_of(
    session: Session, model: ChatModel | None = None
) -> tuple[list[Turn], list[Choice]]:
    """Play a session; return its turns and its choices."""
    events = [event async for event in play_on(session, model)]
    turns = [event for event in events if isinstance(event, Turn)]
    return turns, [event for event in events if isinstance(event, Choice)]


@pytest.mark.parametrize("policy", ["all", "last(2)", "stateless"])
async def test_a_cache_keeps_the_request_for_a_choice(policy: str) -> None:
    """The prefix of a chosen turn is what it shares with the turn before or the choice, if more."""
    asked = list[Sequence[Message]]()

    def answer(messages: Sequence[Message]) -> str:
        asked.append(messages)
        return "Answer: 1"

    task = {"dataset": "iris", "choice": {"every": EVERY, "among": AMONG}}
    model = {"name": "reference/propagation", "merge_roles": False}
    made = experiment(streams=1, task=task, model=model, context={"policy": policy})
    session = next(iter(made.sessions()))
    turns, _ = await events_of(session, CallableModel(answer))
    count = session.window.counter

    def shared(one: Sequence[Message], other: Sequence[Message]) -> int:
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        return sum(count_message(count, message) for message, _ in pairs)

    place = -1
    for turn in turns:
        place += 1 + (turn.index in CHOSEN)
        if turn.index in CHOSEN:
            before, choice, request = asked[place - 2 : place + 1]
            assert turn.prefix == max(shared(before, request), shared(choice, request))
            assert turn.prefix > shared(before, request) or policy == "stateless"


async def test_all_arms_share_the_fixed_turns() -> None:
    """Whoever chooses, the other turns ask about the same samples, and so do they if nobody chooses.

    The candidates are the same too. No sample is offered twice, and none is a probe or an exemplar.
    """
    shared: dict[str, Any] = {"probes": {"at": [0], "count": 6}, "context": {"exemplars": 1}}
    by_model, by_chance = choosing(**shared), choosing("random", **shared)
    plain = next(iter(experiment(streams=1, task={"dataset": "iris"}, **shared).sessions()))
    one, choices = await events_of(by_model)
    other, none = await events_of(by_chance)
    asked = [[turn.sample for turn in turns] for turns in (one, other)]
    stream = [sample.id for sample in plain.inputs.samples]
    for samples in asked:
        assert [samples[turn] for turn in FIXED] == [stream[turn] for turn in FIXED]
    assert [choice.after_turn for choice in choices] == list(CHOSEN)
    assert not none
    offered = [
        [sample.id for sample in by_chance.task.candidates[turn]]
        for turn in by_chance.task.candidates
    ]
    assert [list(choice.candidates) for choice in choices] == offered
    assert all(len(each) == AMONG for each in offered)
    inputs = by_model.inputs
    every = sum(offered, [stream[turn] for turn in FIXED])
    every += [sample.id for sample in (*inputs.probes, *inputs.exemplars)]
    assert len(set(every)) == len(every)
    for turn, choice in zip(CHOSEN, choices, strict=True):
        assert asked[0][turn] == choice.sample == choice.candidates[(choice.number or 0) - 1]
        assert asked[1][turn] in choice.candidates


@pytest.mark.parametrize("number", range(1, AMONG + 1))
async def test_the_chosen_sample_is_asked_about(number: int) -> None:
    """The next turn asks about the sample with the number replied, and is scored by its label."""
    session = choosing()
    turns, choices = await events_of(session, saying(f"I take this.\nChoice: {number}"))
    labels = {sample.id: sample.label for sample in session.dataset}
    for choice in choices:
        turn = turns[choice.after_turn]
        assert (choice.number, choice.outcome) == (number, "ok")
        assert turn.sample == choice.candidates[number - 1]
        assert turn.label == labels[turn.sample]


@pytest.mark.parametrize("text", ["", "Choice: 9", "Answer: setosa", "Choice: 1 or 2"])
async def test_without_a_valid_choice_chance_chooses(text: str) -> None:
    """A reply without the number of a candidate is recorded so, and the control's sample is asked."""
    turns, choices = await events_of(choosing(), saying(text))
    control, _ = await events_of(choosing("random"), saying(text))
    assert {choice.number for choice in choices} == {None}
    assert "ok" not in {choice.outcome for choice in choices}
    assert [turn.sample for turn in turns] == [turn.sample for turn in control]


async def test_later_requests_do_not_show_choices() -> None:
    """A request shows turns alone: as many messages as without choices, and no reply of a choice."""
    requests: list[Sequence[Message]] = []

    def reply(messages: Sequence[Message]) -> str:
        requests.append(messages)
        return "Choice: 2"

    session = choosing()
    await events_of(session, CallableModel(reply))
    assert len(requests) == TURNS + len(CHOSEN)
    for request in requests:
        shown = [message.text for message in request[1:-1] if message.role == "user"]
        assert not any("Sample 2:" in text for text in shown)
        assert len(request) % 3 == 2


@pytest.mark.parametrize("policy", ["block", "nearest(3)", "only_correct", "parallel(2, 0.5)"])
async def test_policies_keep_their_contract(policy: str) -> None:
    """A policy chooses turns by what was told, whoever chose the samples."""
    session = choosing(context={"policy": policy})
    events = [event async for event in play_on(session)]
    assert check_policy(context_policy(policy), session.task, events, session.window)


@pytest.mark.parametrize("by", ["model", "random"])
async def test_a_cut_session_resumes_without_a_second_choice(by: str) -> None:
    """Cut after any turn or choice, a session resumes as the whole one, and asks nothing again."""
    session, asked = choosing(by, feedback={"kind": "correctness", "delay": 1}), list[int]()
    built_in = session.open_model()

    async def counted(messages: Sequence[Message]) -> Reply:
        asked.append(1)
        return await built_in.complete(messages)

    whole = [event async for event in play_session(session, [], CallableModel(counted))]
    total = len(asked)
    assert total == TURNS + len(CHOSEN) * (by == "model")
    for cut in range(total):
        asked.clear()
        again = [
            event async for event in play_session(session, whole[:cut], CallableModel(counted))
        ]
        assert len(asked) == total - cut
        assert [(type(each), each.request, each.reply.text) for each in again] == [
            (type(each), each.request, each.reply.text) for each in whole
        ]


async def test_a_cut_transcript_is_completed_and_verified(tmp_path: Path) -> None:
    """A transcript cut between a choice and its turn becomes the uncut one, and both replay."""
    made = both(streams=1)
    await Run(made, tmp_path / "whole").play()
    whole = tmp_path / "whole" / "small"
    cut = tmp_path / "cut" / "small"
    cut.mkdir(parents=True)
    for path in whole.glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        last = max(
            at for at, line in enumerate(lines) if b'"choice","after_turn":8' in line or not at
        )
        (cut / path.name).write_bytes(b"".join(lines[: last + 1]) + b'{"type":"turn"')
    await Run(made, tmp_path / "cut").play()
    assert transcripts_of(cut) == transcripts_of(whole)
    for path in cut.glob("*.jsonl"):
        finding = await examine(path)
        assert (finding.turns, finding.difference) == (TURNS, None)


async def test_a_changed_choice_does_not_verify(tmp_path: Path) -> None:
    """A transcript that names another chosen sample than the reply is reported."""
    result = await Run(both(streams=1), tmp_path).play()
    path = next(each for each in result.paths if each.name.startswith("model"))
    choice = read(path).choices[1]
    other = next(each for each in choice.candidates if each != choice.sample)
    mark = b'"outcome":"ok","sample":"%b","kept":[[0,4]]'
    text = path.read_bytes().replace(mark % choice.sample.encode(), mark % other.encode())
    path.write_bytes(
        b"\n".join(line.rpartition(b',"crc32"')[0] + b"}" for line in text.splitlines()) + b"\n"
    )
    finding = await examine(path)
    assert finding.difference is not None
    assert (finding.difference.turn, finding.difference.field) == (choice.after_turn, "sample")


async def test_branches_keep_the_choices_of_their_parent(tmp_path: Path) -> None:
    """A branch before or after a chosen turn shares the choices before it, and verifies; its length is its parent's."""
    result = await Run(both(streams=1), tmp_path).play()
    for at in (CHOSEN[0], CHOSEN[0] + 1, TURNS - 1):
        branched = branches(result.paths, at, ["feedback.delay=1"])
        done = await Run(branched, tmp_path / str(at)).play()
        for path in done.paths:
            session = read(path)
            assert await verify(session) == TURNS
            if session.header.arm.startswith("model"):
                assert [choice.after_turn for choice in session.choices] == list(CHOSEN)
    with pytest.raises(InputError, match=r"--turns 20: .*task\.choice"):
        branches(result.paths, 4, turns=20)
    with pytest.raises(InputError, match=r"a branch cannot change task\.choice"):
        branches(result.paths, 4, ["task.choice.by=random"])


async def test_chosen_turns_do_not_count(tmp_path: Path) -> None:
    """Accuracy, early, late and over windows, is that of the fixed turns, however good the others are."""
    result = await Run(both(), tmp_path).play()
    turns = frame(result.paths)
    by_hand = {
        (each.header.arm, each.header.stream): [turn.feedback.correct for turn in each.turns]
        for each in map(read, result.paths)
    }
    for summary in summarise(turns):
        of_streams = [by_hand[summary.arm, stream] for stream in (0, 1)]
        shares = [sum(right[turn] for turn in FIXED) / len(FIXED) for right in of_streams]
        assert summary.accuracy.mean == pytest.approx(sum(shares) / 2)
        late = [turn for turn in FIXED if turn >= TURNS // 2]
        shares = [sum(right[turn] for turn in late) / len(late) for right in of_streams]
        assert summary.late.mean == pytest.approx(sum(shares) / 2)
    for arm, stream, turn, accuracy, window in (
        session_curves(turns, 5).select("arm", "stream", "turn", "accuracy", "counted").iter_rows()
    ):
        inside = [each for each in range(int(turn) - 3, int(turn) + 2) if each in FIXED]
        right = [by_hand[arm, stream][each] for each in inside]
        assert (window, accuracy) == (len(right), pytest.approx(sum(right) / len(right)))
    assert not turns.filter(pl.col("correct").is_null())["turn"].is_in(FIXED).any()


async def test_choices_are_counted_and_exported(tmp_path: Path) -> None:
    """`analyze` and `plan` count the requests for choices, and an export holds them."""
    made = both()
    result = await Run(made, tmp_path / "run").play()
    turns, requests = frame(result.paths), 2 * (TURNS + len(CHOSEN))
    place = tmp_path / "out.parquet"
    export(result.paths, place=place)
    for paths in (result.paths, [place]):
        assert frame(paths).equals(turns)
        spent = {each.arm: each.requests for each in spending(turns, paths=paths)}
        assert spent == {"model": requests, "random": 2 * TURNS}
        said = dict(zip(("model", "random"), choice_sentences(turns, paths), strict=True))
        assert "asked 8 times, and 8 of its choices could be read" in said["model"]
        assert "they were drawn at random" in said["random"]
    assert sessions([place])["setup"].to_list() == sessions(result.paths)["setup"].to_list()
    for path, saved in saved_sessions([place]).items():
        assert saved.read().choices == read(path).choices
    planned = await plan(made)
    assert {each.arm: each.cost.requests for each in planned.arms} == spent


async def test_exports_without_a_table_of_choices_are_read(tmp_path: Path) -> None:
    """An export from before there were choices has no table of them, and is read as before."""
    result = await Run(experiment(), tmp_path / "run").play()
    place, turns = tmp_path / "out.parquet", frame(result.paths)
    export(result.paths, place=place)
    table_path(place, "choices").unlink()
    of_sessions = table_path(place, "sessions")
    pl.read_parquet(of_sessions).drop("choices").write_parquet(of_sessions)
    assert frame([place]).equals(turns)
    assert spending(turns, paths=[place]) == spending(turns, paths=result.paths)
    assert [saved.read().choices for saved in saved_sessions([place]).values()] == [(), ()]


async def test_the_viewer_shows_the_choice(tmp_path: Path) -> None:
    """The viewer says which sample was chosen among which, before the turn that asks about it."""
    result = await Run(both(streams=1), tmp_path).play()
    session = read(next(each for each in result.paths if each.name.startswith("model")))
    choice = session.choices[0]
    view = SessionView(session, colour=False)
    (line,) = view.notes_and_probes(choice.after_turn, BRIEF)
    assert f"{choice.sample} chosen among {', '.join(choice.candidates)}" in line.plain


async def test_learners_choose_the_smallest_margin() -> None:
    """A learner chooses the candidate for which its two best labels differ least in score."""
    session = choosing(turns=30)
    model, seen = session.open_model(), list[tuple[int, list[float]]]()

    async def watched(messages: Sequence[Message]) -> Reply:
        reply = await model.complete(messages)
        if offered := ConversationParser().parse_choice(messages):
            assert await model.complete(merged(messages)) == reply
            margins = [model.margin(each) for each in offered]  # type: ignore[attr-defined]
            seen.append((int(reply.text.removeprefix("Choice: ")), margins))
        return reply

    await events_of(session, CallableModel(watched))
    assert len(seen) == 10
    assert all(number == 1 + margins.index(min(margins)) for number, margins in seen)
    assert any(len(set(margins)) == AMONG for _, margins in seen)


@pytest.mark.parametrize("name", ["reference/nearest", "reference/prototype", "neural/in-context"])
async def test_built_in_models_choose(name: str) -> None:
    """The choices of every built-in learner can be read."""
    _, choices = await events_of(choosing(model=name))
    assert {choice.outcome for choice in choices} == {"ok"}


@pytest.mark.parametrize("name", shipped())
@hypothesis_settings(max_examples=25, deadline=None)
@given(samples=st.lists(st.text("ab:\n 123", min_size=1), min_size=2, max_size=20))
def test_a_request_to_choose_can_be_parsed(name: str, samples: list[str]) -> None:
    """The samples offered are read back from the request, also if it was merged with feedback.

    A reply that names one is parsed, and the request is not taken for a question.
    """
    prompts = open_prompt_set(name)
    text = prompts.choice_prompts.ask(samples)
    assert prompts.parse_choice(text) == ("", samples)
    before, found = prompts.parse_choice(f"{prompts.told.correct}\n\n{text}") or ("", [])
    assert (before, found) == (prompts.told.correct, samples)
    for encoding in ENCODINGS:
        if encoding != "png":
            assert prompts.parse_question(text, encoding) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"choice": {"every": 1}}}, r"choice\.every = 1"),
        ({"task": {"choice": {"among": 1}}}, r"choice\.among = 1"),
        ({"task": {"choice": {"by": "modle"}}}, r"choice\.by = 'modle'.*'model'"),
        ({"task": {"choice": {"evry": 3}}}, r"choice\.evry: .* 'every'"),
        ({"task": {"choice": {}, "order": "blocked"}}, "exclude each other"),
        (
            {"task": {"choice": {}}, "feedback": {"form": "reason"}},
            "does not go with feedback.form",
        ),
        ({"task": {"choice": {}, "encoding": "png"}}, r"task\.choice: samples are offered as text"),
        (
            {"task": {"choice": {}}, "model": {"name": "m", "answer_format": "choice"}},
            "cannot choose a sample",
        ),
        (
            {"task": {"choice": {"among": 20}}, "model": {"context_window": 3000}},
            r"offer fewer with task\.choice\.among",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    """An impossible choice is an error before the first request; it names the key."""
    with pytest.raises(InputError, match=message):
        experiment(**changes).check()
