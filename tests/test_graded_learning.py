"""Tests of log loss and Brier score from the log probabilities of labels."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment
from command_line import Command
from endpoint import Response, completion, serving
from icl_loop.analysis import conclude_each, frame, sessions
from icl_loop.analysis.calibration import BINS, calibration
from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.graded_learning import (
    MOST_BITS,
    Grade,
    grade,
    graded_arms,
    graded_contrasts,
    graded_turns,
    loss_curves,
)
from icl_loop.core.errors import InputError
from icl_loop.export import export
from icl_loop.report.page import page
from icl_loop.runner.run import Run
from icl_loop.transcripts.schema import line_of

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
LABELS = [str(digit) for digit in range(10)]
LOGPROBS = st.dictionaries(st.sampled_from(LABELS), st.floats(-30, 0), min_size=1)

Score = Callable[[dict[str, Any]], dict[str, float] | None]


def sharper(turn: dict[str, Any]) -> dict[str, float] | None:
    """Give the right label, never the most probable, more probability with every turn."""
    right = 0.45 * turn["turn"] / 40
    wrong = str((int(turn["label"]) + 1) % 10)
    rest = dict.fromkeys(LABELS, (1 - right - 0.5) / 8)
    shares = {**rest, turn["label"]: right or 1e-3, wrong: 0.5}
    return {label: math.log(share) for label, share in shares.items()}


def scored(folder: Path, score: Score, arms: str = "*") -> Path:
    """Copy transcripts of the sample with the log probabilities that `score` gives to turns."""
    folder.mkdir()
    for file in sorted(SAMPLE.glob(f"{arms}.jsonl")):
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        for line in lines:
            if line["type"] == "turn" and (logprobs := score(line)):
                line["label_logprobs"] = logprobs
        (folder / file.name).write_bytes(b"".join(map(line_of, lines)))
    return folder


def graded_frame(folder: Path) -> pl.DataFrame:
    """Return the graded turns of transcripts that have log probabilities."""
    graded = graded_turns(frame([folder]), [folder])
    assert graded is not None
    return graded


@given(st.integers(1, 30), st.floats(-20, 0), st.integers(0, 29))
def test_uniform_probabilities_lose_log2_of_the_labels(
    count: int, level: float, right: int
) -> None:
    """Equal probabilities of k labels lose log2(k) bits, whatever their total."""
    labels = [f"label {place}" for place in range(count)]
    found = grade(labels[right % count], labels, dict.fromkeys(labels, level))
    assert found is not None
    loss, brier, confidence, hit = found
    assert (confidence, hit) == pytest.approx((1 / count, 1 / count))
    assert loss == pytest.approx(math.log2(count))
    assert brier == pytest.approx(1 - 1 / count)


def test_certain_answers() -> None:
    """Certainty of the right label loses 0 bits; of a wrong one the maximum, and a Brier score of 2."""
    certain = {"3": 0.0}
    for logprobs in (certain, {**dict.fromkeys(LABELS, -9999.0), **certain}):
        assert grade("3", LABELS, logprobs) == (0.0, 0.0, 1.0, 1)
        assert grade("4", LABELS, logprobs) == (MOST_BITS, 2.0, 1.0, 0)


@given(LOGPROBS, st.sampled_from(LABELS), st.permutations(LABELS))
def test_label_names_do_not_matter(
    logprobs: dict[str, float], right: str, names: list[str]
) -> None:
    """Renaming and reordering the labels changes nothing."""
    name = dict(zip(LABELS, names, strict=True))
    renamed = {name[label]: value for label, value in reversed(logprobs.items())}
    assert grade(name[right], LABELS, renamed) == pytest.approx(grade(right, LABELS, logprobs))


@given(LOGPROBS, st.sampled_from(LABELS))
def test_grades_are_bounded(logprobs: dict[str, float], right: str) -> None:
    """Log loss is within 0 and its maximum, the Brier score within 0 and 2."""
    found = grade(right, LABELS, logprobs)
    if found is not None:  # too little is known
        assert 0 <= found.log_loss <= MOST_BITS
        assert 0 <= found.brier <= 2 + 1e-9
        assert 0.1 - 1e-9 <= found.confidence <= 1


@pytest.mark.parametrize(
    ("logprobs", "right", "share"),
    [
        ({"a": 0.6, "b": 0.3}, "c", 0.1 / 1.1),  # what is left is less than the smallest listed
        ({"a": 0.3, "b": 0.1}, "c", 0.1 / 0.6),
        ({"a": 0.6, "b": 0.3}, "a", 0.6 / 1.1),
    ],
)
def test_unlisted_labels_get_an_upper_bound(
    logprobs: dict[str, float], right: str, share: float
) -> None:
    """An unlisted label has the smallest listed probability, or what is left of 1 if less."""
    logs = {label: math.log(each) for label, each in logprobs.items()}
    found = grade(right, ["a", "b", "c", "d"], logs)
    assert found is not None
    assert found.log_loss == pytest.approx(-math.log2(share))


@pytest.mark.parametrize(
    "logprobs",
    [
        {"yes": -0.1},  # none of the labels
        {"3": -15.4},  # forced by a constraint: the others may be as improbable
        {"3": math.log(0.04), "4": math.log(0.02)},
    ],
)
def test_what_is_not_known_is_not_graded(logprobs: dict[str, float]) -> None:
    """There is no grade if the labels that are not listed could have as much as those that are."""
    assert all(grade(right, LABELS, logprobs) is None for right in LABELS)


def test_learning_shows_before_accuracy(tmp_path: Path) -> None:
    """Log loss falls although every answer is as it was; turns without probabilities are counted."""
    folder = scored(tmp_path / "scored", lambda turn: sharper(turn) if turn["turn"] % 7 else None)
    turns = frame([folder])
    graded = graded_frame(folder)
    assert graded.drop(Grade._fields).equals(turns)
    for arm in graded_arms(graded):
        early, late = arm.log_loss_early, arm.log_loss_late
        assert early.mean is not None
        assert late.mean is not None
        assert arm.guess == pytest.approx(math.log2(10))
        assert late.mean < arm.guess < early.mean
        played = turns.filter(arm=arm.arm)
        assert (arm.graded, arm.turns) == (
            played.filter(pl.col("turn") % 7 > 0).height,
            played.height,
        )
        assert late.sessions == played["path"].n_unique()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1))))
def test_calibration_error(turns: list[tuple[float, float]]) -> None:
    """The calibration error is the mean distance of confidence and accuracy in bins of equal width."""
    schema = {"confidence": pl.Float64, "hit": pl.Float64}
    found = calibration(pl.DataFrame(turns, schema=schema, orient="row"))
    bins: dict[int, list[tuple[float, float]]] = {}
    for confidence, hit in turns:
        bins.setdefault(min(int(confidence * BINS), BINS - 1), []).append((confidence, hit))
    apart = [len(each) * abs(np.subtract(*np.mean(each, axis=0))) for each in bins.values()]
    assert found.error == (pytest.approx(sum(apart) / len(turns)) if turns else None)
    assert [each.turns for each in found.bins] == [len(bins[place]) for place in sorted(bins)]
    assert all(each.low <= each.confidence + 1e-9 for each in found.bins)
    assert all(each.confidence <= each.high + 1e-9 for each in found.bins)


def test_calibrated_probabilities() -> None:
    """If labels occur as often as their probabilities say, the error is close to 0; if not, it is not."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(size=20_000)
    hits = rng.uniform(size=confidence.size) < confidence
    honest = pl.DataFrame({"confidence": confidence, "hit": hits})
    assert (calibration(honest).error or 0) < 0.02
    boastful = honest.with_columns(confidence=pl.col("confidence").sqrt())
    assert (calibration(boastful).error or 0) == pytest.approx(2 / 3 - 1 / 2, abs=0.02)


