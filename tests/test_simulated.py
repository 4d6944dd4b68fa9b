"""Participants are what they are said to be, whatever they are asked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders import experiment, played, session
from conversations import DIGITS, LABELS, NUMERALS, TRUTHS, Past, conversation
from icl_loop import Run
from icl_loop.core.errors import DatasetError, InputError, RequestRefused
from icl_loop.core.messages import Message, Reply, assistant, merged
from icl_loop.models import ChatModel, open_model
from icl_loop.models.simulated import (
    Constant,
    FormatBreaker,
    LabelCounter,
    Oracle,
    Refuser,
    ScheduledAccuracy,
    WinStayLoseShift,
)
from icl_loop.replay.verification import verify
from icl_loop.tasks.answers import ParsedAnswer, parse_answer
from icl_loop.tasks.encodings import PIXEL_TEXT_ENCODINGS as ENCODINGS
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, shipped
from icl_loop.transcripts import read

EACH_WORDING = pytest.mark.parametrize(
    "words", [open_prompt_set(n) for n in shipped()], ids=shipped()
)


async def reading_of(
    model: ChatModel, request: Sequence[Message], words: PromptSet | None = None
) -> ParsedAnswer:
    """Return how the reply to a request is read."""
    reply = await model.complete(request)
    form = (words or open_prompt_set("en")).answer
    labels = LABELS if "cat" in request[0].text else NUMERALS
    return parse_answer(reply.text, labels, reply.finish, form)


async def answer_of(model: ChatModel, request: Sequence[Message]) -> str:
    """Return the label that is answered to a request."""
    answer = (await reading_of(model, request)).answer
    assert answer is not None
    return answer


# ---- those that look at nothing ------------------------------------------------------------


async def test_constant_never_changes() -> None:
    """The constant participant answers its label, the first one if it was given none."""
    past = [Past(DIGITS[0], "dog", "revealed_incorrect", "3")]
    for shown in ([], past):
        assert await answer_of(Constant(), conversation(DIGITS[1], shown)) == "cat"
        assert await answer_of(Constant(label="3"), conversation(DIGITS[1], shown)) == "3"


async def test_constant_names_the_label_it_cannot_answer() -> None:
    """A label that is not one of the session's is refused with the nearest."""
    with pytest.raises(RequestRefused, match=r"label 'dgo' may not be .* did you mean 'dog'"):
        await Constant(label="dgo").complete(conversation(DIGITS[0]))


# ---- those that look at no picture ----------------------------------------------------------


@pytest.mark.parametrize("phrase", ["correct", "revealed_correct"])
async def test_win_stays(phrase: str) -> None:
    """After an answer that was told correct, the same answer comes again, whatever was before."""
    past = [Past(DIGITS[0], "cat", "incorrect"), Past(DIGITS[1], "dog", phrase, "dog")]  # type: ignore[arg-type]  # parametrized
    for seed in range(20):
        assert await answer_of(WinStayLoseShift(seed), conversation(DIGITS[2], past)) == "dog"


@pytest.mark.parametrize("phrase", ["incorrect", "revealed_incorrect", "recorded"])
async def test_lose_shifts(phrase: str) -> None:
    """After an answer that was not told correct, every other label may come, but never that one."""
    past = [Past(DIGITS[0], "cat", "correct"), Past(DIGITS[1], "dog", phrase)]  # type: ignore[arg-type]  # parametrized
    request = conversation(DIGITS[2], past)
    given = {await answer_of(WinStayLoseShift(seed), request) for seed in range(60)}
    assert given == {*LABELS} - {"dog"}


async def test_counter_prefers_what_was_right_least_often() -> None:
    """The counter answers a label that was right least often, or most often if it prefers that."""
    right = ["cat", "dog", "dog", "3", "3", "き", "き"]
    past = [Past(DIGITS[0], "cat", "revealed_incorrect", label) for label in right]
    request = conversation(DIGITS[1], past)
    answers = [await answer_of(LabelCounter(seed), request) for seed in range(5)]
    assert answers == ["Ankle boot"] * 5
    commonest = [LabelCounter(seed, prefer="commonest") for seed in range(40)]
    assert {await answer_of(model, request) for model in commonest} == {"dog", "3", "き"}


async def test_counter_counts_confirmed_answers_alone() -> None:
    """Where no label is revealed, an answer counts if it was told correct."""
    past = [Past(DIGITS[0], label, "correct") for label in LABELS[:-1]]
    past += [Past(DIGITS[0], "き", "incorrect"), Past(DIGITS[0], "き", "recorded")]
    assert await answer_of(LabelCounter(), conversation(DIGITS[1], past)) == "き"


