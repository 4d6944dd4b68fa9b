"""The built-in network learns from the feedback in its context, and from nothing else."""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders import experiment, played, session
from conversations import DIGITS, NUMERALS, Past, conversation
from icl_loop import Run
from icl_loop.analysis import frame, probes, verdict_effects
from icl_loop.core.errors import InputError, RequestRefused
from icl_loop.core.messages import merged
from icl_loop.models.neural.in_context import VIEWS, InContextNetwork, MemoryCache
from icl_loop.models.neural.network import WEIGHTS, trained
from icl_loop.tasks.feedback import Phrase

ROOT = Path(__file__).parent.parent
SHA256 = "c990db95accf547cd5f69be44053a01281ee98061f77ed33f0f9c3070df69989"
THREE = ("cat", "dog", "cow")


def turns(count: int, labels: Sequence[str] = NUMERALS) -> list[Past]:
    """Return past turns with right, wrong and unjudged answers, and revealed labels."""
    phrases: tuple[Phrase, ...] = ("correct", "incorrect", "recorded", "revealed_incorrect")
    return [
        Past(DIGITS[n], labels[n % len(labels)], phrases[n % 4], labels[(n + 1) % len(labels)])
        for n in range(count)
    ]


def probabilities(
    past: Sequence[Past], labels: Sequence[str] = NUMERALS, seed: int = 0
) -> Mapping[str, float]:
    """Return the probabilities of a network that was asked nothing before."""
    return InContextNetwork(seed).label_probabilities(conversation(DIGITS[39], past, labels=labels))


def test_weights() -> None:
    """The shipped weights are the documented ones, in a file below 2 MB."""
    data = WEIGHTS.read_bytes()
    assert sha256(data).hexdigest() == SHA256
    assert len(data) < 2_000_000


def test_probabilities() -> None:
    """Each label has a probability, and they sum to one."""
    for count in (0, 1, 30):
        shares = probabilities(turns(count))
        assert set(shares) == set(NUMERALS)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_cached_answer_equals_one_from_scratch() -> None:
    """Probabilities do not depend on earlier requests: longer, shorter, or with other verdicts."""
    model, past = InContextNetwork(), turns(39)
    other = [*past[:9], Past(DIGITS[9], "3", "correct"), *past[10:20]]
    for shown in (past[:5], past[:36], past, past[:20], other, past[3:30], [], past):
        request = conversation(DIGITS[39], shown, labels=NUMERALS)
        for wired in (request, merged(request)):
            assert model.label_probabilities(wired) == probabilities(shown)


def test_one_more_turn_is_one_more_step() -> None:
    """A request that continues an earlier one computes its new turns only."""
    network, cache, computed = trained(), MemoryCache(), []
    rows = np.random.default_rng(0).normal(size=(12, VIEWS * network.inputs)).astype(np.float32)
    shown = tuple((row.tobytes(), np.full(VIEWS, n % 3).tobytes()) for n, row in enumerate(rows))
    for count in range(1, 13):
        memory = cache.memory_of(network, shown[:count])
        computed.append(memory)
    assert {id(each) for each in computed} == {id(computed[0])}
    assert computed[0].turns == 12


def test_labels_are_exchangeable() -> None:
    """With the names of the labels exchanged, the probabilities are, too, averaged over seeds."""
    past, before, after = turns(12, THREE), [], []
    renamed = {"cat": "dog", "dog": "cow", "cow": "cat"}
    exchanged = [
        Past(turn.picture, renamed[turn.answer], turn.phrase, renamed[turn.truth]) for turn in past
    ]
    for seed in range(40):
        shares, others = (probabilities(each, THREE, seed) for each in (past, exchanged))
        before.append([shares[name] for name in THREE])
        after.append([others[renamed[name]] for name in THREE])
    differences = np.subtract(before, after)
    error = differences.std(axis=0) / np.sqrt(len(differences))
    assert np.all(np.abs(differences.mean(axis=0)) < 4 * error)


def test_what_says_nothing_is_left_out() -> None:
    """A turn whose answer cannot be parsed and whose label was not told changes nothing."""
    past = turns(8)
    assert probabilities([*past, Past(DIGITS[8], "none of them", "incorrect")]) == probabilities(
        past
    )
    assert probabilities([*past, Past(DIGITS[8], "5", "incorrect")]) != probabilities(past)


