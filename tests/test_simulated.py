"""Simulated models behave as documented, whatever they are asked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from builders import experiment, played, session
from conversations import DIGITS, LABELS, NUMERALS, TRUTHS, Past, conversation
from icl_loop import Run
from icl_loop.context.window import from_spans
from icl_loop.core.errors import DatasetError, InputError, RequestRefused
from icl_loop.core.messages import Message, Reply, assistant, merged
from icl_loop.models import ChatModel, open_model
from icl_loop.models.simulated.heuristics import (
    BadFormat,
    Constant,
    LabelCounter,
    Refuser,
    WinStayLoseShift,
)
from icl_loop.models.simulated.informed import Oracle, ScheduledAccuracy
from icl_loop.replay.verification import verify
from icl_loop.tasks.answers import ParsedAnswer, parse_answer
from icl_loop.tasks.encodings.image_text import PIXEL_TEXT_ENCODINGS as ENCODINGS
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, shipped
from icl_loop.transcripts import read

EACH_SET = pytest.mark.parametrize("words", [open_prompt_set(n) for n in shipped()], ids=shipped())


async def reading_of(
    model: ChatModel, request: Sequence[Message], words: PromptSet | None = None
) -> ParsedAnswer:
    """Return the parsed answer of the reply to a request."""
    reply = await model.complete(request)
    form = (words or open_prompt_set("plain")).answer
    labels = LABELS if "cat" in request[0].text else NUMERALS
    return parse_answer(reply.text, labels, reply.finish, form)


async def answer_of(model: ChatModel, request: Sequence[Message]) -> str:
    """Return the label that a model answers."""
    answer = (await reading_of(model, request)).answer
    assert answer is not None
    return answer


# ---- models that ignore samples and feedback -----------------------------------------------


async def test_constant_never_changes() -> None:
    """The constant model answers its label, or the first one if it has none."""
    past = [Past(DIGITS[0], "dog", "revealed_incorrect", "3")]
    for shown in ([], past):
        assert await answer_of(Constant(), conversation(DIGITS[1], shown)) == "cat"
        assert await answer_of(Constant(label="3"), conversation(DIGITS[1], shown)) == "3"


async def test_constant_refuses_an_unknown_label() -> None:
    """A label that the session does not have is refused with the nearest one."""
    with pytest.raises(RequestRefused, match=r"no label 'dgo': did you mean 'dog'"):
        await Constant(label="dgo").complete(conversation(DIGITS[0]))


# ---- models that ignore samples --------------------------------------------------------------


@pytest.mark.parametrize("phrase", ["correct", "revealed_correct"])
async def test_win_stays(phrase: str) -> None:
    """After a correct answer, the same answer follows, whatever came before."""
    past = [Past(DIGITS[0], "cat", "incorrect"), Past(DIGITS[1], "dog", phrase, "dog")]  # type: ignore[arg-type]  # parametrized
    for seed in range(20):
        assert await answer_of(WinStayLoseShift(seed), conversation(DIGITS[2], past)) == "dog"


@pytest.mark.parametrize("phrase", ["incorrect", "revealed_incorrect", "recorded"])
async def test_lose_shifts(phrase: str) -> None:
    """After any other answer, every label but that one can follow."""
    past = [Past(DIGITS[0], "cat", "correct"), Past(DIGITS[1], "dog", phrase)]  # type: ignore[arg-type]  # parametrized
    request = conversation(DIGITS[2], past)
    given = {await answer_of(WinStayLoseShift(seed), request) for seed in range(60)}
    assert given == {*LABELS} - {"dog"}


async def test_counter_prefers_the_rarest_label() -> None:
    """The counter answers the label that was correct least often, or most often if so set."""
    right = ["cat", "dog", "dog", "3", "3", "き", "き"]
    past = [Past(DIGITS[0], "cat", "revealed_incorrect", label) for label in right]
    request = conversation(DIGITS[1], past)
    answers = [await answer_of(LabelCounter(seed), request) for seed in range(5)]
    assert answers == ["Ankle boot"] * 5
    commonest = [LabelCounter(seed, prefer="commonest") for seed in range(40)]
    assert {await answer_of(model, request) for model in commonest} == {"dog", "3", "き"}


async def test_counter_counts_confirmed_answers() -> None:
    """If no label is revealed, an answer counts if it was correct."""
    past = [Past(DIGITS[0], label, "correct") for label in LABELS[:-1]]
    past += [Past(DIGITS[0], "き", "incorrect"), Past(DIGITS[0], "き", "recorded")]
    assert await answer_of(LabelCounter(), conversation(DIGITS[1], past)) == "き"


@pytest.mark.parametrize("name", ["label-counter", "win-stay-lose-shift", "constant", "chance"])
@pytest.mark.parametrize("feedback", ["label", "correctness"])
async def test_models_that_ignore_samples_stay_at_chance(name: str, feedback: str) -> None:
    """Labels are drawn uniformly and independently, so no habit beats chance.

    1,000 turns at 10 %: the bounds are five standard errors of 0.95 points away.
    """
    correct = [
        turn.feedback.correct
        for stream in range(5)
        for turn in await played(
            session(200, stream, model=f"simulated/{name}", feedback=feedback, policy="last(9)")
        )
    ]
    assert 0.05 < np.mean(correct) < 0.15


# ---- models with faulty replies --------------------------------------------------------------


@EACH_SET
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("kind", "outcomes"),
    [(BadFormat, {"unreadable", "out_of_set", "truncated"}), (Refuser, {"refusal"})],
)
async def test_faults_occur_at_their_rate(
    kind: type[BadFormat | Refuser], outcomes: set[str], rate: float, words: PromptSet
) -> None:
    """The share of replies without an answer is the rate, and each is parsed as its kind of fault.

    300 replies: five standard errors of a share of 1/2 are 14 points.
    """
    request = conversation(DIGITS[0], words=words)
    readings = [await reading_of(kind(seed, rate=rate), request, words) for seed in range(300)]
    counts = Counter(reading.outcome for reading in readings)
    assert abs(1 - counts["ok"] / 300 - rate) <= (0.14 if rate == 0.5 else 0)
    assert counts.keys() - {"ok"} == (outcomes if rate else set())
    assert {reading.answer for reading in readings if reading.answer} <= set(LABELS)


@pytest.mark.parametrize("feedback", ["correctness", "none"])
async def test_the_format_learner_learns_the_form_alone(feedback: str) -> None:
    """It answers a tenth of questions without a history, and all after an answer, at chance."""
    alone, shown = [
        await played(session(300, model="simulated/format-learner", policy=each, feedback=feedback))
        for each in ("stateless", "last(20)")
    ]
    assert stats.binomtest(sum(turn.outcome == "ok" for turn in alone), 300, 0.1).pvalue > 0.001
    for turn in shown:
        imitates = any(shown[each].answer for each in from_spans(turn.kept))
        assert turn.answer is not None or not imitates
    answered = [turn.feedback.correct for turn in shown if turn.answer is not None]
    assert len(answered) > 200
    assert stats.binomtest(sum(answered), len(answered), 0.1).pvalue > 0.001


# ---- models that know the answers ------------------------------------------------------------


@EACH_SET
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_the_oracle_is_always_right(words: PromptSet, encoding: str) -> None:
    """The oracle is right about every image, in any prompt set and encoding."""
    model = Oracle()
    for picture, truth in zip(DIGITS, TRUTHS, strict=True):
        request = conversation(picture, words=words, encoding=encoding, labels=NUMERALS)
        assert (await reading_of(model, request, words)).answer == truth


@pytest.mark.parametrize(
    ("dataset", "encoding"), [("digits", "grid"), ("digits", "png"), ("wine", "table")]
)
@pytest.mark.parametrize("wire", [list, merged])
async def test_the_oracle_plays_perfectly(dataset: str, encoding: str, wire: type) -> None:
    """A session of the oracle has no wrong answer, for every kind of sample."""
    params = {"dataset": dataset}
    oracle = open_model("simulated/oracle", params=params)
    for feedback in ("label", "none"):
        chosen = session(20, feedback=feedback, dataset=dataset, encoding=encoding)
        turns = await played(chosen, Wired(oracle, wire))
        assert all(turn.feedback.correct for turn in turns)


@dataclass(frozen=True)
class Wired:
    """Passes the messages on in another form."""

    model: ChatModel
    wire: Callable[[Sequence[Message]], list[Message]]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the wrapped model."""
        return await self.model.complete(self.wire(messages))