@pytest.mark.parametrize("name", ["counter", "win-stay-lose-shift", "constant", "chance"])
@pytest.mark.parametrize("feedback", ["label", "correctness"])
async def test_who_looks_at_no_picture_stays_at_chance(name: str, feedback: str) -> None:
    """Labels are drawn evenly and independently, so no habit is better than chance.

    1,000 turns at 10 %: the standard error is 0.95 points, the bounds are five of them away.
    """
    correct = [
        turn.feedback.correct
        for stream in range(5)
        for turn in await played(
            session(200, stream, model=f"simulated/{name}", feedback=feedback, policy="last(9)")
        )
    ]
    assert 0.05 < np.mean(correct) < 0.15


# ---- those whose replies are faulty ---------------------------------------------------------


@EACH_WORDING
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("kind", "outcomes"),
    [(FormatBreaker, {"unreadable", "out_of_set", "truncated"}), (Refuser, {"refusal"})],
)
async def test_faults_come_at_their_rate(
    kind: type[FormatBreaker | Refuser], outcomes: set[str], rate: float, words: PromptSet
) -> None:
    """The share of replies without an answer is the one given, and each is read as what it is.

    300 replies: five standard errors of a share of one half are 14 points.
    """
    request = conversation(DIGITS[0], words=words)
    readings = [await reading_of(kind(seed, rate=rate), request, words) for seed in range(300)]
    counts = Counter(reading.outcome for reading in readings)
    assert abs(1 - counts["ok"] / 300 - rate) <= (0.14 if rate == 0.5 else 0)
    assert counts.keys() - {"ok"} == (outcomes if rate else set())
    assert {reading.answer for reading in readings if reading.answer} <= set(LABELS)


# ---- those who know ------------------------------------------------------------------------


@EACH_WORDING
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_perfect_is_always_right(words: PromptSet, encoding: str) -> None:
    """Whoever knows the data set is right about every picture, in any words and encoding."""
    model = Oracle()
    for picture, truth in zip(DIGITS, TRUTHS, strict=True):
        request = conversation(picture, words=words, encoding=encoding, labels=NUMERALS)
        assert (await reading_of(model, request, words)).answer == truth


@pytest.mark.parametrize(
    ("dataset", "encoding"), [("digits", "grid"), ("digits", "png"), ("wine", "table")]
)
@pytest.mark.parametrize("wire", [list, merged])
async def test_perfect_plays_perfectly(dataset: str, encoding: str, wire: type) -> None:
    """A session of whoever knows the data set has no wrong answer, whatever the samples are."""
    params = {"dataset": dataset}
    perfect = open_model("simulated/perfect", params=params)
    for feedback in ("label", "none"):
        chosen = session(20, feedback=feedback, dataset=dataset, encoding=encoding)
        turns = await played(chosen, Wired(perfect, wire))
        assert all(turn.feedback.correct for turn in turns)


