"""Tests of metrics."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import experiment, without_checksum
from icl_loop.analysis import conclude_each, confusion, frame, measure, nearest_turns, sessions
from icl_loop.analysis.metrics import (
    equivalent_examples,
    learning_efficiency,
    metrics_fields,
)
from icl_loop.analysis.neighbours import nearest_shown
from icl_loop.analysis.told import Recorded, with_verdicts
from icl_loop.analysis.use_of_feedback import exploration, feedback_use, feedback_use_contrasts
from icl_loop.runner.run import Run
from icl_loop.tasks.prompts import open_prompt_set

Answer = tuple[str, str | None]
"""Label and answer."""
ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("abc")), min_size=1
)


def answered(
    *sessions: Sequence[Answer],
    planned: int = 100,
    exposed: bool = True,
    told: Sequence[bool | None] | None = None,
    delay: int = 0,
) -> pl.DataFrame:
    """Return a frame of one arm with these answers, one sequence per session.

    `told` says which answers are called right or wrong; by default it is the truth.
    """
    schema = {"answer": pl.String, "told_right": pl.Boolean, "told_label": pl.String}
    schema |= {"told_after": pl.Int64}
    rows = [
        {
            "path": f"a-{stream}",
            "experiment": "small",
            "arm": "a",
            "stream": stream,
            "turns": planned,
            "turn": turn,
            "label": label,
            "answer": answer,
            "correct": label == answer,
            "chance": 1 / 3,
            "told_right": right,
            "told_label": answer if right else None,
            "told_after": None if right is None else turn + delay,
            "exposure": turn if exposed else 0,
            "latency_s": 0.5 + turn,
            "prompt": 10,
            "cached": 4,
            "completion": 3,
            "reasoning": 1,
        }
        for stream, session in enumerate(sessions)
        for turn, (label, answer) in enumerate(session)
        for right in [label == answer if told is None else told[turn]]
    ]
    return pl.DataFrame(rows, schema_overrides=schema)


@given(ANSWERS)
def test_balanced_accuracy(session: list[Answer]) -> None:
    """Balanced accuracy is the mean recall over labels."""
    [found] = measure(answered(session))
    for label, recall in found.recall.items():
        right = [label == answer for truth, answer in session if truth == label]
        assert recall == pytest.approx(np.mean(right))
    assert found.recall.keys() == {label for label, _ in session}
    assert found.balanced_accuracy == pytest.approx(np.mean(list(found.recall.values())))


@given(ANSWERS)
def test_confusion(session: list[Answer]) -> None:
    """The confusion table counts every pair of label and answer; the shares of a label sum to 1."""
    table = confusion(answered(session))
    counts = {
        (label, answer): n for label, answer, n in table.select("label", "answer", "turns").rows()
    }
    assert counts == Counter(session)
    for share in table.group_by("label").agg(pl.col("share").sum())["share"]:
        assert share == pytest.approx(1)


@given(ANSWERS)
def test_entropy(session: list[Answer]) -> None:
    """Entropy is that of the parsed answers, in bits."""
    [found] = measure(answered(session, planned=2 * len(session) - 1))
    late = [answer for _, answer in session[(2 * len(session) - 1) // 2 :] if answer is not None]
    if not late:
        assert (found.entropy_late.mean, found.top_share_late.mean) == (None, None)
        return
    shares = [count / len(late) for count in Counter(late).values()]
    assert found.entropy_late.mean == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert found.top_share_late.mean == pytest.approx(max(shares))


def test_collapse() -> None:
    """Collapse onto one answer has late entropy 0 and top share 1."""
    session: list[Answer] = [("a", answer) for answer in "abcabcabca" + 90 * "b"]
    [found] = measure(answered(session))
    assert found.entropy_early.mean == pytest.approx(1.571, abs=1e-3)
    assert (found.entropy_late.mean, found.top_share_late.mean) == (0, 1)


# ---- use of feedback ---------------------------------------------------------------------


def use(
    session: Sequence[Answer],
    nearest: Sequence[int | None] | None = None,
    told: Sequence[bool | None] | None = None,
    delay: int = 0,
) -> float | None:
    """Return the feedback use of one session."""
    pointed = None if nearest is None else {"a-0": nearest}
    [value] = feedback_use(answered(session, told=told, delay=delay), pointed)["feedback_use"]
    return None if value is None else float(value)


TOLD = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.none() | st.sampled_from("abc"), st.none() | st.booleans()
    ),
    min_size=1,
)
"""Label, answer, and whether the answer was called right or wrong, if anything was said."""


@given(TOLD, st.integers(0, 3), st.data())
def test_feedback_use(
    session: list[tuple[str, str | None, bool | None]], delay: int, data: st.DataObject
) -> None:
    """Feedback use is P(repeated | called right) - P(repeated | called wrong), whatever the truth.

    A verdict counts from the turn after it was told; the opposite verdicts have the opposite use.
    """
    answers, told = [each[:2] for each in session], [each[2] for each in session]
    nearest = [
        data.draw(st.none() | st.integers(0, turn - 1)) if turn else None
        for turn in range(len(session))
    ]
    repeats: dict[bool, list[bool]] = {True: [], False: []}
    for turn, ((_, answer), past) in enumerate(zip(answers, nearest, strict=True)):
        if past is not None and past + delay < turn and answers[past][1] is not None:
            right = told[past]
            if right is not None:
                repeats[right].append(answer == answers[past][1])
    found = use(answers, nearest, told, delay)
    opposite = [None if right is None else not right for right in told]
    other = use(answers, nearest, opposite, delay)
    if repeats[True] and repeats[False]:
        expected = np.mean(repeats[True]) - np.mean(repeats[False])
        assert found == pytest.approx(expected)
        assert other == pytest.approx(-expected)
    else:
        assert found is other is None


@given(TOLD, st.integers(0, 3))
def test_exploration(session: list[tuple[str, str | None, bool | None]], delay: int) -> None:
    """Exploration is measured by class, from what had been told before each turn."""
    answers, told = [each[:2] for each in session], [each[2] for each in session]
    refuted, greedy = [], []
    for turn, (label, answer) in enumerate(answers):
        past = [(*answers[at], told[at]) for at in range(max(0, turn - delay))]
        judged = [(said, right) for name, said, right in past if name == label and said is not None]
        judged = [(said, right) for said, right in judged if right is not None]
        if judged and not judged[-1][1]:
            refuted.append(answer == judged[-1][0])
        if known := [said for said, right in judged if right]:
            greedy.append(answer == known[-1])
    classes = {label for label, _ in answers}
    tried = [len({said for name, said in answers if name == each and said}) for each in classes]
    [found] = exploration(answered(answers, told=told, delay=delay)).to_dicts()
    assert found["labels_tried"] == pytest.approx(np.mean(tried) / 3)
    for name, repeats in (("refuted_repeats", refuted), ("greedy_share", greedy)):
        assert found[name] == (pytest.approx(np.mean(repeats)) if repeats else None)
    [alone] = exploration(answered(answers, told=told, exposed=False)).to_dicts()
    assert alone["refuted_repeats"] is alone["greedy_share"] is None


def test_feedback_use_of_win_stay_lose_shift() -> None:
    """Win-stay, lose-shift has a feedback use of 1; without exposure it is undefined."""
    session = [("a", "b"), ("a", "c"), ("a", "a"), ("a", "a"), ("b", "a"), ("b", "c")]
    assert use(session) == 1
    [alone] = feedback_use(answered(session, exposed=False))["feedback_use"]
    assert alone is None


@given(st.integers(1, 8), st.integers(0, 99))
def test_nearest_shown(count: int, seed: int) -> None:
    """The nearest image is the closest one shown; ties go to the latest."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(3, size=(count, 2, 2))
    shown = [[past for past in range(turn) if rng.random() < 0.7] for turn in range(count)]
    for turn, found in enumerate(nearest_shown(pictures, shown)):
        distances = {past: ((pictures[past] - pictures[turn]) ** 2).sum() for past in shown[turn]}
        least = min(distances.values(), default=None)
        assert found == max((past for past in distances if distances[past] == least), default=None)


