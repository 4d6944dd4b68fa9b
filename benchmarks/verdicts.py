"""How often the verdict is wrong, by simulated studies through the code that users call.

Every study is a frame of two arms, 8 streams of 200 turns, and goes through `conclude`. In the null
studies both arms answer in the same way, so that "learned" is always wrong. Takes about two
minutes on two cores.

    python benchmarks/verdicts.py [--studies N]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, logit

from icl_loop.analysis import STOP_AT, Conclusion, Contrast, conclude, e_process

ARMS, STREAMS, TURNS, CLASSES = ("feedback", "yoked"), 8, 200, 10
SEED = 20230315
LOOKS = 20
PROCESSES, PART = 2, 250

Floats = NDArray[np.float64]
Answers = NDArray[np.bool_]
"""Whether each answer was right, shape (studies, arms, streams, turns)."""
SimulatedModel = Callable[[np.random.Generator, tuple[int, int, int]], Answers]
"""From a generator and (studies, arms, streams) to answers."""


# ---- simulated models ------------------------------------------------------------------------


def below(rng: np.random.Generator, shape: tuple[int, int, int], p: Floats) -> Answers:
    """Be right with these probabilities, each turn by itself."""
    right: Answers = rng.random((*shape, TURNS)) < p
    return right


def guessing(rng: np.random.Generator, shape: tuple[int, int, int], p: float) -> Answers:
    """Be right with one probability, each turn by itself."""
    return below(rng, shape, np.asarray(p))


def wander(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Floats:
    """Return Ornstein-Uhlenbeck paths about 0 that forget over 50 turns, one a session."""
    keep = np.exp(-1 / 50)
    paths = np.empty((*shape, TURNS))
    paths[..., 0] = rng.normal(size=shape)
    for turn in range(1, TURNS):
        paths[..., turn] = keep * paths[..., turn - 1]
        paths[..., turn] += np.sqrt(1 - keep**2) * rng.normal(size=shape)
    return deviation * paths


def drifting(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    p: float = 0.2,
    deviation: float = 1.0,
    *,
    shared: bool = False,
) -> Answers:
    """Be right with a probability that wanders within a session; `shared` by the arms of a stream."""
    paths = wander(rng, (shape[0], 1, shape[2]) if shared else shape, deviation)
    return below(rng, shape, expit(logit(p) + paths))


def counting(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Answer a label that has not yet come in its balanced block of ten: right in 29 %."""
    left = CLASSES - np.arange(TURNS) % CLASSES
    return below(rng, shape, 1 / left)