async def test_the_oracle_refuses_unknown_samples() -> None:
    """A sample that is not in the data set, or whose label has another name, is refused."""
    strange = np.eye(8, dtype=np.float32)
    oblong = np.zeros((2, 8), dtype=np.float32)
    for request in (
        conversation(strange, labels=NUMERALS),
        conversation(oblong, labels=NUMERALS),
        conversation(DIGITS[0], labels=("zero", "one")),
    ):
        with pytest.raises(RequestRefused, match="not in the data set digits"):
            await Oracle().complete(request)


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.8, 0.5)]
)
async def test_accuracy_follows_the_schedule(start: float, end: float, expected: float) -> None:
    """The accuracy is the scheduled one, whatever the feedback.

    800 turns: five standard errors of a share of 1/2 are 9 points.
    """
    params = {"start": start, "end": end, "turns": 100}
    model = {"name": "simulated/scheduled-accuracy", "params": params}
    correct = [
        turn.feedback.correct
        for stream in range(8)
        for turn in await played(
            session(100, stream, model=model, feedback="none", policy="last(2)")
        )
    ]
    assert abs(np.mean(correct) - expected) <= (0.09 if 0 < expected < 1 else 0)


async def test_turns_are_counted_in_any_window() -> None:
    """The turn is known if the previous one is shown, or from the replies if they lack the state.

    If nothing is shown, every turn is turn 0.
    """
    sessions = [
        session(
            30,
            model={"name": "simulated/scheduled-accuracy", "params": {"drift": 0.5}},
            policy=policy,
        )
        for policy in ("all", "last(1)", "block")
    ]
    notes = [[turn.reply.text.split(",")[0] for turn in await played(each)] for each in sessions]
    assert notes == [[f"Turn {turn}" for turn in range(30)]] * 3
    bare = conversation(DIGITS[2], [Past(DIGITS[0], "0", "correct")] * 7, labels=NUMERALS)
    assert (await ScheduledAccuracy().complete(bare)).text.startswith("Turn 7,")
    blind = await played(session(3, model="simulated/scheduled-accuracy", policy="stateless"))
    assert {turn.reply.text.split(",")[0] for turn in blind} == {"Turn 0"}


