"""The laws of metrics: each is the plain count that its sentence says."""

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
from icl_loop.analysis import (
    confusion,
    equivalent_examples,
    excess_regret,
    feedback_use,
    frame,
    learning_efficiency,
    measure,
    metrics_fields,
    nearest_pictures,
    nearest_shown,
)
from icl_loop.core.errors import InputError
from icl_loop.runner.run import Run

Answer = tuple[str, str | None]
"""The right label, and what was answered."""
ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("abc")), min_size=1
)


def answered(*sessions: Sequence[Answer], planned: int = 100, exposed: bool = True) -> pl.DataFrame:
    """Return a frame of one arm whose sessions were answered like this."""
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
def test_balanced_accuracy_counts_every_label_alike(session: list[Answer]) -> None:
    """Balanced accuracy is the mean over labels of the share of their turns that were right."""
    [found] = measure(answered(session))
    for label, recall in found.recall.items():
        right = [label == answer for truth, answer in session if truth == label]
        assert recall == pytest.approx(np.mean(right))
    assert found.recall.keys() == {label for label, _ in session}
    assert found.balanced_accuracy == pytest.approx(np.mean(list(found.recall.values())))


@given(ANSWERS)
def test_confusion_counts_every_turn(session: list[Answer]) -> None:
    """The confusion holds every turn once, under its label and its answer; shares make up 1."""
    table = confusion(answered(session))
    counts = {
        (label, answer): n for label, answer, n in table.select("label", "answer", "turns").rows()
    }
    assert counts == Counter(session)
    for share in table.group_by("label").agg(pl.col("share").sum())["share"]:
        assert share == pytest.approx(1)


