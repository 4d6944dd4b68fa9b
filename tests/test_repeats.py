"""Repeats: sessions of one stream that differ in the model's sampling alone."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, transcripts_of
from icl_loop.analysis import conclude, frame, sessions
from icl_loop.analysis.variance_components import components, variance_components
from icl_loop.core.errors import InputError
from icl_loop.experiment import Experiment
from icl_loop.export import export
from icl_loop.planning import plan
from icl_loop.replay.branching import branches
from icl_loop.replay.verification import verify
from icl_loop.runner.model_pool import model_key
from icl_loop.runner.run import Run
from icl_loop.transcripts import read

ARMS = [
    {"name": "feedback", "feedback": {"noise": 0.2}},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
]


def repeated(repeats: int = 3, **changes: Any) -> Experiment:  # noqa: ANN401  any top-level key
    """Return a small experiment whose model samples, with abstract labels and noise."""
    table = {"model": {"name": "simulated/chance"}, "task": {"labels": "abstract"}, "arms": ARMS}
    return experiment(**{**table, "repeats": repeats, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment of two streams, each played three times under both arms."""
    folder = tmp_path_factory.mktemp("repeats")
    assert asyncio.run(Run(repeated(), folder).play()).complete
    return folder / "small"


async def test_repeats_differ_in_sampling_alone(saved: Path) -> None:
    """Repeats of a stream have the same samples, labels, system message and noise, and other answers."""
    for arm in ("feedback", "yoked"):
        files = [f"{arm}-0.jsonl", f"{arm}-0-r1.jsonl", f"{arm}-0-r2.jsonl"]
        played = [read(saved / name) for name in files]
        assert [each.header.repeat for each in played] == [0, 1, 2]
        assert len({each.header.id for each in played}) == 3
        assert len({each.header.system for each in played}) == 1
        assert len({tuple((t.sample, t.label) for t in each.turns) for each in played}) == 1
        assert len({tuple(turn.answer for turn in each.turns) for each in played}) == 3
        for each in played:
            assert await verify(each) == 12
        if arm == "feedback":
            flips = {
                tuple(("Correct" in t.feedback.told) != t.feedback.correct for t in each.turns)
                for each in played
            }
            assert len(flips) == 1


async def test_the_first_repeat_is_the_session_without_repeats(saved: Path, tmp_path: Path) -> None:
    """With one repeat, names and contents of files are those of the first repeats of several."""
    await Run(repeated(1), tmp_path).play()
    once, all_files = transcripts_of(tmp_path / "small"), transcripts_of(saved)
    assert once == {name: data for name, data in all_files.items() if "-r" not in name}
    assert len(all_files) == 3 * len(once) == 12
    assert not any(b'"repeat"' in data for data in once.values())


async def test_repeats_can_be_added_and_resumed(saved: Path, tmp_path: Path) -> None:
    """A run with fewer repeats, or one that was cut, becomes the whole one when it is run again."""
    await Run(repeated(1), tmp_path).play()
    cut = tmp_path / "small" / "feedback-1-r1.jsonl"
    cut.write_bytes(b"".join((saved / cut.name).read_bytes().splitlines(keepends=True)[:6]))
    seen = []
    run = Run(repeated(), tmp_path, on_turn=lambda session, _: seen.append(session.file_name))
    assert (await run.play()).complete
    assert transcripts_of(tmp_path / "small") == transcripts_of(saved)
    assert len(seen) == run.experiment.count() * 12 == 144


def test_a_yoked_repeat_has_the_donor_of_its_own_repeat(saved: Path) -> None:
    """The donor of a yoked session is the same repeat of the next stream."""
    for repeat in range(3):
        suffix = f"-r{repeat}" if repeat else ""
        yoked = read(saved / f"yoked-0{suffix}.jsonl")
        donor = read(saved / f"feedback-1{suffix}.jsonl")
        assert yoked.header.donor is not None
        assert (yoked.header.donor.id, yoked.header.donor.repeat) == (donor.header.id, repeat)
        told = [[turn.feedback.told for turn in each.turns] for each in (yoked, donor)]
        assert told[0] == told[1]