@dataclass(frozen=True)
class Wired:
    """A model that is asked in another form of the same messages."""

    model: ChatModel
    wire: Callable[[Sequence[Message]], list[Message]]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the model within."""
        return await self.model.complete(self.wire(messages))


async def test_what_is_not_known_is_refused() -> None:
    """A picture that is not in the data set is refused, and so is one that has another name here."""
    strange = np.eye(8, dtype=np.float32)
    oblong = np.zeros((2, 8), dtype=np.float32)
    for request in (
        conversation(strange, labels=NUMERALS),
        conversation(oblong, labels=NUMERALS),
        conversation(DIGITS[0], labels=("zero", "one")),
    ):
        with pytest.raises(RequestRefused, match="knows what is in digits by its own labels"):
            await Oracle().complete(request)


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.8, 0.5)]
)
async def test_decreed_is_right_as_often_as_decreed(
    start: float, end: float, expected: float
) -> None:
    """Its accuracy is that of the decree, whatever is told.

    800 turns: five standard errors of a share of one half are 9 points.
    """
    params = {"start": start, "end": end, "turns": 100}
    model = {"name": "simulated/decreed", "params": params}
    correct = [
        turn.feedback.correct
        for stream in range(8)
        for turn in await played(
            session(100, stream, model=model, feedback="none", policy="last(2)")
        )
    ]
    assert abs(np.mean(correct) - expected) <= (0.09 if 0 < expected < 1 else 0)


async def test_decreed_counts_its_turns_through_any_window() -> None:
    """Where the turn before is shown, the turn is known, however few others are.

    Where replies are shown without their notes, the answers are counted.
    """
    sessions = [
        session(30, model={"name": "simulated/decreed", "params": {"drift": 0.5}}, policy=policy)
        for policy in ("all", "last(1)", "block")
    ]
    notes = [[turn.reply.text.split(",")[0] for turn in await played(each)] for each in sessions]
    assert notes == [[f"Turn {turn}" for turn in range(30)]] * 3
    bare = conversation(DIGITS[2], [Past(DIGITS[0], "0", "correct")] * 7, labels=NUMERALS)
    assert (await ScheduledAccuracy().complete(bare)).text.startswith("Turn 7,")
    blind = await played(session(3, model="simulated/decreed", policy="stateless"))
    assert {turn.reply.text.split(",")[0] for turn in blind} == {"Turn 0"}


async def test_the_wander_is_as_wide_and_as_slow_as_decreed() -> None:
    """Its standard deviation is `drift` at any turn; neighbours are correlated by `memory`."""
    params = {"drift": 0.8, "memory": 0.9}
    walks = []
    for stream in range(30):
        model = {"name": "simulated/decreed", "params": params}
        turns = await played(session(30, stream, model=model, policy="last(1)"))
        walks.append([float(turn.reply.text.split()[3].rstrip(".")) for turn in turns])
    walked = np.array(walks)
    # 900 values, worth some 47 independent ones: five standard errors are about 0.4.
    assert abs(walked.std() - 0.8) < 0.4
    before, after = walked[:, :-1].ravel(), walked[:, 1:].ravel()
    assert abs(np.corrcoef(before, after)[0, 1] - 0.9) < 0.1
    still = await played(session(5, model="simulated/decreed", policy="last(1)"))
    assert all("wander 0.0000." in turn.reply.text for turn in still)


async def test_a_note_of_any_size_is_read_or_left() -> None:
    """A note as no decreed participant writes it leads to an answer all the same."""
    for note in ("Turn 999999999, wander 99.9999.", "Turn 1, wander 1e9.", "Turn " + "9" * 5000):
        request = conversation(DIGITS[0], [Past(DIGITS[1], "1", "correct")], labels=NUMERALS)
        request[2] = assistant(f"{note}\nAnswer: 1")
        assert await answer_of(ScheduledAccuracy(drift=10.0), request) in NUMERALS


# ---- parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("simulated/decreed", {"strat": 0.1}, "no parameter 'strat': did you mean 'start'"),
        ("simulated/chance", {"temperature": 0}, "no parameter 'temperature': it takes none"),
        ("simulated/chance", {"seed": 1}, "no parameter 'seed': it takes none"),
        ("simulated/decreed", {"start": 1.5}, "start is a share from 0 to 1, got 1.5"),
        ("simulated/decreed", {"end": True}, "end is a number, got True"),
        ("simulated/decreed", {"drift": -1}, "drift is a finite number of at least 0, got -1"),
        ("simulated/decreed", {"memory": float("nan")}, "memory is a finite number"),
        ("simulated/decreed", {"turns": 0}, "turns is a whole number of at least 1, got 0"),
        ("simulated/decreed", {"dataset": 3}, "dataset is a text, got 3"),
        ("simulated/counter", {"prefer": "rarst"}, "'rarst': did you mean 'rarest'"),
        ("simulated/refuser", {"rate": "0.5"}, "rate is a number, got '0.5'"),
        ("simulated/constant", {"label": 3}, "label is a text, got 3"),
    ],
)
def test_parameters_are_checked(name: str, params: dict[str, object], reason: str) -> None:
    """A parameter that a model does not take, or cannot use, is refused before the first turn."""
    with pytest.raises(InputError, match=reason):
        open_model(name, params=params)


def test_a_file_that_gives_a_parameter_too_many() -> None:
    """An experiment is refused with arm, key and the nearest parameter before anything is opened."""
    reason = "arm 'feedback', model: params: simulated/refuser .* 'rat': did you mean 'rate'"
    with pytest.raises(InputError, match=reason):
        experiment(model={"name": "simulated/refuser", "params": {"rat": 0.5}})


async def test_a_session_of_a_participant_replays(tmp_path: Path) -> None:
    """What a participant with parameters answered is derived again from its transcript."""
    model = {"name": "simulated/decreed", "params": {"drift": 0.5}}
    result = await Run(experiment(model=model, streams=1), tmp_path).play()
    assert [await verify(read(path)) for path in result.paths] == [12]


def test_a_data_set_that_is_not_there() -> None:
    """Whoever should know a data set needs it from the start."""
    with pytest.raises(DatasetError, match="did you mean 'digits'"):
        open_model("simulated/perfect", params={"dataset": "digit"})