def test_contrast_is_that_of_late_means(tmp_path: Path) -> None:
    """The contrast is that of the mean log losses of late turns, with the tests used for accuracy."""
    folder = scored(
        tmp_path / "scored", lambda turn: dict.fromkeys(LABELS, -3.0) | {turn["label"]: -1.0}
    )
    turns, graded = frame([folder]), graded_frame(folder)
    shifted = graded.with_columns(
        log_loss=pl.col("log_loss") - 0.25 * (pl.col("arm") == "label") * (pl.col("stream") + 1)
    )
    conclusions = conclude_each(turns, ("label", "none"), sessions([folder]))
    found, *others = graded_contrasts(shifted, conclusions)
    assert {each.contrast.arms for each in others} <= {each.arms for each in conclusions[0].needed}
    streams = sorted(
        set(turns.filter(arm="label")["stream"]) & set(turns.filter(arm="none")["stream"])
    )
    expected = Contrast.of(
        ("label", "none"),
        {stream: -0.25 * (stream + 1) for stream in streams},
        dict.fromkeys(streams, 0.0),
    )
    assert found.contrast.streams == expected.streams
    assert found.contrast.theta == pytest.approx(expected.theta)
    assert found.contrast.p == expected.p


def test_curves_are_window_means(tmp_path: Path) -> None:
    """A point of a session's curve is the mean over the graded turns of its window."""
    folder = scored(
        tmp_path / "scored", lambda turn: sharper(turn) if turn["turn"] % 3 else None, "label-0"
    )
    graded = graded_frame(folder)
    losses = graded["log_loss"].to_numpy()
    curve = loss_curves(graded, 4)
    assert curve["turn"].to_list() == [place + 2.5 for place in range(len(losses) - 3)]
    expected = [np.nanmean(losses[place : place + 4]) for place in range(len(losses) - 3)]
    assert curve["log_loss"].to_list() == pytest.approx(expected)
    (row,) = loss_curves(graded, 10_000)["window"]
    assert row == graded.height
    with pytest.raises(InputError):
        loss_curves(graded, 0)