async def test_too_many_labels() -> None:
    """More labels than the network knows are refused, before the first request of a run."""
    names = [str(n) for n in range(11)]
    with pytest.raises(RequestRefused, match="at most 10 labels, got 11"):
        await InContextNetwork().complete(conversation(DIGITS[0], labels=names))


def test_too_many_classes(tmp_path: Path) -> None:
    """An experiment with more classes is refused with the arm, the model and both numbers."""
    file = tmp_path / "eleven.csv"
    file.write_text("x,label\n" + "".join(f"{n},class {n % 11}\n" for n in range(110)))
    made = experiment(task={"dataset": f"csv:{file}"}, model={"name": "neural/in-context"})
    with pytest.raises(InputError, match=r"arm .*'neural/in-context'.* at most 10 labels.* has 11"):
        made.check()


# ---- what it learns from -------------------------------------------------------------------------


async def late_accuracy(feedback: str, count: int = 60) -> float:
    """Return the accuracy over the last third of two sessions on images it was not trained on."""
    right = []
    for stream in range(2):
        made = session(
            count,
            stream,
            model="neural/in-context",
            feedback=feedback,
            dataset="digits:test",
            size=8,
            pixels="projected",
        )
        right += [turn.feedback.correct for turn in (await played(made))[count * 2 // 3 :]]
    return float(np.mean(right))


async def test_it_learns_from_revealed_labels() -> None:
    """With labels revealed, accuracy on unseen images and projections is far above chance."""
    assert await late_accuracy("label") > 0.45


async def test_it_learns_from_right_and_wrong() -> None:
    """With right and wrong told, it is far above chance; without verdicts, it is not."""
    assert await late_accuracy("correctness", 120) > 0.35
    assert await late_accuracy("none", 120) < 0.25


async def test_it_learns_nothing_from_a_donor(tmp_path: Path) -> None:
    """The verdicts of another session teach it nothing, and flipped ones mislead it in probes."""
    made = experiment(
        turns=80,
        task={"dataset": "digits:test", "size": 8, "pixels": "projected"},
        model={"name": "neural/in-context", "context_window": 65_536},
        probes={"at": [80], "count": 20, "verdicts": ["told", "flipped"]},
        arms=[
            {"name": "feedback"},
            {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
        ],
    )
    result = await Run(made, tmp_path).play()
    late = frame(result.paths).filter(pl.col("turn") >= 50)
    means = dict(late.group_by("arm").agg(pl.col("correct").mean()).iter_rows())
    assert means["feedback"] > 0.3
    assert means["yoked"] < 0.2
    [effect] = [each for each in verdict_effects(probes(result.paths)) if each.arm == "feedback"]
    assert min(effect.contrast.differences) > 0


# ---- training ------------------------------------------------------------------------------------


IN_JAX = """
import sys
import numpy as np
from jax_network import log_probabilities

given = dict(np.load(sys.argv[1]))
samples, outcomes, heads = given.pop("samples"), given.pop("outcomes"), int(given.pop("heads"))
found = log_probabilities(given, samples[None], outcomes[None], np.array([7]), heads)
np.save(sys.argv[2], np.asarray(found[0]))
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
def test_numpy_equals_jax(tmp_path: Path) -> None:
    """The numpy network equals the one that is trained, to 1e-3."""
    network, random = trained(), np.random.default_rng(1)
    samples = random.normal(size=(40, network.inputs)).astype(np.float32)
    outcomes = random.integers(0, 3, 40) * network.labels + random.integers(0, 7, 40)
    given = {**network.weights, "samples": samples, "outcomes": outcomes}
    np.savez(tmp_path / "given.npz", allow_pickle=False, **given)
    folder = ROOT / "experiments" / "neural"
    # In a process of its own, because jax warns in every process that forks after its import.
    files = [tmp_path / "given.npz", tmp_path / "found.npy"]
    subprocess.run([sys.executable, "-B", "-c", IN_JAX, *files], cwd=folder, check=True)
    expected, memory = np.load(tmp_path / "found.npy"), network.memory()
    for turn in range(40):
        [found] = network.log_probabilities(memory, samples[[turn]], 7)
        assert np.allclose(found, expected[turn, :7], atol=1e-3)
        network.add_turn(memory, samples[[turn]], outcomes[[turn]])