def staying(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Stay with an answer that was said to be right, shift from one that was not.

    The first arm is told the truth, the second what the first was told on the next stream.
    """
    labels = np.broadcast_to(
        rng.integers(CLASSES, size=(shape[0], 1, shape[2], TURNS)), (*shape, TURNS)
    )
    right = np.empty((*shape, TURNS), dtype=np.bool_)
    answer = rng.integers(CLASSES, size=shape)
    for turn in range(TURNS):
        right[..., turn] = answer == labels[..., turn]
        told = right[..., turn].copy()
        told[:, 1] = np.roll(told[:, 0], 1, axis=-1)
        shifted = (answer + rng.integers(1, CLASSES, size=shape)) % CLASSES
        answer = np.where(told, answer, shifted)
    return right


def breaking(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Break the format in 30 % of the turns, in spells; be right in 30 % of the others."""
    broken = wander(rng, shape, 1.0) > 0.5244
    return below(rng, shape, np.where(broken, 0.0, 0.3))


def collapsing(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Be right in 40 %; in half of the sessions only in 10 % from a random turn on."""
    onset = rng.integers(2 * TURNS, size=shape)[..., None]
    return below(rng, shape, np.where(np.arange(TURNS) < onset, 0.4, 0.1))


NULLS: dict[str, SimulatedModel] = {
    "chance": partial(guessing, p=0.1),
    "constant accuracy 20 %": partial(guessing, p=0.2),
    "drifting, arms apart": drifting,
    "drifting, shared by stream": partial(drifting, shared=True),
    "drifting, mildly": partial(drifting, deviation=0.25),
    "label counter": counting,
    "win-stay lose-shift": staying,
    "format breaker": breaking,
    "collapsing": collapsing,
}


def learning(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    ends: tuple[float, float],
    deviation: float,
) -> Answers:
    """Rise from 20 % to an end of its own in each arm, wandering about the line."""
    line = np.linspace(0.2, np.array(ends), TURNS, axis=-1)[None, :, None, :]
    paths = wander(rng, shape, deviation)
    return below(rng, shape, expit(logit(line) + paths))


def true_effect(ends: tuple[float, float], deviation: float) -> float:
    """Return the expected difference of late accuracies, the wander integrated out."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    line = np.linspace(0.2, np.array(ends), TURNS, axis=-1)[:, TURNS // 2 :]
    right = expit(logit(line)[..., None] + deviation * nodes) @ weights / weights.sum()
    late = right.mean(axis=1)
    return float(late[0] - late[1])


# ---- studies -----------------------------------------------------------------------------


def skeleton(streams: int) -> pl.DataFrame:
    """Return the frame of a study without its answers."""
    sessions = [(f"{arm}-{stream}", arm, stream) for arm in ARMS for stream in range(streams)]
    return (
        pl.DataFrame(sessions, schema=["path", "arm", "stream"], orient="row")
        .join(pl.DataFrame({"turn": range(TURNS)}), how="cross", maintain_order="left_right")
        .with_columns(
            experiment=pl.lit("study"),
            turns=pl.lit(TURNS, pl.Int64),
            sample=pl.format("{}/{}", "stream", "turn"),
            label=(pl.col("turn") % CLASSES).cast(pl.String),
            told_length=pl.lit(10, pl.Int64),
        )
    )


def conclusions(answers: Answers) -> Iterator[Conclusion]:
    """Yield the conclusion of every study."""
    study = skeleton(answers.shape[2])
    for right in answers:
        turns = study.with_columns(correct=pl.Series(right.reshape(-1)))
        yield conclude(turns, ("feedback", "yoked"))


def generator(what: str, part: int) -> np.random.Generator:
    """Return the generator of one part of one table row."""
    return np.random.default_rng([SEED, part, *what.encode()])


def alarms(name: str, studies: int, part: int, streams: int = STREAMS) -> dict[str, float]:
    """Return how often a null participant is said to have learned, and how often p < 0.05."""
    answers = NULLS[name](generator(f"{name}{streams}", part), (studies, 2, streams))
    found = list(conclusions(answers))
    return {
        "learned": float(np.mean([each.verdict == "learned" for each in found])),
        "significant": float(np.mean([_primary(each).significant for each in found])),
    }


def effects(
    ends: tuple[float, float], deviation: float, studies: int, part: int
) -> dict[str, float]:
    """Return coverage, power and equivalence where one arm rises higher."""
    rng = generator(f"{ends}{deviation}", part)
    found = list(conclusions(learning(rng, (studies, 2, STREAMS), ends, deviation)))
    true = true_effect(ends, deviation)
    intervals = np.array([_primary(each).interval for each in found])
    covered = (intervals[:, 0] <= true) & (true <= intervals[:, 1])
    return {
        "coverage": float(covered.mean()),
        "learned": float(np.mean([each.verdict == "learned" for each in found])),
        "detectable": float(np.mean([_primary(each).mde or 0 for each in found])),
    }


def margins(studies: int, part: int) -> dict[str, float]:
    """Return how often arms that differ by the margin of equivalence are called equivalent."""
    rng = generator("margin", part)
    chances = np.array([0.25, 0.20])[:, None, None]
    right = below(rng, (studies, 2, STREAMS), chances)
    found = [each.verdict == "equivalent" for each in conclusions(right)]
    return {"equivalent": float(np.mean(found))}


def looks(studies: int, part: int) -> dict[str, float]:
    """Return how often 20 looks at the e-process of a drifting null see 20, after each stream."""
    seen = [
        NULLS[name](generator(f"looks {name}", part), (studies, 2, LOOKS))[..., TURNS // 2 :]
        for name in ("constant accuracy 20 %", "drifting, arms apart")
    ]
    late = np.concatenate(seen).mean(axis=-1)
    peaks = [e_process(study).max() for study in late[:, 0] - late[:, 1]]
    return {"stopped": float(np.mean(np.array(peaks) >= STOP_AT))}


def early(studies: int, part: int) -> dict[str, float]:
    """Return how often a drifting null stops early, or is said to have learned at the end."""
    name = "drifting, arms apart"
    answers = NULLS[name](generator(f"early {name}", part), (studies, 2, LOOKS))
    found = [_primary(each) for each in conclusions(answers)]
    return {"learned": float(np.mean([each.e_value >= STOP_AT or each.above for each in found]))}


def _primary(conclusion: Conclusion) -> Contrast:
    if conclusion.primary is None:
        raise ValueError("every study has a primary contrast")
    return conclusion.primary


# ---- the table ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A rate that was measured, and the range it is accepted in."""

    what: str
    rate: float
    low: float
    high: float
    studies: int

    @property
    def passes(self) -> bool:
        """Whether the rate is in its range."""
        return self.low <= self.rate <= self.high

    def __str__(self) -> str:
        error = 100 * np.sqrt(self.rate * (1 - self.rate) / self.studies)
        return (
            f"| {self.what} | {100 * self.rate:.1f} ± {error:.1f} | {100 * self.low:.0f} to"
            f" {100 * self.high:.0f} | {'PASS' if self.passes else 'FAIL'} |"
        )


MANY = "drifting, arms apart, 20 streams (t test)"
Job = Callable[[int, int], dict[str, float]]


def jobs() -> dict[str, Job]:
    """Return what is simulated, each a function of a number of studies and a part."""
    mild = 0.25
    return {
        **{name: partial(alarms, name) for name in NULLS},
        "rising to 40 % against 25 %, wandering mildly": partial(effects, (0.40, 0.25), mild),
        "rising to 40 % against 25 %, wandering widely": partial(effects, (0.40, 0.25), 1.0),
        MANY: partial(alarms, "drifting, arms apart", streams=20),
        "25 % against 20 %": margins,
        "e-process": looks,
        "early": early,
    }


def rows(measured: dict[str, dict[str, float]], studies: int) -> Iterator[Row]:
    """Yield the rows of the table."""
    for name in (*NULLS, MANY):
        found = measured[name]
        yield Row(f'{name}: "learned"', found["learned"], 0, 0.07, studies)
        yield Row(f"{name}: p < 0.05, either way", found["significant"], 0, 0.07, studies)
    mild, wide = (name for name in measured if name.startswith("rising"))
    for name in (mild, wide):
        covered = measured[name]["coverage"]
        yield Row(f"{name}: 95 % interval covers", covered, 0.93, 0.97, studies)
    yield Row(f'{mild}: "learned"', measured[mild]["learned"], 0.80, 1, studies)
    equal = measured["25 % against 20 %"]["equivalent"]
    yield Row('25 % against 20 %: "equivalent" within 5 points', equal, 0, 0.07, studies)
    stopped = measured["e-process"]["stopped"]
    yield Row(f"e-process of nulls: 20 within {LOOKS} looks", stopped, 0, 0.05, 2 * studies)
    said = measured["early"]["learned"]
    yield Row(f'drifting, stopped early or {LOOKS} streams: "learned"', said, 0, 0.07, studies)


def main() -> int:
    """Print the table; return 1 if a rate is out of its range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1_000, help="of each kind")
    asked = parser.parse_args()
    start = time.perf_counter()
    measured = simulate(asked.studies)
    table = list(rows(measured, asked.studies))
    print("| what | % of studies ± s.e. | accepted | |\n| --- | --- | --- | --- |")
    print(*table, sep="\n")
    detectable = measured["rising to 40 % against 25 %, wandering mildly"]["detectable"]
    true = true_effect((0.40, 0.25), 0.25)
    print(f"\nmean detectable difference {100 * detectable:.1f} points, true {100 * true:.1f}")
    print(f"{asked.studies} studies of each kind in {time.perf_counter() - start:.0f} s")
    return 0 if all(row.passes for row in table) else 1


def simulate(studies: int) -> dict[str, dict[str, float]]:
    """Return what was measured of each kind, in parts that are played side by side."""
    parts = max(1, studies // PART)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        playing = {
            name: [pool.submit(job, studies // parts, part) for part in range(parts)]
            for name, job in jobs().items()
        }
        return {name: _mean([part.result() for part in done]) for name, done in playing.items()}


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    sys.exit(main())
