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
from icl_loop.analysis import confusion, frame, measure, nearest_pictures
from icl_loop.analysis.image_neighbours import nearest_shown
from icl_loop.analysis.metrics import (
    equivalent_examples,
    feedback_use,
    learning_efficiency,
    metrics_fields,
)
from icl_loop.runner.run import Run

Answer = tuple[str, str | None]
"""Label and answer."""
ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("abc")), min_size=1
)


def answered(*sessions: Sequence[Answer], planned: int = 100, exposed: bool = True) -> pl.DataFrame:
    """Return a frame of one arm with these answers, one sequence per session."""
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
            "exposure": turn if exposed else 0,
            "latency_s": 0.5 + turn,
            "prompt": 10,
            "cached": 4,
            "completion": 3,
            "reasoning": 1,
        }
        for stream, session in enumerate(sessions)
        for turn, (label, answer) in enumerate(session)
    ]
    return pl.DataFrame(rows, schema_overrides={"answer": pl.String})


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


def use(session: Sequence[Answer], nearest: Sequence[int | None] | None = None) -> float | None:
    """Return the feedback use of one session."""
    pointed = None if nearest is None else {"a-0": nearest}
    [value] = feedback_use(answered(session), pointed)["feedback_use"]
    return None if value is None else float(value)


@given(ANSWERS, st.data())
def test_feedback_use(session: list[Answer], data: st.DataObject) -> None:
    """Feedback use is P(repeated | right) - P(repeated | wrong)."""
    nearest = [
        data.draw(st.none() | st.integers(0, turn - 1)) if turn else None
        for turn in range(len(session))
    ]
    repeats: dict[bool, list[bool]] = {True: [], False: []}
    for (_, answer), past in zip(session, nearest, strict=True):
        if past is not None and session[past][1] is not None:
            label, said = session[past]
            repeats[label == said].append(answer == said)
    found = use(session, nearest)
    if repeats[True] and repeats[False]:
        assert found == pytest.approx(np.mean(repeats[True]) - np.mean(repeats[False]))
    else:
        assert found is None


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


@pytest.mark.parametrize("written", ["grid", "article"])
async def test_feedback_use_of_nearest_neighbour(tmp_path: Path, written: str) -> None:
    """A nearest neighbour told the labels has a feedback use of 1."""
    arms = [
        {"name": "label", "feedback": {"kind": "label"}},
        {"name": "none", "feedback": {"kind": "none"}},
    ]
    made = experiment(arms=arms, turns=60, task={"encoding": written})
    result = await Run(made, tmp_path).play()
    nearest = nearest_pictures(result.paths)
    assert nearest.keys() == {str(path) for path in result.paths}
    label, none = measure(frame(result.paths), nearest)
    assert label.feedback_use.mean == 1  # ties of distance are rare enough at this size
    assert none.feedback_use.mean is not None
    assert none.feedback_use.mean < 0.5


@pytest.mark.parametrize("change", [("Image:", "Look:"), ('"encoding":"grid"', '"encoding":"oil"')])
async def test_undecodable_questions(tmp_path: Path, change: tuple[str, str]) -> None:
    """Sessions whose prompts or encoding are unknown have no nearest images."""
    result = await Run(experiment(turns=4, streams=1), tmp_path).play()
    [path] = result.paths
    text = without_checksum(path.read_text())
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert nearest_pictures([path]) == {}
    [found] = measure(frame([path]), {})
    assert found.feedback_use.mean is None
