"""Measure how often the verdict is wrong, with simulated studies.

A study has two arms and 8 streams of 200 turns and is judged by `conclude`. In the null studies both arms
follow the same model, so "improved" is always wrong; a further control could only prevent it. Exits with 1 if a rate is outside its accepted range.
Takes a few minutes on two cores.

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
from itertools import chain
from multiprocessing import get_context

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, logit

from icl_loop.analysis import Conclusion, Contrast, conclude
from icl_loop.analysis.contrasts import STOP_AT, e_process
from icl_loop.analysis.significance import ALPHA
from icl_loop.transcripts.columns import SESSION_SETTINGS

ARMS, STREAMS, TURNS, CLASSES = ("feedback", "none"), 8, 200, 10
SEED = 20230315
MOST_STREAMS = 20
SECONDARIES = 7
COVERED = (6, 8, 12, 20)
"""Numbers of streams for which coverage is measured."""
PROCESSES, PART = 2, 250

Floats = NDArray[np.float64]
Answers = NDArray[np.bool_]
"""Whether each answer was right, shape (studies, arms, streams, turns)."""
SimulatedModel = Callable[[np.random.Generator, tuple[int, int, int]], Answers]
"""A function from a generator and (studies, arms, streams) to answers."""


# ---- simulated models ------------------------------------------------------------------------


def draw(rng: np.random.Generator, shape: tuple[int, int, int], p: Floats) -> Answers:
    """Return answers that are right with these probabilities, independently in every turn."""
    right: Answers = rng.random((*shape, TURNS)) < p
    return right


def constant(rng: np.random.Generator, shape: tuple[int, int, int], p: float) -> Answers:
    """Return answers with a constant accuracy."""
    return draw(rng, shape, np.asarray(p))


def drift(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Floats:
    """Return an Ornstein-Uhlenbeck path around 0 per session, with a time constant of 50 turns."""
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
    """Return answers whose accuracy drifts, independently per session or `shared` by the arms of a stream."""
    paths = drift(rng, (shape[0], 1, shape[2]) if shared else shape, deviation)
    return draw(rng, shape, expit(logit(p) + paths))


def label_counter(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Guess among the labels left in each balanced block of ten, which is right in 29 % of turns."""
    left = CLASSES - np.arange(TURNS) % CLASSES
    return draw(rng, shape, 1 / left)