def test_exports_have_the_same_grades(tmp_path: Path, icl_loop: Command) -> None:
    """An export gives the same grades, and the same chart, as its transcripts."""
    folder = scored(tmp_path / "scored", sharper)
    made = tmp_path / "x.parquet"
    export([folder], "parquet", made)
    assert graded_frame(folder).equals(graded_frame(made))
    for place, name in ((folder, "a.svg"), (made, "b.svg")):
        done = icl_loop("plot", place, "--figure", "log-loss", "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    for figure in ("brier", "calibration"):
        done = icl_loop("plot", folder, "--figure", figure, "-o", tmp_path / f"{figure}.svg")
        assert done.returncode == 0, done.stderr
    assert "uniform guess" in (tmp_path / "brier.svg").read_text()
    assert "how often it is right" in (tmp_path / "calibration.svg").read_text()
    assert "uniform guess" in (tmp_path / "a.svg").read_text()
    assert len((tmp_path / "a.svg").read_text()) == len((tmp_path / "b.svg").read_text())


def test_report_has_a_section(tmp_path: Path) -> None:
    """The report has a section and a chart of log loss exactly if there are log probabilities."""
    folder = scored(tmp_path / "scored", sharper, "label-*")
    for place, has_section in ((folder, True), (SAMPLE, False)):
        text = page(frame([place]), paths=[place])
        assert ('<section id="graded"' in text) is has_section
        for name in ("log-loss", "calibration"):
            assert (f'id="figure-{name}"' in text) is has_section


def test_transcripts_without_log_probabilities(icl_loop: Command, tmp_path: Path) -> None:
    """Transcripts without log probabilities are analysed as before; their chart is an error."""
    said = icl_loop("analyze", SAMPLE)
    assert said.returncode == 0
    assert "Brier" not in said.stdout
    assert json.loads(icl_loop("analyze", SAMPLE, "--json").stdout)["graded"] is None
    drawn = icl_loop("plot", SAMPLE, "--figure", "log-loss", "-o", tmp_path / "x.svg")
    assert drawn.returncode == 2
    assert "answer_format" in drawn.stderr


async def test_replies_of_an_endpoint_are_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, icl_loop: Command
) -> None:
    """Log probabilities that an endpoint returns reach the table and the JSON of `analyze`."""
    monkeypatch.setenv("OPENAI_API_KEY", "unused")

    def answer(_: dict[str, Any]) -> Response:
        listed = [{"token": each, "logprob": math.log(0.1)} for each in LABELS]
        tokens = [{"token": "3", "logprob": math.log(0.1), "top_logprobs": listed}]
        return completion("3", logprobs={"content": tokens})

    with serving([answer]) as endpoint:
        model = {
            "name": "openai/tiny",
            "base_url": endpoint.base_url,
            "answer_format": "logprobs",
        }
        arms = [{"name": "label"}, {"name": "none", "feedback": {"kind": "none"}}]
        made = experiment(
            turns=6, streams=1, arms=arms, model=model, analysis={"primary": ["label", "none"]}
        )
        await Run(made, tmp_path).play()
    said = json.loads(icl_loop("analyze", tmp_path, "--json").stdout)["graded"]
    assert [each["graded"] for each in said["arms"]] == [6, 6]
    assert all(each["log_loss_late"] == pytest.approx(math.log2(10)) for each in said["arms"])
    assert said["contrasts"][0]["bits"] == pytest.approx(0)
    assert "Brier" in icl_loop("analyze", tmp_path).stdout


async def test_simulated_probabilities_are_graded(tmp_path: Path) -> None:
    """The scores of a model of known accuracy are those that its probabilities imply."""
    chosen = {
        "name": "simulated/scheduled-accuracy",
        "answer_format": "logprobs",
        "params": {"start": 0.3, "end": 0.3},
    }
    made = experiment(turns=200, streams=3, model=chosen)
    await Run(made, tmp_path).play()
    graded = graded_frame(tmp_path)
    (arm,) = graded_arms(graded)
    for estimate in (arm.log_loss_early, arm.log_loss_late):
        assert estimate.mean == pytest.approx(-math.log2(0.3))
    assert graded["brier"].to_numpy() == pytest.approx(0.7**2 + 9 * (0.7 / 9) ** 2)
    assert arm.calibration_late.error == pytest.approx(0.7)  # its best guess is always right