async def test_the_drift_has_its_deviation_and_memory() -> None:
    """The standard deviation is `drift`; neighbouring turns are correlated by `memory`."""
    params = {"drift": 0.8, "memory": 0.9}
    walks = []
    for stream in range(30):
        model = {"name": "simulated/scheduled-accuracy", "params": params}
        turns = await played(session(30, stream, model=model, policy="last(1)"))
        walks.append([float(turn.reply.text.split()[3].rstrip(".")) for turn in turns])
    walked = np.array(walks)
    # 900 values, as informative as 47 independent ones: five standard errors are about 0.4.
    assert abs(walked.std() - 0.8) < 0.4
    before, after = walked[:, :-1].ravel(), walked[:, 1:].ravel()
    assert abs(np.corrcoef(before, after)[0, 1] - 0.9) < 0.1
    still = await played(session(5, model="simulated/scheduled-accuracy", policy="last(1)"))
    assert all("drift 0.0000." in turn.reply.text for turn in still)


async def test_an_odd_state_is_parsed_or_ignored() -> None:
    """A state that the model would never write still leads to an answer."""
    for note in ("Turn 999999999, drift 99.9999.", "Turn 1, drift 1e9.", "Turn " + "9" * 5000):
        request = conversation(DIGITS[0], [Past(DIGITS[1], "1", "correct")], labels=NUMERALS)
        request[2] = assistant(f"{note}\nAnswer: 1")
        assert await answer_of(ScheduledAccuracy(drift=10.0), request) in NUMERALS


