"""The laws of the loop: what is asked, what is remembered, what counts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from builders import played, session
from icl_loop.context.history import build_request
from icl_loop.context.policies import Last
from icl_loop.context.window import Window, from_spans
from icl_loop.core.errors import ContextFull, ReplayMismatch
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.loop import play
from icl_loop.models import CallableModel, ReplayModel, ScriptedModel
from icl_loop.tasks.feedback import FEEDBACK_PHRASES
from icl_loop.tasks.task import Task


class Tape:
    """A model that answers by a function of the number of the request, and keeps the requests."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.requests: list[list[Message]] = []
        self._answers = answers

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Keep the request and give the next answer."""
        self.requests.append(list(messages))
        return Reply(self._answers[len(self.requests) - 1])


def perfect(task: Task) -> ScriptedModel:
    """Return a model that knows every label."""
    return ScriptedModel([task.prompts.reply(task.true_label(turn)) for turn in range(len(task))])


async def test_a_request_is_frame_then_kept_turns_then_question() -> None:
    """Every request opens with the frame, shows kept turns whole, and ends with the question."""
    chosen = session(4, policy="last(2)")
    tape = Tape([f"Answer: {n}" for n in range(4)])
    turns = await played(chosen, tape)
    texts = [[(message.role, message.text) for message in request] for request in tape.requests]
    frame = ("system", chosen.task.system.text)
    said = [
        [
            ("user", turn.question.text),
            ("assistant", turn.reply.text),
            ("user", turn.feedback.told),
        ]
        for turn in turns
    ]
    assert texts == [
        [frame, said[0][0]],
        [frame, *said[0], said[1][0]],
        [frame, *said[0], *said[1], said[2][0]],
        [frame, *said[1], *said[2], said[3][0]],
    ]


@given(st.lists(st.sampled_from("0123456789x"), min_size=6, max_size=6))
async def test_under_all_each_request_is_a_prefix_of_the_next(answers: list[str]) -> None:
    """Under `all`, each request is the beginning of the next, whatever is answered."""
    tape = Tape([f"Answer: {answer}" for answer in answers])
    await played(session(6, policy="all"), tape)
    for before, after in zip(tape.requests, tape.requests[1:], strict=False):
        assert after[: len(before)] == before
        assert len(after) == len(before) + 3


@pytest.mark.parametrize("policy", ["last(0)", "within(tokens=0)", "last(50) | within(0)"])
async def test_a_window_of_zero_turns_is_stateless(policy: str) -> None:
    """A window of zero turns sends byte-identical requests to `stateless`."""
    none, stateless = [
        await played(session(8, policy=name, feedback="correctness"))
        for name in (policy, "stateless")
    ]
    assert [turn.request for turn in none] == [turn.request for turn in stateless]
    assert [turn.kept for turn in none] == [()] * 8


@settings(max_examples=15)  # each plays a session under every kind of feedback
@given(st.lists(st.sampled_from("0123456789?"), min_size=8, max_size=8))
async def test_what_is_told_never_moves_the_score(answers: list[str]) -> None:
    """The judgements of a session are the same under every kind of feedback."""
    replies = [f"Answer: {answer}" for answer in answers]
    judged = {
        kind: [
            turn.feedback.correct
            for turn in await played(session(8, feedback=kind), ScriptedModel(replies))
        ]
        for kind in FEEDBACK_PHRASES
    }
    truth = session(8).task
    expected = [truth.true_label(turn) == answer for turn, answer in enumerate(answers)]
    assert all(judgements == expected for judgements in judged.values())


async def test_lies_never_move_the_score() -> None:
    """A prompt set whose phrases say the opposite moves no judgement."""
    chosen = session(8, feedback="correctness")
    task = chosen.task
    told = task.prompts.told
    lies = told.model_copy(update={"correct": told.incorrect, "incorrect": told.correct})
    lying = replace(task, prompts=task.prompts.model_copy(update={"told": lies}))
    turns = [turn async for turn in play(lying, perfect(task), chosen.policy)]
    assert [turn.feedback.correct for turn in turns] == [True] * 8
    assert {turn.feedback.told for turn in turns} == {told.incorrect}


async def test_a_perfect_player_scores_all() -> None:
    """A player that knows every label is right in every turn."""
    chosen = session(30)
    turns = await played(chosen, perfect(chosen.task))
    assert all(turn.feedback.correct and turn.outcome == "ok" for turn in turns)


async def test_the_guesser_scores_chance() -> None:
    """The guesser's score over 600 turns is compatible with one over the number of labels."""
    turns = [
        turn
        for stream in range(3)
        for turn in await played(session(200, stream, model="simulated/chance"))
    ]
    right = sum(turn.feedback.correct for turn in turns)
    assert stats.binomtest(right, len(turns), 0.1).pvalue > 0.001


