"""How an arm answered, beside how often it was right: balance, collapse, use of feedback, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from icl_loop.analysis.curves import Estimate, early_turns
from icl_loop.core.errors import InputError

Nearest = Mapping[str, Sequence[int | None]]
"""For each session's path, the past turn whose picture is nearest to each turn's, None if none."""
_TOKENS = ("prompt", "cached", "completion", "reasoning")
_SESSION = ("experiment", "arm", "path")


@dataclass(frozen=True, slots=True)
class ArmMetrics:
    """How the sessions of one arm were answered.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        recall: Share of right answers among the turns of each label.
        entropy_early: Entropy of a session's answers in its early turns, in bits.
        entropy_late: The same in its late turns; it is low where answers collapsed onto few labels.
        top_share_early: Share of a session's most frequent answer among its early turns.
        top_share_late: The same among its late turns.
        wrong: Wrong answers of a session, which is its regret.
        exposure: Past turns shown, mean over a session's turns.
        feedback_use: How much likelier it is to repeat an answer that was right than one that was
            wrong; see the function of that name.
        tokens: Tokens in all: of prompts, of these cached, of replies, of these for reasoning.
        latency_s: Median seconds of a reply.
    """

    experiment: str
    arm: str
    recall: dict[str, float]
    entropy_early: Estimate
    entropy_late: Estimate
    top_share_early: Estimate
    top_share_late: Estimate
    wrong: Estimate
    exposure: Estimate
    feedback_use: Estimate
    tokens: dict[str, int]
    latency_s: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the recalls, in which every label counts alike."""
        return float(np.mean(list(self.recall.values())))


def measure(turns: pl.DataFrame, nearest: Nearest | None = None) -> list[ArmMetrics]:
    """Return the metrics of every arm in a frame of turns, in the order in which they appear.

    Args:
        turns: What `frame` returns.
        nearest: For `feedback_use`.
    """
    used = feedback_use(turns, nearest)
    numbered = turns.drop("sample", "told_length", strict=False).with_columns(
        pl.col("path", "answer").cast(pl.Categorical).to_physical()  # numbers are compared faster
    )
    return [
        _metrics(part, used.filter(experiment=experiment, arm=arm))
        for (experiment, arm), part in numbered.group_by("experiment", "arm", maintain_order=True)
    ]


def _metrics(turns: pl.DataFrame, used: pl.DataFrame) -> ArmMetrics:
    recall = turns.group_by("label").agg(pl.col("correct").mean()).sort("label")
    sessions = turns.group_by("path", maintain_order=True).agg(
        wrong=(~pl.col("correct")).sum(), exposure=pl.col("exposure").mean()
    )
    spread = [
        _spread(turns.filter(part))
        for part in (
            pl.col("turn") < early_turns(pl.col("turns")),
            pl.col("turn") >= pl.col("turns") // 2,
        )
    ]
    return ArmMetrics(
        experiment=turns["experiment"][0],
        arm=turns["arm"][0],
        recall=dict(recall.iter_rows()),
        entropy_early=_estimate(spread[0]["entropy"]),
        entropy_late=_estimate(spread[1]["entropy"]),
        top_share_early=_estimate(spread[0]["top"]),
        top_share_late=_estimate(spread[1]["top"]),
        wrong=_estimate(sessions["wrong"]),
        exposure=_estimate(sessions["exposure"]),
        feedback_use=_estimate(used["feedback_use"]),
        tokens={name: int(turns[name].sum()) for name in _TOKENS},
        latency_s=float(np.median(turns["latency_s"].to_numpy())),
    )


def _spread(turns: pl.DataFrame) -> pl.DataFrame:
    """Return entropy (Shannon 1948, in bits) and top share of each session's readable answers."""
    shares = pl.col("answer").unique_counts() / pl.len()
    return (
        turns.drop_nulls("answer")
        .group_by("path", maintain_order=True)
        .agg(entropy=0 - (shares * shares.log(2)).sum(), top=shares.max())  # 0 -: no -0.0
    )


def _estimate(values: pl.Series) -> Estimate:
    return Estimate.of(values.drop_nulls().cast(pl.Float64).to_numpy())


def confusion(turns: pl.DataFrame) -> pl.DataFrame:
    """Return how often each label got each answer.

    Returns:
        Columns `experiment`, `arm`, `label`, `answer` (null where there was none), `turns`, and
        `share` of the label's turns; arms in the order of `turns`, labels and answers sorted.
    """
    arm = ("experiment", "arm")
    return (
        turns.with_columns(order=pl.int_range(pl.len()).min().over(arm))
        .group_by("order", *arm, "label", "answer")
        .agg(turns=pl.len().cast(pl.Int64))
        .with_columns(share=pl.col("turns") / pl.col("turns").sum().over(*arm, "label"))
        .sort("order", "label", "answer", nulls_last=True)
        .drop("order")
    )