# ---- curves ------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_learning_efficiency(accuracy: float, stateless: float, reference: float) -> None:
    """Efficiency is 0 at stateless accuracy and 1 at the reference's; None without a gain."""
    found = learning_efficiency(accuracy, stateless, reference)
    assert (found is None) == (reference <= stateless)
    if reference > stateless:
        assert learning_efficiency(stateless, stateless, reference) == 0
        assert learning_efficiency(reference, stateless, reference) == 1


CURVES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(CURVES, st.floats(0, 1))
def test_equivalent_examples(curve: list[float], accuracy: float) -> None:
    """Equivalent examples is the first place where the interpolated curve reaches the accuracy."""
    turns = np.arange(10.0, 10 * len(curve) + 1, 10)
    found = equivalent_examples(accuracy, turns, curve)
    if max(curve) < accuracy:
        assert found is None
        return
    assert found is not None
    assert np.interp(found, turns, curve) >= accuracy - 1e-9
    before = [value for turn, value in zip(turns, curve, strict=True) if turn < found - 1e-9]
    assert all(value < accuracy for value in before)


def test_equivalent_examples_interpolation() -> None:
    """Equivalent examples are interpolated linearly between points."""
    assert equivalent_examples(0.5, [10, 20, 30], [0.2, 0.4, 0.6]) == 25
    assert equivalent_examples(0.1, [10, 20], [0.2, 0.4]) == 10
    assert equivalent_examples(0.9, [10, 20], [0.2, 0.4]) is None


