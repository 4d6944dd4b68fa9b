"""Learning curves: accuracy in windows of turns, over sessions."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

EDGES = (0, 20, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000)
"""Edges of the windows in the table, as turns counted from 0."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over sessions and its t interval.

    Attributes:
        mean: Mean of the sessions' own means, or None without sessions.
        interval: 95 % t interval over sessions, or None with fewer than two.
        sessions: How many sessions have turns in the window.
    """

    mean: float | None
    interval: tuple[float, float] | None
    sessions: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Estimate":
        """Return the estimate from one value a session, shape (sessions,).

        The interval is mean +- t(0.975, K - 1) * s / sqrt(K) (Student 1908).
        """
        count = values.size
        if not count:
            return cls(None, None, 0)
        mean = float(values.mean())
        if count < 2:
            return cls(mean, None, count)
        half = _half_width(float(values.std(ddof=1)), count)
        return cls(mean, (mean - half, mean + half), count)


def _half_width(deviation: float, count: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * deviation / np.sqrt(count))


@dataclass(frozen=True, slots=True)
class Block:
    """Accuracy in the turns from `first` to `last`, both counted from 1."""

    first: int
    last: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """What the sessions of one arm came to.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        sessions: How many there are.
        complete: How many were played to their end.
        turns: Turns played in all.
        chance: Accuracy of guessing.
        accuracy: Over all turns.
        early: Over the first min(20, T / 10) turns.
        late: Over the second half of the T turns planned.
        blocks: Accuracy in consecutive windows.
        outcomes: Turns by outcome.
    """

    experiment: str
    arm: str
    sessions: int
    complete: int
    turns: int
    chance: float
    accuracy: Estimate
    early: Estimate
    late: Estimate
    blocks: tuple[Block, ...]
    outcomes: dict[str, int]


def summarize(turns: pl.DataFrame) -> list[ArmSummary]:
    """Return the summary of every arm in a frame of turns, in the order in which they appear."""
    return [
        _summary(str(experiment), str(arm), part)
        for (experiment, arm), part in turns.group_by("experiment", "arm", maintain_order=True)
    ]


def _summary(experiment: str, arm: str, turns: pl.DataFrame) -> ArmSummary:
    planned = pl.col("turns")
    outcomes = turns.group_by("outcome", maintain_order=True).len().iter_rows()
    longest = int(turns["turn"].max() or 0) + 1  # type: ignore[arg-type]  # a column of integers
    return ArmSummary(
        experiment=experiment,
        arm=arm,
        sessions=turns["path"].n_unique(),
        complete=turns.filter("complete")["path"].n_unique(),
        turns=turns.height,
        chance=float(turns["chance"][0]),
        accuracy=_accuracy(turns),
        early=_accuracy(turns.filter(pl.col("turn") < early_turns(planned))),
        late=_accuracy(turns.filter(pl.col("turn") >= planned // 2)),
        blocks=tuple(
            Block(
                start + 1,
                min(stop, longest),
                _accuracy(turns.filter(pl.col("turn").is_between(start, stop, closed="left"))),
            )
            for start, stop in pairwise(EDGES)
            if start < longest
        ),
        outcomes=dict(outcomes),
    )


def early_turns(planned: pl.Expr) -> pl.Expr:
    """Return how many turns count as early in a session of so many planned turns."""
    return pl.min_horizontal(pl.lit(20), pl.max_horizontal(planned // 10, pl.lit(1)))


def _accuracy(turns: pl.DataFrame) -> Estimate:
    per_session = turns.group_by("path").agg(pl.col("correct").mean())
    return Estimate.of(per_session["correct"].to_numpy().astype(np.float64))


def session_curves(turns: pl.DataFrame, window: int) -> pl.DataFrame:
    """Return the windowed accuracy of every session.

    Args:
        turns: A frame of turns.
        window: Turns in a window; sessions shorter than it are one window.

    Returns:
        Columns `experiment`, `arm`, `stream`, `path`, `turn`, `accuracy`; `turn` is the middle of
        a whole window, counted from 1.
    """
    planned = turns.group_by("path").len()["len"].min()
    size = max(1, min(window, int(planned or 1)))  # type: ignore[arg-type]  # a column of integers
    rolled = pl.col("correct").cast(pl.Float64).rolling_mean(size)
    return (
        turns.sort("path", "turn")
        .select(
            "experiment",
            "arm",
            "stream",
            "path",
            turn=pl.col("turn") + 1 - (size - 1) / 2,
            accuracy=rolled.over("path"),
        )
        .drop_nulls("accuracy")
    )


def arm_curves(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the mean over sessions of windowed accuracy, with its 95 % t interval.

    Args:
        sessions: What `session_curves` returns.

    Returns:
        Columns `experiment`, `arm`, `turn`, `accuracy`, `low`, `high`, `sessions`; the interval is
        null where there is one session.
    """
    count = pl.col("sessions")
    return (
        sessions.group_by("experiment", "arm", "turn", maintain_order=True)
        .agg(
            accuracy_mean=pl.col("accuracy").mean(),
            deviation=pl.col("accuracy").std(),
            sessions=pl.len(),
        )
        .with_columns(
            half=pl.struct("deviation", "sessions").map_elements(
                lambda row: (
                    _half_width(row["deviation"], row["sessions"]) if row["sessions"] > 1 else None
                ),
                return_dtype=pl.Float64,
            )
        )
        .select(
            "experiment",
            "arm",
            "turn",
            accuracy="accuracy_mean",
            low=pl.max_horizontal(pl.lit(0.0), pl.col("accuracy_mean") - pl.col("half")),
            high=pl.min_horizontal(pl.lit(1.0), pl.col("accuracy_mean") + pl.col("half")),
            sessions=count,
        )
        .with_columns(pl.when(pl.col("sessions") > 1).then(pl.col("low", "high")).otherwise(None))
    )


def as_json(summary: ArmSummary) -> dict[str, Any]:
    """Return a summary as the stable JSON of `analyze --json`; what is undefined is null."""
    return {
        "experiment": summary.experiment,
        "arm": summary.arm,
        "sessions": summary.sessions,
        "complete": summary.complete,
        "turns": summary.turns,
        "chance": summary.chance,
        **_estimate_fields("accuracy", summary.accuracy),
        **_estimate_fields("early", summary.early),
        **_estimate_fields("late", summary.late),
        "windows": [
            {
                "first": block.first,
                "last": block.last,
                "sessions": block.accuracy.sessions,
                **_estimate_fields("accuracy", block.accuracy),
            }
            for block in summary.blocks
        ],
        "outcomes": summary.outcomes,
    }


def _estimate_fields(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.mean, f"{name}_ci": estimate.interval and list(estimate.interval)}


def warnings(summaries: list[ArmSummary]) -> list[str]:
    """Return what a reader should know before believing the summaries."""
    said = []
    for summary in summaries:
        if summary.sessions == 1:
            said.append(f"arm {summary.arm!r} has one session: descriptive only")
        elif summary.sessions < 5:
            said.append(f"arm {summary.arm!r} has {summary.sessions} sessions: too few for a test")
        if summary.complete < summary.sessions:
            missing = summary.sessions - summary.complete
            said.append(f"arm {summary.arm!r}: {missing} of {summary.sessions} sessions unfinished")
    return said
