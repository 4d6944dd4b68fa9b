"""Learning curves: accuracy in windows of turns, over sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import scipy  # its parts are loaded where they are first used
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.errors import InputError

EDGES = (0, 20, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000)
"""Where the windows of the table begin, as turns counted from 0; the last one has no end."""
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
        half = float(_half_widths(values.std(ddof=1), count))
        return cls(mean, (mean - half, mean + half), count)


def _half_widths(deviations: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Return half the widths of t intervals, NaN for a count of 1."""
    number = np.asarray(counts, dtype=np.float64)
    quantiles: NDArray[np.float64] = scipy.special.stdtrit(number - 1, (1 + LEVEL) / 2)
    return quantiles * np.asarray(deviations, dtype=np.float64) / np.sqrt(number)


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
        complete: How many were played to their end, all planned turns.
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
    numbered = turns.select(
        *("experiment", "arm", "turns", "chance", "complete", "turn", "outcome", "correct"),
        pl.col("path").cast(pl.Categorical).to_physical(),  # numbers are compared faster
    )
    return [
        _summary(str(experiment), str(arm), part)
        for (experiment, arm), part in numbered.group_by("experiment", "arm", maintain_order=True)
    ]


def _summary(experiment: str, arm: str, turns: pl.DataFrame) -> ArmSummary:
    planned = pl.col("turns")
    longest = 1 + int(turns["turn"].max())  # type: ignore[arg-type]  # a column of integers
    edges = [*(edge for edge in EDGES if edge < longest), longest]
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
                start + 1, stop, _accuracy(turns.filter(pl.col("turn").is_between(start, stop - 1)))
            )
            for start, stop in pairwise(edges)
        ),
        outcomes=dict(turns.group_by("outcome", maintain_order=True).len().iter_rows()),
    )


def early_turns(planned: pl.Expr) -> pl.Expr:
    """Return how many turns count as early in a session of so many planned turns."""
    return (planned // 10).clip(1, 20)


def _accuracy(turns: pl.DataFrame) -> Estimate:
    per_session = turns.group_by("path", maintain_order=True).agg(pl.col("correct").mean())
    return Estimate.of(per_session["correct"].to_numpy())


def session_curves(turns: pl.DataFrame, window: int) -> pl.DataFrame:
    """Return the windowed accuracy of every session.

    Args:
        turns: A frame of turns.
        window: Turns in a window, at least 1. An arm of which no session is as long has windows
            of its longest session; a session that was cut off before its first window has none.

    Returns:
        Columns `experiment`, `arm`, `stream`, `path`, `turn`, `accuracy`, `window` (turns in it);
        `turn` is the middle of a whole window, counted from 1.
    """
    if window < 1:
        raise InputError(f"a window has at least one turn, got window={window}")
    longest = 1 + pl.col("turn").max().over("experiment", "arm")
    right = pl.col("correct").cast(pl.Int64).cum_sum().over("path", order_by="turn")
    before = pl.col("right").shift(pl.col("window").first(), fill_value=0)
    return (
        turns.with_columns(window=pl.min_horizontal(window, longest), right=right)
        .with_columns(before=before.over("path", order_by="turn"))
        .filter(pl.col("turn") + 1 >= pl.col("window"))
        .select(
            *("experiment", "arm", "stream", "path"),
            turn=pl.col("turn") + 1 - (pl.col("window") - 1) / 2,
            accuracy=(pl.col("right") - pl.col("before")) / pl.col("window"),
            window="window",
        )
    )


def arm_curves(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the mean over sessions of windowed accuracy, with its 95 % t interval.

    Args:
        sessions: What `session_curves` returns.

    Returns:
        Columns `experiment`, `arm`, `turn`, `accuracy`, `low`, `high`, `sessions`; arm by arm in
        the order of `sessions`, turns rising. The interval is cut off at 0 and 1, and null where
        only one session has the window.
    """
    curves = (
        sessions.group_by("experiment", "arm", "turn", maintain_order=True)
        .agg(
            pl.col("accuracy").mean(),
            deviation=pl.col("accuracy").std(),
            sessions=pl.len().cast(pl.Int64),
        )
        .with_row_index()
        .sort(pl.col("index").min().over("experiment", "arm"), "turn")
    )
    half = pl.Series("half", _half_widths(curves["deviation"], curves["sessions"]))
    return curves.with_columns(half.fill_nan(None)).select(
        *("experiment", "arm", "turn", "accuracy"),
        low=(pl.col("accuracy") - pl.col("half")).clip(0, 1),
        high=(pl.col("accuracy") + pl.col("half")).clip(0, 1),
        sessions="sessions",
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


def warnings(summaries: Sequence[ArmSummary]) -> list[str]:
    """Return what a reader should know before believing the summaries."""
    several = len({summary.experiment for summary in summaries}) > 1
    said = []
    for summary in summaries:
        arm = f"arm {summary.arm!r}" + (f" of {summary.experiment!r}" if several else "")
        if summary.sessions == 1:
            said.append(f"{arm} has one session: descriptive only")
        elif summary.sessions < 5:
            said.append(f"{arm} has {summary.sessions} sessions: too few for a test")
        if summary.complete < summary.sessions:
            missing = summary.sessions - summary.complete
            said.append(f"{arm}: {missing} of {summary.sessions} sessions unfinished")
    return said