def win_stay_lose_shift(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Repeat an answer called right and change one called wrong.

    The second arm gets the feedback of the first on another stream.
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


def format_breaker(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Return answers unparsed in 30 % of turns, in clusters, and right in 30 % of the others."""
    broken = drift(rng, shape, 1.0) > 0.5244
    return draw(rng, shape, np.where(broken, 0.0, 0.3))


def collapsing(rng: np.random.Generator, shape: tuple[int, int, int]) -> Answers:
    """Return answers right in 40 % of turns; half of the sessions drop to 10 % at a random turn."""
    onset = rng.integers(2 * TURNS, size=shape)[..., None]
    return draw(rng, shape, np.where(np.arange(TURNS) < onset, 0.4, 0.1))


NULLS: dict[str, SimulatedModel] = {
    "chance": partial(constant, p=0.1),
    "constant accuracy 20 %": partial(constant, p=0.2),
    "drifting, arms apart": drifting,
    "drifting, shared by stream": partial(drifting, shared=True),
    "drifting, mildly": partial(drifting, deviation=0.25),
    "label counter": label_counter,
    "win-stay lose-shift": win_stay_lose_shift,
    "format breaker": format_breaker,
    "collapsing": collapsing,
}


def learning(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    ends: tuple[float, float],
    deviation: float,
) -> Answers:
    """Return answers whose accuracy rises from 20 % to a different end in each arm, with drift."""
    line = np.linspace(0.2, np.array(ends), TURNS, axis=-1)[None, :, None, :]
    paths = drift(rng, shape, deviation)
    return draw(rng, shape, expit(logit(line) + paths))


def true_effect(ends: tuple[float, float], deviation: float) -> float:
    """Return the expected difference in late accuracy, averaged over the drift."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    line = np.linspace(0.2, np.array(ends), TURNS, axis=-1)[:, TURNS // 2 :]
    right = expit(logit(line)[..., None] + deviation * nodes) @ weights / weights.sum()
    late = right.mean(axis=1)
    return float(late[0] - late[1])


# ---- studies -----------------------------------------------------------------------------


def frame_without_answers(arms: int, streams: int) -> pl.DataFrame:
    """Return the frame of a study without the column `correct`."""
    names = [*ARMS, *(f"other-{number}" for number in range(arms - len(ARMS)))]
    sessions = [(f"{arm}-{stream}", arm, stream) for arm in names for stream in range(streams)]
    return (
        pl.DataFrame(sessions, schema=["path", "arm", "stream"], orient="row")
        .join(pl.DataFrame({"turn": range(TURNS)}), how="cross", maintain_order="left_right")
        .with_columns(
            experiment=pl.lit("study"),
            turns=pl.lit(TURNS, pl.Int64),
            sample=pl.format("{}/{}", "stream", "turn"),
            label=(pl.col("turn") % CLASSES).cast(pl.String),
            told_length=pl.lit(10, pl.Int64),
            prompt=pl.lit(0, pl.Int64),
            counted=pl.lit(0, pl.Int64),
            exposure=pl.lit(0, pl.Int64),
            finish_reason=pl.lit(None, pl.String),
            status=pl.lit("complete"),
            chance=pl.lit(1 / CLASSES),
            outcome=pl.lit("ok"),
        )
    )


def settings_of(arms: Sequence[str]) -> pl.DataFrame:
    """Return the recorded settings of the arms: all but `none` get feedback on their answers."""
    rows = [
        {
            "experiment": "study",
            "arm": arm,
            "feedback": "none" if arm == "none" else "correctness",
            "setup": "{}",
            "primary": list(ARMS),
            "stopped_early": False,
        }
        for arm in arms
    ]
    return pl.DataFrame(rows, schema=SESSION_SETTINGS)


def conclusions(answers: Answers) -> Iterator[Conclusion]:
    """Yield the conclusion about each study."""
    study = frame_without_answers(*answers.shape[1:3])
    known = settings_of(study["arm"].unique(maintain_order=True).to_list())
    for right in answers:
        turns = study.with_columns(correct=pl.Series(right.reshape(-1)))
        wrong = ((pl.col("turn") + 1) % CLASSES).cast(pl.String)
        answer = pl.when("correct").then("label").otherwise(wrong)
        yield conclude(turns.with_columns(answer=answer), sessions=known)


def generator(name: str, part: int) -> np.random.Generator:
    """Return the random generator for one part of a row."""
    return np.random.default_rng([SEED, part, *name.encode()])


def false_positives(name: str, studies: int, part: int, streams: int = STREAMS) -> dict[str, float]:
    """Return how often a null model is said to have improved, and how often p < 0.05."""
    answers = NULLS[name](generator(f"{name}{streams}", part), (studies, 2, streams))
    found = list(conclusions(answers))
    return {
        "improved": float(np.mean([each.verdict == "improved" for each in found])),
        "significant": float(np.mean([_primary(each).significant for each in found])),
        "disagreeing": float(np.mean([_disagrees(_primary(each)) for each in found])),
    }


def _disagrees(contrast: Contrast) -> bool:
    """Return whether p and the interval say different things about a zero effect."""
    low, high = contrast.interval or (-1.0, 1.0)
    return contrast.significant == (low <= 0 <= high)


def effects(
    ends: tuple[float, float], deviation: float, studies: int, part: int, streams: int = STREAMS
) -> dict[str, float]:
    """Return coverage, power and mean detectable difference if one arm rises higher."""
    rng = generator(f"{ends}{deviation}{streams}", part)
    found = list(conclusions(learning(rng, (studies, 2, streams), ends, deviation)))
    true = true_effect(ends, deviation)
    intervals = np.array([_primary(each).interval for each in found])
    covered = (intervals[:, 0] <= true) & (true <= intervals[:, 1])
    return {
        "coverage": float(covered.mean()),
        "improved": float(np.mean([each.verdict == "improved" for each in found])),
        "detectable": float(np.mean([_primary(each).mde or 0 for each in found])),
        "disagreeing": float(np.mean([_disagrees(_primary(each)) for each in found])),
    }


def several_contrasts(studies: int, part: int, effect: float = 0.0) -> dict[str, float]:
    """Return how often any and all of seven adjusted p are below 0.05; the first arm is better by `effect`."""
    chances = np.array([0.30 + effect, *[0.30] * SECONDARIES, 0.30])[:, None, None]
    rng = generator(f"several {effect}", part)
    shape = (studies, 2 + SECONDARIES, STREAMS)
    paths = drift(rng, shape, 0.25)
    found = []
    for each in conclusions(draw(rng, shape, expit(logit(chances) + paths))):
        ps = [one.p_adjusted for one in each.secondary]
        found.append([p is not None and p < ALPHA for p in ps])
    return {"any": float(np.any(found, axis=1).mean()), "all": float(np.all(found, axis=1).mean())}


def false_equivalence(studies: int, part: int) -> dict[str, float]:
    """Return how often arms that differ by exactly the equivalence margin are called equivalent."""
    rng = generator("margin", part)
    chances = np.array([0.25, 0.20])[:, None, None]
    right = draw(rng, (studies, 2, STREAMS), chances)
    found = [each.verdict == "equivalent" for each in conclusions(right)]
    return {"equivalent": float(np.mean(found))}


def false_stops(studies: int, part: int) -> dict[str, float]:
    """Return how often the e-process of a null model reaches 20 within 20 streams."""
    seen = [
        NULLS[name](generator(f"looks {name}", part), (studies, 2, MOST_STREAMS))[..., TURNS // 2 :]
        for name in ("constant accuracy 20 %", "drifting, arms apart")
    ]
    late = np.concatenate(seen).mean(axis=-1)
    peaks = [e_process(study).max() for study in late[:, 0] - late[:, 1]]
    return {"stopped": float(np.mean(np.array(peaks) >= STOP_AT))}


def false_positives_with_stopping(studies: int, part: int) -> dict[str, float]:
    """Return how often a null model stops early or is said to have improved after 20 streams."""
    name = "drifting, arms apart"
    answers = NULLS[name](generator(f"early {name}", part), (studies, 2, MOST_STREAMS))
    found = [_primary(each) for each in conclusions(answers)]
    return {"improved": float(np.mean([each.e_value >= STOP_AT or each.above for each in found]))}


def _primary(conclusion: Conclusion) -> Contrast:
    if conclusion.primary is None:
        raise ValueError("every study has a primary contrast")
    return conclusion.primary


# ---- the tables --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured share of studies and its accepted range."""

    share: float
    studies: int
    low: float = 0.0
    high: float = 0.07

    @property
    def passes(self) -> bool:
        """Whether the share is in the accepted range."""
        return self.low <= self.share <= self.high

    def __str__(self) -> str:
        error = 100 * np.sqrt(self.share * (1 - self.share) / self.studies)
        return f"{100 * self.share:.1f} ± {error:.1f}" + ("" if self.passes else " FAIL")


TWENTY = "drifting, arms apart, 20 streams (t test)"
MILD, WIDE = "40 % against 25 %, mild drift", "40 % against 25 %, strong drift"
Job = Callable[[int, int], dict[str, float]]


def jobs() -> dict[str, Job]:
    """Return the simulations: functions of a number of studies and a part number."""
    return {
        **{name: partial(false_positives, name) for name in NULLS},
        TWENTY: partial(false_positives, "drifting, arms apart", streams=20),
        **{
            f"{MILD}, {streams} streams": partial(effects, (0.40, 0.25), 0.25, streams=streams)
            for streams in COVERED
        },
        WIDE: partial(effects, (0.40, 0.25), 1.0),
        "all null": several_contrasts,
        "25 points": partial(several_contrasts, effect=0.25),
        "margin": false_equivalence,
        "e-process": false_stops,
        "early stopping": false_positives_with_stopping,
    }


def simulate(studies: int) -> dict[str, dict[str, float]]:
    """Return the results of every simulation, computed in parallel parts."""
    parts = max(1, studies // PART)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        futures = {
            name: [pool.submit(job, studies // parts, part) for part in range(parts)]
            for name, job in jobs().items()
        }
        return {name: _mean([part.result() for part in done]) for name, done in futures.items()}


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}


def null_rates(measured: dict[str, dict[str, float]], studies: int) -> dict[str, list[Rate]]:
    """Return the false-positive rates of every null model: "improved", and p < 0.05."""
    return {
        name: [Rate(measured[name][key], studies) for key in ("improved", "significant")]
        for name in (*NULLS, TWENTY)
    }


def other_rates(measured: dict[str, dict[str, float]], studies: int) -> dict[str, Rate]:
    """Return coverage, power and the error rates of equivalence and early stopping."""
    stopped = measured["early stopping"]["improved"]
    eight = f"{MILD}, {STREAMS} streams"
    disagreeing = [each["disagreeing"] for each in measured.values() if "disagreeing" in each]
    return {
        **{
            f"{name}: 95 % interval covers": Rate(each["coverage"], studies, 0.93, most)
            for name, each in measured.items()
            if "coverage" in each
            for most in [0.985 if name.endswith(" 6 streams") else 0.97]
        },
        "p < 0.05 and an interval with 0, or the reverse": Rate(
            float(np.mean(disagreeing)), studies * len(disagreeing), 0, 0
        ),
        f"{SECONDARIES} secondary contrasts, all null: any adjusted p < 0.05": Rate(
            measured["all null"]["any"], studies, 0, 0.06
        ),
        f"{SECONDARIES} secondary contrasts, each of 25 points: all adjusted p < 0.05": Rate(
            measured["25 points"]["all"], studies, 0.80, 1
        ),
        f'{eight}: "improved"': Rate(measured[eight]["improved"], studies, 0.80, 1),
        '25 % against 20 %: "equivalent"': Rate(measured["margin"]["equivalent"], studies),
        f"null models: e-process reaches {STOP_AT:.0f} within {MOST_STREAMS} streams": Rate(
            measured["e-process"]["stopped"], 2 * studies, 0, 0.05
        ),
        f'drifting, up to {MOST_STREAMS} streams with early stopping: "improved"': Rate(
            stopped, studies
        ),
    }


def main() -> int:
    """Print the tables; return 1 if a rate is outside its range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1_000, help="number of studies per row")
    studies = parser.parse_args().studies
    start = time.perf_counter()
    measured = simulate(studies)
    nulls, others = null_rates(measured, studies), other_rates(measured, studies)
    print("% of studies ± standard error\n")
    print('| null model | "improved" | p < 0.05 |\n| --- | --- | --- |')
    for name, (improved, significant) in nulls.items():
        print(f"| {name} | {improved} | {significant} |")
    print("\n| study | measured | accepted |\n| --- | --- | --- |")
    for name, rate in others.items():
        print(f"| {name} | {rate} | {100 * rate.low:.0f} to {100 * rate.high:.0f} |")
    detectable = measured[f"{MILD}, {STREAMS} streams"]["detectable"]
    true = true_effect((0.40, 0.25), 0.25)
    print(f"\nmean detectable difference {100 * detectable:.1f} points, true {100 * true:.1f}")
    print(f"{studies} studies per row in {time.perf_counter() - start:.0f} s")
    return 0 if all(rate.passes for rate in (*chain(*nulls.values()), *others.values())) else 1


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    sys.exit(main())