# ---- whole results -----------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(ANSWERS, min_size=1, max_size=3))
def test_metrics_json(sessions: list[list[Answer]]) -> None:
    """Metrics survive a JSON round trip; undefined values are null."""
    [found] = measure(answered(*sessions))
    fields = metrics_fields(found)
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields


def test_totals() -> None:
    """Tokens are summed, wrong answers and exposure averaged over sessions; latency is a median."""
    [found] = measure(answered([("a", "a"), ("a", "b"), ("b", None)], [("a", "a")]))
    assert found.tokens == {"prompt": 40, "cached": 16, "completion": 12, "reasoning": 4}
    assert (found.wrong.mean, found.exposure.mean, found.latency_s) == (1, 0.5, 1)


async def test_measure_run(tmp_path: Path) -> None:
    """Arms of a real run are measured in order; a stateless arm has no exposure."""
    arms = [{"name": "label"}, {"name": "bare", "context": {"policy": "stateless"}}]
    result = await Run(experiment(arms=arms), tmp_path).play()
    label, bare = measure(frame(result.paths))
    assert (label.arm, bare.arm) == ("label", "bare")
    assert (label.exposure.mean, bare.exposure.mean) == (5.5, 0)
    assert bare.feedback_use.mean is None


@pytest.mark.parametrize("written", ["grid", "article", "table", "text"])
async def test_feedback_use_of_nearest_neighbour(tmp_path: Path, written: str) -> None:
    """A nearest neighbour has a feedback use of 1 if it is told the labels, for samples of any kind.

    Without feedback there is none; flipped labels are repeated as they were told.
    """
    arms = [
        {"name": "label", "feedback": {"kind": "label"}},
        {"name": "none", "feedback": {"kind": "none"}},
    ]
    task: dict[str, str] = {"encoding": written}
    if written == "text":
        rows = [
            f"{word} {place},{word[0]}" for place in range(90) for word in ("ant", "bee", "cow")
        ]
        (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(rows))
        task["dataset"] = f"csv:{tmp_path / 'texts.csv'}"
    elif written == "table":
        task["dataset"] = "iris"
    made = experiment(arms=arms, turns=60, task=task)
    result = await Run(made, tmp_path).play()
    nearest = nearest_turns(result.paths)
    assert nearest.keys() == {str(path) for path in result.paths}
    label, none = measure(frame(result.paths), nearest)
    assert label.feedback_use.mean is not None
    if written in ("grid", "article"):
        assert label.feedback_use.mean == 1  # ties of distance are rare enough at this size
    assert label.feedback_use.mean > 0.8  # rows are scaled by the session rather than the request
    assert none.feedback_use.mean is None


@pytest.mark.parametrize("change", [("Image:", "Look:"), ('"encoding":"grid"', '"encoding":"oil"')])
async def test_undecodable_questions(tmp_path: Path, change: tuple[str, str]) -> None:
    """Sessions whose prompts or encoding are unknown have no nearest images."""
    result = await Run(experiment(turns=4, streams=1), tmp_path).play()
    [path] = result.paths
    text = without_checksum(path.read_text())
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert nearest_turns([path]) == {}
    [found] = measure(frame([path]), {})
    assert found.feedback_use.mean is None