@given(ANSWERS)
def test_entropy_is_shannons(session: list[Answer]) -> None:
    """Entropy is that of the shares of the answers that could be read, in bits."""
    [found] = measure(answered(session, planned=2 * len(session) - 1))
    late = [answer for _, answer in session[(2 * len(session) - 1) // 2 :] if answer is not None]
    if not late:
        assert (found.entropy_late.mean, found.top_share_late.mean) == (None, None)
        return
    shares = [count / len(late) for count in Counter(late).values()]
    assert found.entropy_late.mean == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert found.top_share_late.mean == pytest.approx(max(shares))


def test_collapse_is_seen() -> None:
    """An arm that comes to answer one label has entropy 0 and a top share of 1 in its late turns."""
    session: list[Answer] = [("a", answer) for answer in "abcabcabca" + 90 * "b"]
    [found] = measure(answered(session))
    assert found.entropy_early.mean == pytest.approx(1.571, abs=1e-3)
    assert (found.entropy_late.mean, found.top_share_late.mean) == (0, 1)


# ---- use of feedback ---------------------------------------------------------------------


def use(session: Sequence[Answer], nearest: Sequence[int | None] | None = None) -> float | None:
    """Return the use of feedback of one session."""
    pointed = None if nearest is None else {"a-0": nearest}
    [value] = feedback_use(answered(session), pointed)["feedback_use"]
    return None if value is None else float(value)


@given(ANSWERS, st.data())
def test_feedback_use_is_a_difference_of_shares(session: list[Answer], data: st.DataObject) -> None:
    """It is the share of repeated answers after a right one less the share after a wrong one."""
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


def test_who_stays_when_right_and_shifts_when_wrong_uses_feedback() -> None:
    """Staying after every right answer and shifting after every wrong one is a use of 1."""
    session = [("a", "b"), ("a", "c"), ("a", "a"), ("a", "a"), ("b", "a"), ("b", "c")]
    assert use(session) == 1
    [alone] = feedback_use(answered(session, exposed=False))["feedback_use"]
    assert alone is None


@given(st.integers(1, 8), st.integers(0, 99))
def test_the_nearest_picture_is_the_nearest_of_those_shown(count: int, seed: int) -> None:
    """The nearest past turn is at the least distance among those shown, the newest of equals."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(3, size=(count, 2, 2))
    shown = [[past for past in range(turn) if rng.random() < 0.7] for turn in range(count)]
    for turn, found in enumerate(nearest_shown(pictures, shown)):
        distances = {past: ((pictures[past] - pictures[turn]) ** 2).sum() for past in shown[turn]}
        least = min(distances.values(), default=None)
        assert found == max((past for past in distances if distances[past] == least), default=None)


# ---- curves ------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_excess_regret_is_of_wrong_answers(pairs: list[tuple[bool, bool]]) -> None:
    """Excess regret after n turns is the wrong answers so far less those of the reference."""
    mine, other = ([pair[side] for pair in pairs] for side in (0, 1))
    wanted = [mine[: n + 1].count(False) - other[: n + 1].count(False) for n in range(len(pairs))]
    assert excess_regret(mine, other).tolist() == wanted
    with pytest.raises(InputError, match="same length"):
        excess_regret([*mine, True], other)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_efficiency_is_a_share_of_the_references_gain(
    accuracy: float, stateless: float, reference: float
) -> None:
    """Efficiency is 0 at the stateless accuracy, 1 at the reference's, None if that gains nothing."""
    found = learning_efficiency(accuracy, stateless, reference)
    assert (found is None) == (reference <= stateless)
    if reference > stateless:
        assert learning_efficiency(stateless, stateless, reference) == 0
        assert learning_efficiency(reference, stateless, reference) == 1


CURVES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(CURVES, st.floats(0, 1))
def test_equivalent_examples_is_where_the_curve_first_reaches(
    curve: list[float], accuracy: float
) -> None:
    """On the line through a reference curve's points, nothing before the found place is as high."""
    turns = np.arange(10.0, 10 * len(curve) + 1, 10)
    found = equivalent_examples(accuracy, turns, curve)
    if max(curve) < accuracy:
        assert found is None
        return
    assert found is not None
    assert np.interp(found, turns, curve) >= accuracy - 1e-9
    before = [value for turn, value in zip(turns, curve, strict=True) if turn < found - 1e-9]
    assert all(value < accuracy for value in before)


def test_equivalent_examples_lie_between_points() -> None:
    """Half-way up between two points of the curve is half-way between their turns."""
    assert equivalent_examples(0.5, [10, 20, 30], [0.2, 0.4, 0.6]) == 25
    assert equivalent_examples(0.1, [10, 20], [0.2, 0.4]) == 10
    assert equivalent_examples(0.9, [10, 20], [0.2, 0.4]) is None


# ---- the whole ---------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(ANSWERS, min_size=1, max_size=3))
def test_json_holds_no_nan(sessions: list[list[Answer]]) -> None:
    """Metrics as JSON read back as they were, and what is undefined in them is null."""
    [found] = measure(answered(*sessions))
    fields = metrics_fields(found)
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields


def test_tokens_and_seconds_are_those_of_all_turns() -> None:
    """Tokens are summed, exposure and wrong answers are means over sessions, seconds a median."""
    [found] = measure(answered([("a", "a"), ("a", "b"), ("b", None)], [("a", "a")]))
    assert found.tokens == {"prompt": 40, "cached": 16, "completion": 12, "reasoning": 4}
    assert (found.wrong.mean, found.exposure.mean, found.latency_s) == (1, 0.5, 1)


async def test_real_sessions_are_measured(tmp_path: Path) -> None:
    """The arms of a real run are measured in their order, and a window of nothing exposes nothing."""
    arms = [{"name": "label"}, {"name": "bare", "context": {"policy": "stateless"}}]
    result = await Run(experiment(arms=arms), tmp_path).play()
    label, bare = measure(frame(result.paths))
    assert (label.arm, bare.arm) == ("label", "bare")
    assert (label.exposure.mean, bare.exposure.mean) == (5.5, 0)
    assert bare.feedback_use.mean is None


@pytest.mark.parametrize("written", ["grid", "article"])
async def test_a_nearest_neighbour_uses_all_feedback(tmp_path: Path, written: str) -> None:
    """Told the labels, a nearest neighbour repeats what was right and never what was wrong."""
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
async def test_what_cannot_be_read_back_is_left_out(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    """A session of other words, or of an encoding that is not known, has no nearest pictures."""
    result = await Run(experiment(turns=4, streams=1), tmp_path).play()
    [path] = result.paths
    text = without_checksum(path.read_text())
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert nearest_pictures([path]) == {}
    [found] = measure(frame([path]), {})
    assert found.feedback_use.mean is None
