"""The loop: the requests it sends, the turns it records, how it scores, replays and resumes."""

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


class Recorder:
    """A model that gives these answers in order and keeps the requests."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.requests: list[list[Message]] = []
        self._answers = answers

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Keep the request and return the next answer."""
        self.requests.append(list(messages))
        return Reply(self._answers[len(self.requests) - 1])


def oracle(task: Task) -> ScriptedModel:
    """Return a model that answers every turn correctly."""
    return ScriptedModel([task.prompts.reply(task.true_label(turn)) for turn in range(len(task))])


async def test_messages_of_a_request() -> None:
    """A request is the system message, the turns shown, and the question."""
    chosen = session(4, policy="last(2)")
    recorder = Recorder([f"Answer: {n}" for n in range(4)])
    turns = await played(chosen, recorder)
    texts = [[(message.role, message.text) for message in request] for request in recorder.requests]
    system = ("system", chosen.task.system.text)
    shown = [
        [
            ("user", turn.question.text),
            ("assistant", turn.reply.text),
            ("user", turn.feedback.told),
        ]
        for turn in turns
    ]
    assert texts == [
        [system, shown[0][0]],
        [system, *shown[0], shown[1][0]],
        [system, *shown[0], *shown[1], shown[2][0]],
        [system, *shown[1], *shown[2], shown[3][0]],
    ]


@given(st.lists(st.sampled_from("0123456789x"), min_size=6, max_size=6))
async def test_under_all_each_request_is_a_prefix_of_the_next(answers: list[str]) -> None:
    """Under `all`, the next request begins with each request, whatever the answers."""
    recorder = Recorder([f"Answer: {answer}" for answer in answers])
    await played(session(6, policy="all"), recorder)
    for before, after in zip(recorder.requests, recorder.requests[1:], strict=False):
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
async def test_feedback_does_not_change_the_score(answers: list[str]) -> None:
    """A session has the same scores under every kind of feedback."""
    replies = [f"Answer: {answer}" for answer in answers]
    scores = {
        kind: [
            turn.feedback.correct
            for turn in await played(session(8, feedback=kind), ScriptedModel(replies))
        ]
        for kind in FEEDBACK_PHRASES
    }
    truth = session(8).task
    expected = [truth.true_label(turn) == answer for turn, answer in enumerate(answers)]
    assert all(each == expected for each in scores.values())


async def test_false_feedback_does_not_change_the_score() -> None:
    """A prompt set that swaps "correct" and "incorrect" does not change the scores."""
    chosen = session(8, feedback="correctness")
    task = chosen.task
    told = task.prompts.told
    swapped = told.model_copy(update={"correct": told.incorrect, "incorrect": told.correct})
    changed = replace(task, prompts=task.prompts.model_copy(update={"told": swapped}))
    turns = [turn async for turn in play(changed, oracle(task), chosen.policy)]
    assert [turn.feedback.correct for turn in turns] == [True] * 8
    assert {turn.feedback.told for turn in turns} == {told.incorrect}


async def test_the_oracle_is_always_correct() -> None:
    """A model that knows every label is correct in every turn."""
    chosen = session(30)
    turns = await played(chosen, oracle(chosen.task))
    assert all(turn.feedback.correct and turn.outcome == "ok" for turn in turns)


async def test_guesses_score_at_chance() -> None:
    """Over 600 turns, `simulated/chance` is correct as often as chance predicts."""
    turns = [
        turn
        for stream in range(3)
        for turn in await played(session(200, stream, model="simulated/chance"))
    ]
    right = sum(turn.feedback.correct for turn in turns)
    assert stats.binomtest(right, len(turns), 0.1).pvalue > 0.001


async def test_a_replay_equals_its_session() -> None:
    """A session replayed from its turns is equal to it in every field, including times."""
    chosen = session(15)
    turns = await played(chosen)
    assert await played(chosen, ReplayModel(turns)) == turns


@given(st.integers(0, 10))
async def test_a_resumed_session_equals_the_uninterrupted_one(cut: int) -> None:
    """A session cut at any turn and resumed has the requests and answers of the whole session."""
    chosen = session(10)
    whole = await played(chosen)
    resumed = await played(chosen, ReplayModel(whole[:cut], then=chosen.open_model()))
    assert [turn.request for turn in resumed] == [turn.request for turn in whole]
    assert [turn.answer for turn in resumed] == [turn.answer for turn in whole]


async def test_a_replay_under_another_policy_fails() -> None:
    """Replay under another policy fails at the first turn whose request differs."""
    turns = await played(session(9, policy="all"))
    with pytest.raises(ReplayMismatch, match="turn 4: ") as caught:
        await played(session(9, policy="last(3)"), ReplayModel(turns))
    assert caught.value.turn == 4


async def test_a_replay_has_no_more_turns_than_the_session() -> None:
    """Replay of more turns than were saved fails at the first missing turn."""
    turns = await played(session(5))
    with pytest.raises(ReplayMismatch, match="turn 5: "):
        await played(session(6), ReplayModel(turns))


async def test_all_ends_when_the_window_is_full() -> None:
    """Under `all`, ContextFull is raised when the past turns no longer fit the window."""
    chosen = session(40, policy="all", model={"name": "simulated/chance", "context_window": 4000})
    turns = play(chosen.task, chosen.open_model(), chosen.policy, chosen.window)
    first_turns = [await anext(turns) for _ in range(10)]
    assert [turn.index for turn in first_turns] == list(range(10))
    with pytest.raises(ContextFull) as caught:
        [turn async for turn in turns]
    assert caught.value.needed > caught.value.available


async def test_a_question_that_does_not_fit_is_not_asked() -> None:
    """If the window is too small for one question, no request is sent."""
    chosen = session(3)
    recorder = Recorder([])
    with pytest.raises(ContextFull):
        await anext(play(chosen.task, recorder, Last(3), Window(tokens=300, reserve=0)))
    assert recorder.requests == []


async def test_a_function_as_a_model() -> None:
    """A function from messages to text can be used as a model."""
    turns = await played(session(3), CallableModel(lambda messages: f"Answer: {len(messages)}"))
    assert [turn.answer for turn in turns] == ["2", "5", "8"]


async def test_times_are_filled_in_if_missing() -> None:
    """The loop sets latency and time of a reply only if the model did not."""
    stated = Reply("Answer: 1", latency_s=12.5, at="2023-03-15T00:00:00.000+00:00")
    first, second = await played(session(2), ScriptedModel([stated, "Answer: 1"]))
    assert (first.reply.latency_s, first.reply.at) == (12.5, stated.at)
    assert second.reply.latency_s is not None
    assert second.reply.latency_s < 12.5
    assert second.reply.at is not None


async def test_requests_can_be_rebuilt() -> None:
    """The request rebuilt from a turn's `kept` has the fingerprint of the turn."""
    chosen = session(10, policy="last(4)")
    turns = await played(chosen)
    for turn in turns:
        request = build_request(chosen.task.system, turns, from_spans(turn.kept), turn.question)
        assert fingerprint(request) == turn.request


async def test_a_custom_final_line(tmp_path: Path) -> None:
    """Models answer in the final line that a custom prompt set requests, and it is parsed."""
    path = tmp_path / "mine.toml"
    path.write_text('extend = "plain"\nanswer = "It has to be {label}!"')
    turns = await played(session(12, prompts=str(path)))
    assert [turn.outcome for turn in turns] == ["ok"] * 12
    assert turns[0].reply.text.startswith("It has to be ")