def test_repeats_in_frames_and_exports(saved: Path, tmp_path: Path) -> None:
    """Frames and exports hold the number of the repeat; contrasts count streams."""
    turns = frame([saved])
    counts = turns.group_by("arm", "stream", "repeat").len()
    assert counts.height == 12
    assert counts["len"].to_list() == [12] * 12
    export([saved], "parquet", tmp_path / "x.parquet")
    assert frame([tmp_path / "x.parquet"]).drop("path").equals(turns.drop("path"))
    concluded = conclude(turns, ("feedback", "yoked"), sessions([saved]))
    assert concluded.primary is not None
    assert concluded.primary.k == 2
    assert not any("donor" in each for each in concluded.warnings)


async def test_branches_of_repeats(saved: Path, tmp_path: Path) -> None:
    """Branches of the repeats of a stream are repeats, too, in files of their own."""
    made = branches(sorted(saved.glob("feedback-0*.jsonl")), 4)
    result = await Run(made, tmp_path).play()
    assert result.complete
    assert sorted(read(path).header.repeat for path in result.paths) == [0, 1, 2]
    for path in result.paths:
        assert await verify(read(path)) == 12


async def test_plan_counts_repeats() -> None:
    """R repeats make R times as many sessions and requests."""
    one, three = [await plan(repeated(number), advised=False) for number in (1, 3)]
    assert three.cost.requests == 3 * one.cost.requests
    assert [arm.sessions for arm in three.arms] == [3 * arm.sessions for arm in one.arms] == [6, 6]


@given(seed=st.integers(0, 2**31), nested=st.booleans())
def test_request_seeds(*, seed: int, nested: bool) -> None:
    """A seed of requests is higher by one in each repeat; repeats without a seed share a model."""
    for params in ({"seed": seed}, {}):
        sent = {"extra_body": params, "top_p": 0.9} if nested else params
        model = {"name": "m", "base_url": "http://127.0.0.1:9/v1", "params": sent}
        made = list(experiment(model=model, streams=1, repeats=3).sessions())
        found = [(each.params["extra_body"] if nested else each.params) for each in made]
        expected = [{"seed": seed + repeat} for repeat in range(3)] if params else [{}] * 3
        assert found == expected
        assert len({model_key(each) for each in made}) == (3 if params else 1)
        assert made[2].settings.model.params == sent
        assert len({each.cache_name for each in made}) == 3


@pytest.mark.parametrize("repeats", [0, 1_001, 1.5])
def test_invalid_repeats(repeats: float) -> None:
    """The number of repeats is a whole number from 1 to 1,000."""
    with pytest.raises(InputError, match="repeats"):
        experiment(repeats=repeats)


# ---- variance -------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=5), min_size=2, max_size=6))
def test_components_of_shifted_accuracies(groups: list[list[float]]) -> None:
    """A shift changes no component, and a factor changes both by its square."""
    between, within = components(groups)
    assert between is not None
    assert (
        within == pytest.approx(np.mean([np.var(each, ddof=1) for each in groups]))
        or len({len(each) for each in groups}) > 1
    )
    moved = components([[3 * value + 2 for value in group] for group in groups])
    assert moved == pytest.approx((9 * between, 9 * within), abs=1e-9)


def test_components_estimate_the_variances() -> None:
    """With many streams of unequal numbers of repeats, the estimates are near the true variances."""
    random = np.random.default_rng(5)
    groups = [
        (random.normal(0, 3) + random.normal(0, 2, size=2 + number % 3)).tolist()
        for number in range(6_000)
    ]
    between, within = components(groups)
    assert between == pytest.approx(9, rel=0.06)
    assert within == pytest.approx(4, rel=0.06)


def test_components_of_sessions(saved: Path) -> None:
    """Components are those of the late accuracies of complete sessions, and absent without repeats."""
    turns = frame([saved])
    found = {each.arm: each for each in variance_components(turns)}
    assert found.keys() == {"feedback", "yoked"}
    late = turns.filter(pl.col("turn") >= 6, arm="feedback").group_by("stream", "repeat")
    means = late.agg(pl.col("correct").mean()).group_by("stream").agg("correct")
    expected = components(means["correct"].to_list())
    assert (found["feedback"].streams, found["feedback"].sessions) == (2, 6)
    assert found["feedback"].between_repeats == pytest.approx(expected[1])
    assert found["feedback"].between_streams == pytest.approx(expected[0])
    assert variance_components(turns.filter(repeat=0)) == []