async def test_what_was_told(tmp_path: Path) -> None:
    """The frame knows what the model was told about each answer, whatever the kind of feedback."""
    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        "flipped": {"kind": "flipped"},
        "label": {"kind": "label"},
        "none": {"kind": "none"},
        "late": {"delay": 3},
        "positive": {"only": "positive"},
        "shown": {"kind": "demonstrations"},
        "yoked": {"kind": "yoked", "donor": "plain"},
        "noisy": {"noise": 0.5},
    }
    arms = [{"name": name, "feedback": kind} for name, kind in kinds.items()]
    made = experiment(
        arms=arms, turns=30, streams=2, model={"name": "simulated/win-stay-lose-shift"}
    )
    turns = frame((await Run(made, tmp_path).play()).paths)

    def column(arm: str, name: str, stream: int = 0) -> list[object]:
        return turns.filter(arm=arm, stream=stream)[name].to_list()

    correct = column("plain", "correct")
    assert column("plain", "told_right") == correct
    assert column("flipped", "told_right") == [not each for each in column("flipped", "correct")]
    assert column("label", "told_right") == column("label", "correct")
    assert column("label", "told_label") == column("label", "label")
    assert column("none", "told_right") == column("none", "told_label") == [None] * 30
    assert column("late", "told_right") == [*column("late", "correct")[:27], None, None, None]
    assert column("late", "told_after") == [*range(3, 30), None, None, None]
    assert column("positive", "told_right") == [
        each or None for each in column("positive", "correct")
    ]
    assert column("shown", "told_right") == [None] * 30
    assert column("shown", "told_label") == column("shown", "label")
    assert column("yoked", "told_right") == column("plain", "told_right", 1)
    assert column("noisy", "told_right") not in (column("noisy", "correct"), correct)
    for arm in ("plain", "flipped", "yoked", "noisy"):
        answers = zip(column(arm, "answer"), column(arm, "told_right"), strict=True)
        assert column(arm, "told_label") == [answer if right else None for answer, right in answers]
    # It repeats what is called right and changes what is called wrong, even if that is not the truth.
    for (arm,), part in turns.filter(pl.col("arm").is_in(["plain", "flipped", "noisy"])).group_by(
        "arm"
    ):
        assert set(feedback_use(part)["feedback_use"]) == {1.0}, arm


async def test_contrasts_of_feedback_use(tmp_path: Path) -> None:
    """Use of feedback is compared stream by stream with the arms that are told right and wrong, too."""
    arms = [
        {"name": "label", "feedback": {"kind": "label"}},
        {"name": "none", "feedback": {"kind": "none"}},
        {"name": "yoked", "feedback": {"kind": "yoked", "donor": "plain"}},
        {"name": "plain"},
    ]
    made = experiment(arms=arms, turns=60, streams=3, analysis={"primary": ["plain", "yoked"]})
    turns = frame((await Run(made, tmp_path).play()).paths)
    nearest = nearest_turns([tmp_path])
    conclusions = conclude_each(turns, None, sessions([tmp_path]))
    used = feedback_use(turns, nearest)
    [(name, contrast)] = feedback_use_contrasts(turns, nearest, conclusions)
    assert (name, contrast.arms, contrast.k) == ("small", ("plain", "yoked"), 3)
    plain, yoked = (used.filter(arm=arm).sort("stream")["feedback_use"] for arm in contrast.arms)
    assert contrast.differences == pytest.approx((plain - yoked).to_list())
    assert feedback_use_contrasts(turns, {}, conclusions) == []


def test_words_of_an_own_prompt_set(tmp_path: Path) -> None:
    """Feedback is understood in the session's own prompt set before any other."""
    own = tmp_path / "own.toml"
    plain = open_prompt_set("plain").told
    lines = [f"correct = {json.dumps(plain.incorrect)}", f"incorrect = {json.dumps(plain.correct)}"]
    own.write_text("\n".join(['extend = "plain"', "[told]", *lines]))
    turns = pl.DataFrame(
        {"path": ["a", "b"], "turn": [0, 0], "label": ["1", "1"], "answer": ["1", "2"]}
    ).with_columns(told=pl.lit(plain.correct))
    known = {"a": Recorded(str(own), "correctness")}
    assert with_verdicts(turns, known)["told_right"].to_list() == [False, True]