# ---- parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        (
            "simulated/scheduled-accuracy",
            {"strat": 0.1},
            "no parameter 'strat': did you mean 'start'",
        ),
        ("simulated/chance", {"temperature": 0}, "no parameter 'temperature': it takes none"),
        ("simulated/chance", {"seed": 1}, "no parameter 'seed': it takes none"),
        (
            "simulated/scheduled-accuracy",
            {"start": 1.5},
            "start must be a finite number, 0 to 1, got 1.5",
        ),
        (
            "simulated/scheduled-accuracy",
            {"end": True},
            "end must be a finite number, 0 to 1, got true",
        ),
        (
            "simulated/scheduled-accuracy",
            {"drift": -1},
            "drift must be a finite number, at least 0, got -1",
        ),
        (
            "simulated/scheduled-accuracy",
            {"memory": float("nan")},
            "memory must be a finite number",
        ),
        (
            "simulated/scheduled-accuracy",
            {"turns": 0},
            "turns must be a whole number of at least 1, got 0",
        ),
        ("simulated/scheduled-accuracy", {"dataset": 3}, "dataset must be a string, got 3"),
        ("simulated/label-counter", {"prefer": "rarst"}, "'rarst': did you mean 'rarest'"),
        (
            "simulated/refuser",
            {"rate": "0.5"},
            "rate must be a finite number, 0 to 1, got '0.5'",
        ),
        ("simulated/constant", {"label": 3}, "label must be a string, got 3"),
    ],
)
def test_parameters_are_checked(name: str, params: dict[str, object], reason: str) -> None:
    """An unknown parameter or an invalid value is refused before the first turn."""
    with pytest.raises(InputError, match=reason):
        open_model(name, params=params)


def test_an_experiment_with_an_unknown_parameter() -> None:
    """The error names the arm, the key and the nearest parameter."""
    reason = "arm 'feedback', model.params: simulated/refuser .* 'rat': did you mean 'rate'"
    with pytest.raises(InputError, match=reason):
        experiment(model={"name": "simulated/refuser", "params": {"rat": 0.5}})


async def test_a_session_of_a_simulated_model_replays(tmp_path: Path) -> None:
    """A session of a model with parameters can be verified from its transcript."""
    model = {"name": "simulated/scheduled-accuracy", "params": {"drift": 0.5}}
    result = await Run(experiment(model=model, streams=1), tmp_path).play()
    assert [await verify(read(path)) for path in result.paths] == [12]


def test_an_unknown_data_set() -> None:
    """A model that looks samples up needs its data set when it is opened."""
    with pytest.raises(DatasetError, match="did you mean 'digits'"):
        open_model("simulated/oracle", params={"dataset": "digit"})


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("simulated/chanse", "simulated/chance"),
        ("reference/nearset", "reference/nearest"),
        ("participant/chance", "simulated/chance"),
        ("participant/decreed", "simulated/scheduled-accuracy"),
        ("participant/perfect", "simulated/oracle"),
    ],
)
def test_unknown_and_old_names(name: str, choice: str) -> None:
    """An unknown name of a built-in model, or one of an earlier version, is met with the nearest."""
    with pytest.raises(InputError, match=f"unknown model '{name}': did you mean '{choice}'"):
        open_model(name)