def feedback_use(turns: pl.DataFrame, nearest: Nearest | None = None) -> pl.DataFrame:
    """Return how much likelier sessions repeat the answer to a past turn that was right.

    It is P(same answer | the past turn was right) - P(same answer | it was wrong), where the past
    turn is the one shown whose picture is nearest. A turn that shows none, and a past turn without
    an answer, are left out.

    Args:
        turns: What `frame` returns.
        nearest: What `nearest_pictures` returns; a session that is not in it has no use. None
            takes the turn before, wherever past turns were shown: then it is about staying and
            shifting only.

    Returns:
        Columns `experiment`, `arm`, `path`, `feedback_use`; null where nothing shown was right, or
        nothing was wrong.
    """
    pointed = turns.with_columns(past=_past(turns, nearest)).drop_nulls("past")
    past = turns.select(
        "path", past="turn", past_answer="answer", past_correct="correct"
    ).drop_nulls("past_answer")
    pairs = pointed.join(past, on=["path", "past"], how="inner", maintain_order="left")
    same = (pl.col("answer") == pl.col("past_answer")).fill_null(value=False)
    use = pairs.group_by("path").agg(
        feedback_use=same.filter("past_correct").mean()
        - same.filter(~pl.col("past_correct")).mean()
    )
    every = turns.select(_SESSION).unique(maintain_order=True)
    return every.join(use, on="path", how="left", maintain_order="left")


def _past(turns: pl.DataFrame, nearest: Nearest | None) -> pl.Series | pl.Expr:
    if nearest is None:
        return pl.when(pl.col("exposure") > 0).then(pl.col("turn") - 1)
    if not nearest:
        return pl.lit(None, pl.Int64)
    found = [
        nearest[path][turn] if turn < len(nearest.get(path, ())) else None
        for path, turn in turns.select("path", "turn").iter_rows()
    ]
    return pl.Series("past", found, dtype=pl.Int64)


def nearest_shown(pictures: ArrayLike, shown: Sequence[Sequence[int]]) -> list[int | None]:
    """Return, for each turn of a session, the past turn shown whose picture is nearest to its own.

    Args:
        pictures: What each turn asked about, shape (turns, ...).
        shown: The past turns that each request showed.

    Returns:
        The past turn at the least Euclidean distance, the newest of equally near ones; None where
        nothing was shown.
    """
    flat = np.asarray(pictures, dtype=np.float64).reshape(len(shown), -1)
    return [_nearest(flat, turn, np.asarray(past, np.intp)) for turn, past in enumerate(shown)]


def _nearest(pictures: NDArray[np.float64], turn: int, past: NDArray[np.intp]) -> int | None:
    if not past.size:
        return None
    newest_first = np.sort(past)[::-1]
    distances = ((pictures[newest_first] - pictures[turn]) ** 2).sum(axis=1)
    return int(newest_first[distances.argmin()])


def excess_regret(correct: ArrayLike, reference: ArrayLike) -> NDArray[np.int64]:
    """Return by how many wrong answers a session exceeds a reference on the same stream.

    Args:
        correct: Whether each answer was right, shape (turns,).
        reference: The same of the reference, under the same window and feedback, shape (turns,).

    Returns:
        The excess after each turn, shape (turns,); negative where the reference did worse.
    """
    mine, other = (np.asarray(each, dtype=np.int64) for each in (correct, reference))
    if mine.shape != other.shape:
        raise InputError(
            f"regret takes two sessions of one length, got {mine.size} and {other.size}"
        )
    excess: NDArray[np.int64] = np.cumsum(other - mine)
    return excess


def learning_efficiency(accuracy: float, stateless: float, reference: float) -> float | None:
    """Return the share of what the reference gains over `stateless` that `accuracy` gains.

    All three are late accuracies. It is None where the reference gains nothing.
    """
    gain = reference - stateless
    return (accuracy - stateless) / gain if gain > 0 else None


def equivalent_examples(accuracy: float, turns: ArrayLike, reference: ArrayLike) -> float | None:
    """Return after how many turns a reference curve first reaches `accuracy`.

    Args:
        accuracy: Of the model.
        turns: Where the curve has its points, rising, shape (points,).
        reference: Accuracy of the reference there, shape (points,); between points it is a line.

    Returns:
        The number of turns, that of the first point if the curve begins above; None if the curve
        never reaches it.
    """
    at, curve = (np.asarray(each, dtype=np.float64) for each in (turns, reference))
    reached = np.flatnonzero(curve >= accuracy)
    if not reached.size:
        return None
    first = int(reached[0])
    if not first:
        return float(at[0])
    ends = slice(first - 1, first + 1)
    return float(np.interp(accuracy, curve[ends], at[ends]))


def metrics_fields(metrics: ArmMetrics) -> dict[str, Any]:
    """Return metrics as stable JSON; what is undefined is null."""
    estimates = ("entropy_early", "entropy_late", "top_share_early", "top_share_late")
    more = ("wrong", "exposure", "feedback_use")
    return {
        "balanced_accuracy": metrics.balanced_accuracy,
        "recall": metrics.recall,
        **{name: getattr(metrics, name).mean for name in (*estimates, *more)},
        "tokens": metrics.tokens,
        "latency_s": metrics.latency_s,
    }
