"""Learning curves: windowed accuracy against turn, averaged over sessions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import scipy  # loads its submodules on first use
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.errors import InputError

Floats = NDArray[np.float64]

EDGES = (0, 20, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000)
"""Start turns (from 0) of the windows in the accuracy table; the last window is open-ended."""
LEVEL = 0.95
FEWEST_SESSIONS = 3
"""An interval needs at least this many sessions: with two it would cover nearly everything."""
EARLY = pl.col("turn") < (pl.col("turns") // 10).clip(1, 20)
"""Selects the first min(20, T / 10) of T planned turns, but at least one."""
LATE = pl.col("turn") >= pl.col("turns") // 2
"""Selects the second half of the planned turns."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over sessions with its 95 % interval.

    Attributes:
        mean: Mean of the session means, or None without sessions.
        interval: 95 % interval over sessions, or None with fewer than `FEWEST_SESSIONS`.
        sessions: Number of sessions with turns in the window.
    """

    mean: float | None
    interval: tuple[float, float] | None
    sessions: int

    @classmethod
    def of(cls, values: Floats) -> "Estimate":
        """Return the estimate from one unbounded value per session, shape (sessions,).

        The interval is mean ± t(0.975, K - 1) * s / sqrt(K) (Student 1908).
        """
        return cls._of(values, _t_interval)

    @classmethod
    def of_shares(cls, values: Floats, trials: int) -> "Estimate":
        """Return the estimate from one share per session, such as its accuracy; see `share_interval`.

        Args:
            values: Shares from 0 to 1, shape (sessions,).
            trials: Number of turns, or of probes, in all sessions together.
        """
        return cls._of(values, partial(share_interval, trials=trials))

    @classmethod
    def _of(cls, values: Floats, interval: Callable[..., tuple[Floats, Floats]]) -> "Estimate":
        count = values.size
        if count < FEWEST_SESSIONS:
            return cls(float(values.mean()) if count else None, None, count)
        low, high = interval(values.mean(), values.std(ddof=1), count)
        return cls(float(values.mean()), (float(low), float(high)), count)


def share_interval(
    means: ArrayLike, deviations: ArrayLike, counts: ArrayLike, trials: ArrayLike
) -> tuple[Floats, Floats]:
    """Return 95 % intervals for means of shares over sessions, always within 0 to 1.

    It is Wilson's interval (1927) with the quantile t(0.975, K - 1) and the effective number of trials
    n = m (1 - m) / (s^2 / K), the number of independent trials that would vary as much as the
    session means do (Kish 1965; compared with other intervals for clustered samples by Dean and
    Pagano 2015 and by Franco et al. 2019). At most the real number of trials counts (Korn and
    Graubard 1998), also where all sessions agree.

    Args:
        means: Mean m of the shares of K sessions.
        deviations: Their standard deviation s, with K - 1 in the denominator.
        counts: Number K of sessions.
        trials: Number of turns in these sessions.
    """
    mean, count = np.asarray(means, np.float64), np.asarray(counts, np.float64)
    error = np.square(np.asarray(deviations, np.float64)) / count
    spread = mean * (1 - mean)
    most = np.broadcast_to(np.asarray(trials, np.float64), error.shape)
    effective = np.divide(spread, error, out=most.copy(), where=error * most > spread)
    squared = np.square(_quantiles(count)) / effective
    centre = (mean + squared / 2) / (1 + squared)
    half = np.sqrt(squared * (spread + squared / 4)) / (1 + squared)
    # Rounding must not put the mean outside its interval.
    return np.clip(centre - half, 0, mean), np.clip(centre + half, mean, 1)


def _t_interval(
    means: ArrayLike, deviations: ArrayLike, counts: ArrayLike
) -> tuple[Floats, Floats]:
    """Return 95 % t intervals."""
    mean, number = np.asarray(means, np.float64), np.asarray(counts, np.float64)
    half = _quantiles(number) * np.asarray(deviations, np.float64) / np.sqrt(number)
    return mean - half, mean + half


def _quantiles(counts: Floats) -> Floats:
    """Return t(0.975, K - 1)."""
    quantiles: Floats = scipy.special.stdtrit(counts - 1, (1 + LEVEL) / 2)
    return quantiles


@dataclass(frozen=True, slots=True)
class WindowAccuracy:
    """Accuracy in turns `first` to `last`, counted from 1 and inclusive."""

    first: int
    last: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Accuracy and outcomes of one arm.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        sessions: Number of sessions.
        complete: Number of sessions that played all planned turns, or filled their context window.
        turns: Total number of turns.
        chance: Accuracy of guessing.
        accuracy: Accuracy over all turns.
        early: Accuracy over the first min(20, T / 10) turns.
        late: Accuracy over the second half of the T planned turns.
        windows: Accuracy in consecutive windows of turns.
        outcomes: Number of turns by outcome.
        model: Name of the model, or of several; None if unknown.
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
    windows: tuple[WindowAccuracy, ...]
    outcomes: dict[str, int]
    model: str | None = None


def summarise(turns: pl.DataFrame) -> list[ArmSummary]:
    """Return a summary of every arm in a frame of turns, in order of appearance."""
    numbered = turns.select(
        *("experiment", "arm", "turns", "chance", "turn", "outcome", "correct", "model"),
        pl.col("path").cast(pl.Categorical).to_physical(),  # integers group faster than strings
        ended=pl.col("complete") | pl.col("status").eq_missing("context_full"),
    )
    return [
        _summary(str(experiment), str(arm), part)
        for (experiment, arm), part in numbered.group_by("experiment", "arm", maintain_order=True)
    ]


def _summary(experiment: str, arm: str, turns: pl.DataFrame) -> ArmSummary:
    longest = 1 + int(turns["turn"].max())  # type: ignore[arg-type]  # a column of integers
    edges = [*(edge for edge in EDGES if edge < longest), longest]
    return ArmSummary(
        experiment=experiment,
        arm=arm,
        sessions=turns["path"].n_unique(),
        complete=turns.filter("ended")["path"].n_unique(),
        turns=turns.height,
        chance=float(turns["chance"][0]),
        accuracy=_accuracy(turns),
        early=_accuracy(turns.filter(EARLY)),
        late=_accuracy(turns.filter(LATE)),
        windows=tuple(
            WindowAccuracy(
                start + 1, stop, _accuracy(turns.filter(pl.col("turn").is_between(start, stop - 1)))
            )
            for start, stop in pairwise(edges)
        ),
        outcomes=dict(turns.group_by("outcome", maintain_order=True).len().iter_rows()),
        model=", ".join(turns["model"].drop_nulls().unique(maintain_order=True)) or None,
    )


def _accuracy(turns: pl.DataFrame) -> Estimate:
    counted = turns.drop_nulls("correct")
    per_session = counted.group_by("path", maintain_order=True).agg(pl.col("correct").mean())
    return Estimate.of_shares(per_session["correct"].to_numpy(), counted.height)


def session_curves(turns: pl.DataFrame, window: int) -> pl.DataFrame:
    """Return the windowed accuracy of every session.

    Args:
        turns: A frame of turns.
        window: Number of turns in a window, at least 1. If all sessions of an arm are shorter, its
            window is the length of its longest session. A session shorter than its window has no curve.

    Returns:
        Columns `experiment`, `arm`, `stream`, `path`, `turn`, `accuracy`, `window` (its number of
        turns), `counted` (how many of them count, see `frame`; accuracy is over these); `turn` is the
        middle of the window, counted from 1.
    """
    if window < 1:
        raise InputError(f"window must be at least 1, got {window}")
    longest = 1 + pl.col("turn").max().over("experiment", "arm")
    sums = {
        "right": pl.col("correct").fill_null(value=False).cast(pl.Int64),
        "counted": pl.col("correct").is_not_null().cast(pl.Int64),
    }
    so_far = {name: each.cum_sum().over("path", order_by="turn") for name, each in sums.items()}
    before = pl.col(*sums).shift(pl.col("window").first(), fill_value=0)
    inside = pl.col(*sums) - before.over("path", order_by="turn")
    return (
        turns.select("experiment", "arm", "stream", "path", "turn", "correct")  # the rest is large
        .with_columns(window=pl.min_horizontal(window, longest), **so_far)
        .with_columns(inside)
        .filter(pl.col("turn") + 1 >= pl.col("window"), pl.col("counted") > 0)
        .select(
            *("experiment", "arm", "stream", "path"),
            turn=pl.col("turn") + 1 - (pl.col("window") - 1) / 2,
            accuracy=pl.col("right") / pl.col("counted"),
            window="window",
            counted="counted",
        )
    )


def with_baseline(turns: pl.DataFrame) -> pl.DataFrame:
    """Return turns with the answers of the baseline in place of the model's, where turns count."""
    return turns.with_columns(correct=pl.when(pl.col("correct").is_not_null()).then("baseline"))


