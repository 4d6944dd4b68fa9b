"""The order of samples: curricula, blocked and interleaved classes."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from builders import experiment, play_on, played, without_times
from icl_loop.core.errors import InputError
from icl_loop.experiment import Session
from icl_loop.experiment.sample_order import margins
from icl_loop.models import ReplayModel
from icl_loop.replay.branching import branches
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks.datasets import Order
from icl_loop.transcripts import read
from icl_loop.transcripts.schema import line_fields

ORDERS: tuple[Order, ...] = get_args(Order)
EACH_ORDER = pytest.mark.parametrize("order", [order for order in ORDERS if order != "random"])
EACH_SET = pytest.mark.parametrize("dataset", ["digits", "iris"])


def one(order: str, dataset: str = "iris", turns: int = 40, **changes: object) -> Session:
    """Return a session with samples in this order."""
    task = {"dataset": dataset, "order": order}
    (session,) = experiment(turns=turns, streams=1, task=task, **changes).sessions()
    return session


@EACH_ORDER
@EACH_SET
def test_every_order_has_the_same_samples(order: str, dataset: str) -> None:
    """A stream has the same samples in every order, and the same held-out ones."""
    probes = {"at": [0], "count": 6}
    inputs = [one(each, dataset, probes=probes).inputs for each in (order, "random")]
    ids = [[sample.id for sample in each.samples] for each in inputs]
    assert Counter(ids[0]) == Counter(ids[1])
    assert ids[0] != ids[1]
    assert inputs[0].probes == inputs[1].probes


@EACH_SET
def test_blocked_classes(dataset: str) -> None:
    """Blocked classes come one after another; the order of the classes differs between streams."""
    labels = [sample.label for sample in one("blocked", dataset).inputs.samples]
    blocks = [label for label, _ in groupby(labels)]
    assert len(blocks) == len(set(labels))
    task = {"dataset": dataset, "order": "blocked"}
    made = experiment(turns=40, streams=8, task=task)
    assert len({session.inputs.samples[0].label for session in made.sessions()}) > 1


@EACH_SET
def test_interleaved_classes(dataset: str) -> None:
    """Interleaved classes take turns: no class comes again while another is left that is behind it."""
    labels = [sample.label for sample in one("interleaved", dataset).inputs.samples]
    total, seen = Counter(labels), Counter[str]()
    for label in labels:
        left = [each for each in total if seen[each] < total[each]]
        assert seen[label] == min(seen[each] for each in left)
        seen[label] += 1


@pytest.mark.parametrize("order", ["easy_first", "hard_first"])
@EACH_SET
def test_curricula(order: str, dataset: str) -> None:
    """In a curriculum, the margin of the reference learner only falls; in the reverse, it only rises."""
    session = one(order, dataset)
    found = margins(session.inputs.samples, session.task.encoding, session.task.size)
    steps = np.diff(found)
    assert (steps <= 0).all() if order == "easy_first" else (steps >= 0).all()
    assert steps.any()


def test_margins_of_texts(tmp_path: Path) -> None:
    """A text like those of another class has a negative margin, others of its class a positive one."""
    path = tmp_path / "texts.csv"
    rows = [
        f"{label},{word} {word}s\n"
        for label, word in (("a", "cat"), ("b", "dog"))
        for _ in range(9)
    ]
    path.write_text("label,text\n" + "".join(rows) + "a,dog dogs\n")
    session = one("easy_first", f"csv:{path}", 16)
    samples = session.inputs.samples
    found = margins(samples, session.task.encoding, session.task.size)
    for sample, margin in zip(samples, found, strict=True):
        is_odd = (sample.label, sample.content) == ("a", "dog dogs")
        assert (margin < 0) == is_odd


@EACH_ORDER
async def test_orders_resume_and_replay(order: str) -> None:
    """A session in any order, cut at any turn and resumed, is the uninterrupted one."""
    session = one(order, turns=10)
    whole = await played(session)
    assert await played(session, ReplayModel(whole)) == whole
    expected = [without_times(line_fields(turn)) for turn in whole]
    for cut in range(10):
        rest = [event async for event in play_on(session, None, whole[:cut])]
        assert [without_times(line_fields(turn)) for turn in rest] == expected[cut:]


async def test_a_yoked_session_follows_a_donor_that_ended_early(tmp_path: Path) -> None:
    """If a donor fills its window, the yoked session plays the first turns of the whole order."""
    arms = [
        {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
        {"name": "feedback", "context": {"policy": "all"}, "model": {"context_window": 3000}},
    ]
    task = {"dataset": "iris", "order": "blocked"}
    made = experiment(turns=40, task=task, arms=arms)
    await Run(made, tmp_path).play()
    yoked = read(tmp_path / "small" / "yoked-0.jsonl")
    samples = [turn.sample for turn in yoked.turns]
    (whole, *_) = made.sessions()
    assert 3 < len(samples) < 40
    assert samples == [sample.id for sample in whole.inputs.samples[: len(samples)]]
    assert await verify(yoked) == len(samples)


async def test_a_branch_keeps_the_order(tmp_path: Path) -> None:
    """A branch shares the order of its parent, so it has as many turns."""
    task = {"dataset": "iris", "order": "interleaved"}
    result = await Run(experiment(streams=1, task=task), tmp_path).play()
    branch = branches(result.paths, 4, ["feedback.form=echo"])
    (session,) = branch.sessions()
    parent = read(result.paths[0])
    assert [sample.id for sample in session.inputs.samples] == [
        turn.sample for turn in parent.turns
    ]
    with pytest.raises(InputError, match=r"--turns 20: .*'interleaved'"):
        branches(result.paths, 4, turns=20)
    with pytest.raises(InputError, match=r"a branch cannot change task\.order"):
        branches(result.paths, 4, ["task.order=random"])


def test_the_usual_order_is_not_recorded() -> None:
    """Transcripts record the order only if it is not random; an unknown one is an error."""
    assert "order" not in one("random").settings.recorded()["task"]
    assert one("blocked").settings.recorded()["task"]["order"] == "blocked"
    with pytest.raises(InputError, match=r"task\.order = 'easy'.*'easy_first'"):
        one("easy")