async def test_a_replay_equals_its_session() -> None:
    """Played again from its own turns, a session is the same in every field, times included."""
    chosen = session(15)
    turns = await played(chosen)
    assert await played(chosen, ReplayModel(turns)) == turns


@given(st.integers(0, 10))
async def test_resume_equals_never_cut(cut: int) -> None:
    """A session cut at any turn and resumed asks and answers as if it had never been cut."""
    chosen = session(10)
    whole = await played(chosen)
    resumed = await played(chosen, ReplayModel(whole[:cut], then=chosen.open_model()))
    assert [turn.request for turn in resumed] == [turn.request for turn in whole]
    assert [turn.answer for turn in resumed] == [turn.answer for turn in whole]


async def test_a_changed_policy_makes_replay_refuse() -> None:
    """Under another policy, replay refuses at the first turn whose request differs, naming it."""
    turns = await played(session(9, policy="all"))
    with pytest.raises(ReplayMismatch, match="turn 4: ") as caught:
        await played(session(9, policy="last(3)"), ReplayModel(turns))
    assert caught.value.turn == 4


async def test_a_replay_ends_where_the_session_ends() -> None:
    """A replay asked for more turns than were saved refuses, naming the first one missing."""
    turns = await played(session(5))
    with pytest.raises(ReplayMismatch, match="turn 5: "):
        await played(session(6), ReplayModel(turns))


async def test_the_session_ends_when_all_no_longer_fits() -> None:
    """Under `all` a session ends with ContextFull once its past outgrows the window."""
    chosen = session(40, policy="all", model={"name": "simulated/chance", "context_window": 4000})
    turns = play(chosen.task, chosen.open_model(), chosen.policy, chosen.window)
    first_turns = [await anext(turns) for _ in range(10)]
    assert [turn.index for turn in first_turns] == list(range(10))
    with pytest.raises(ContextFull) as caught:
        [turn async for turn in turns]
    assert caught.value.needed > caught.value.available


async def test_a_question_that_cannot_fit_is_never_asked() -> None:
    """A window too small for one question asks nothing, whatever the policy."""
    chosen = session(3)
    tape = Tape([])
    with pytest.raises(ContextFull):
        await anext(play(chosen.task, tape, Last(3), Window(tokens=300, reserve=0)))
    assert tape.requests == []


async def test_a_plain_function_is_a_model() -> None:
    """A function from messages to text plays as a model."""
    turns = await played(session(3), CallableModel(lambda messages: f"Answer: {len(messages)}"))
    assert [turn.answer for turn in turns] == ["2", "5", "8"]


async def test_the_loop_fills_in_only_what_the_model_left_open() -> None:
    """Latency and time that a model states stay; those it leaves open are measured."""
    stated = Reply("Answer: 1", latency_s=12.5, at="2023-03-15T00:00:00.000+00:00")
    first, second = await played(session(2), ScriptedModel([stated, "Answer: 1"]))
    assert (first.reply.latency_s, first.reply.at) == (12.5, stated.at)
    assert second.reply.latency_s is not None
    assert second.reply.latency_s < 12.5
    assert second.reply.at is not None


async def test_recall_is_what_was_asked() -> None:
    """The fingerprint of a turn is that of the request recalled from its kept turns."""
    chosen = session(10, policy="last(4)")
    turns = await played(chosen)
    for turn in turns:
        request = build_request(chosen.task.system, turns, from_spans(turn.kept), turn.question)
        assert fingerprint(request) == turn.request


async def test_the_final_line_of_ones_own_prompts_is_read(tmp_path: Path) -> None:
    """A prompt set whose final line is like no other is asked in, answered in and read."""
    path = tmp_path / "mine.toml"
    path.write_text('extend = "plain"\nanswer = "It has to be {label}!"')
    turns = await played(session(12, prompts=str(path)))
    assert [turn.outcome for turn in turns] == ["ok"] * 12
    assert turns[0].reply.text.startswith("It has to be ")