def arm_curves(sessions: pl.DataFrame, value: str = "accuracy") -> pl.DataFrame:
    """Return windowed accuracy, or another value, averaged over sessions, with 95 % intervals.

    Args:
        sessions: The result of `session_curves`, or a frame with `value` in place of accuracy.
        value: The column that is averaged. The interval of accuracy is that of `share_interval`; any
            other value has a t interval, without its part below 0.

    Returns:
        Columns `experiment`, `arm`, `turn`, `value`, `low`, `high`, `sessions`, ordered by arm
        (as in `sessions`) and turn. The interval is null where fewer than `FEWEST_SESSIONS` sessions
        have the window.
    """
    curves = (
        sessions.group_by("experiment", "arm", "turn", maintain_order=True)
        .agg(
            pl.col(value).mean(),
            deviation=pl.col(value).std(),
            sessions=pl.len().cast(pl.Int64),
            trials=pl.col("counted" if "counted" in sessions.columns else "window").sum(),
        )
        .with_row_index()
        .sort(pl.col("index").min().over("experiment", "arm"), "turn")
    )
    means, deviations, counts, trials = (
        curves[name].to_numpy() for name in (value, "deviation", "sessions", "trials")
    )
    low, high = (
        share_interval(means, deviations, counts, trials)
        if value == "accuracy"
        else _t_interval(means, deviations, counts)
    )
    known = pl.when(pl.col("sessions") >= FEWEST_SESSIONS)
    return curves.with_columns(low=low, high=high).select(
        *("experiment", "arm", "turn", value),
        low=known.then(pl.col("low").clip(0)),
        high=known.then("high"),
        sessions="sessions",
    )


