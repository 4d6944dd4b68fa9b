"""Tests of the baseline."""

from pathlib import Path

import polars as pl
import pytest

from builders import experiment
from icl_loop.analysis import frame, sessions
from icl_loop.analysis.baseline import baseline, baselines, compare_with_baseline, request_of
from icl_loop.core.errors import InputError
from icl_loop.core.messages import fingerprint
from icl_loop.models import ScriptedModel
from icl_loop.runner.run import Run
from icl_loop.transcripts import read

ARMS = [
    {"name": "label", "feedback": {"kind": "label"}},
    {"name": "short", "feedback": {"kind": "label"}, "context": {"policy": "last(3)"}},
    {"name": "stateless", "context": {"policy": "stateless"}},
    {"name": "brief", "feedback": {"kind": "demonstrations"}},
    {"name": "notes", "context": {"policy": "notes(7, 60)"}},
    {"name": "japanese", "feedback": {"kind": "label"}, "task": {"prompts": "plain-ja"}},
]


async def test_baseline_of_reference_learner(tmp_path: Path) -> None:
    """The nearest neighbour is its own baseline, in every arm."""
    result = await Run(experiment(turns=30, arms=ARMS), tmp_path).play()
    for path in result.paths:
        saved = read(path)
        assert await baseline(saved) == [turn.feedback.correct for turn in saved.turns]


async def test_baseline_request(tmp_path: Path) -> None:
    """The baseline receives the request that the model received, including notes."""
    result = await Run(experiment(turns=30, arms=ARMS), tmp_path).play()
    for path in result.paths:
        saved = read(path)
        for turn in saved.turns:
            assert fingerprint(request_of(saved, turn)) == turn.request


async def test_baseline_learns_from_labels(tmp_path: Path) -> None:
    """Told the labels, the baseline learns even if the model never answers correctly."""
    made = experiment(turns=60, streams=2, arms=ARMS[:1])
    silent = await Run(made, tmp_path, open_model=lambda _: ScriptedModel(["hm"] * 200)).play()
    found = await baselines(silent.paths)
    assert found.height == 120
    assert found.filter(pl.col("turn") >= 30)["baseline"].mean() > 0.45  # type: ignore[operator]  # a mean of booleans
    (row,) = compare_with_baseline(frame(silent.paths), found, sessions(silent.paths))
    assert row.excess_regret.mean == found["baseline"].sum() / 2


async def test_an_unknown_learner(tmp_path: Path) -> None:
    """An unknown learner is an error that suggests the nearest name."""
    result = await Run(experiment(streams=1), tmp_path).play()
    with pytest.raises(InputError, match=r"unknown reference learner 'nearest': .*reference/"):
        await baseline(read(result.paths[0]), "nearest")


async def test_compare_with_own_baseline(tmp_path: Path) -> None:
    """Compared with itself, a learner has no excess regret and an efficiency of 1."""
    made = experiment(turns=60, streams=2, arms=ARMS)
    result = await Run(made, tmp_path).play()
    turns = frame(result.paths)
    baseline_turns = await baselines(map(Path, turns["path"].unique(maintain_order=True)))
    rows = {
        row.arm: row for row in compare_with_baseline(turns, baseline_turns, sessions(result.paths))
    }
    assert all(row.excess_regret.mean == 0 for row in rows.values())
    assert rows["label"].learning_efficiency == pytest.approx(1)
    assert rows["stateless"].learning_efficiency is None
    late = turns.filter(pl.col("arm") == "label", pl.col("turn") >= 30)["correct"].mean()
    assert rows["label"].late.mean == pytest.approx(late)