def summary_fields(summary: ArmSummary) -> dict[str, Any]:
    """Return a summary as JSON for `analyze --json`; undefined values are null."""
    return {
        "experiment": summary.experiment,
        "arm": summary.arm,
        "model": summary.model,
        "sessions": summary.sessions,
        "complete": summary.complete,
        "turns": summary.turns,
        "chance": summary.chance,
        **_estimate_fields("accuracy", summary.accuracy),
        **_estimate_fields("early", summary.early),
        **_estimate_fields("late", summary.late),
        "windows": [
            {
                "first": window.first,
                "last": window.last,
                "sessions": window.accuracy.sessions,
                **_estimate_fields("accuracy", window.accuracy),
            }
            for window in summary.windows
        ],
        "outcomes": summary.outcomes,
    }


def _estimate_fields(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.mean, f"{name}_ci": estimate.interval and list(estimate.interval)}


def models_played(turns: pl.DataFrame) -> list[str]:
    """Return the models in a frame of turns, each with the other names that its endpoint gave it."""
    other = pl.col("served_model").filter(pl.col("served_model") != pl.col("model")).unique().sort()
    named = turns.drop_nulls("model").group_by("model", maintain_order=True).agg(other)
    return [
        f"{model} (served as {', '.join(names)})" if names else model
        for model, names in named.iter_rows()
    ]


def warnings(summaries: Sequence[ArmSummary]) -> list[str]:
    """Return warnings about arms with too few or unfinished sessions."""
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
