"""Metrics beyond accuracy: balance, collapse, use of feedback, exploration, tokens and latency."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from icl_loop.analysis.curves import EARLY, LATE, Estimate
from icl_loop.analysis.use_of_feedback import (
    EXPLORATION,
    SESSION,
    Nearest,
    exploration,
    feedback_use,
)

_TOKENS = ("prompt", "cached", "completion", "reasoning")
_LEARNED = ("feedback_use", *EXPLORATION)


@dataclass(frozen=True, slots=True)
class ArmMetrics:
    """Metrics of one arm's answers.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        recall: Share of right answers among the turns of each label.
        entropy_early: Entropy of a session's answers in its early turns, in bits.
        entropy_late: The same in its late turns; low if answers collapsed onto few labels.
        top_share_early: Share of a session's most frequent answer in its early turns.
        top_share_late: The same in its late turns.
        wrong: Number of wrong answers in a session (its regret).
        exposure: Number of past turns shown, averaged over a session's turns.
        feedback_use: How much more likely an answer is repeated after "right" than after "wrong"; see
            `feedback_use`.
        labels_tried: Share of the labels that a session gave as answers to samples of one class; see
            `exploration`.
        refuted_repeats: How often it gives an answer again that was called wrong; see `exploration`.
        greedy_share: How often it gives the label that it was told is right; see `exploration`.
        tokens: Total tokens: `prompt`, `cached` (part of it), `completion`, `reasoning` (part of it).
        latency_s: Median latency of a reply in seconds; None if no latency is known.
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
    labels_tried: Estimate
    refuted_repeats: Estimate
    greedy_share: Estimate
    tokens: dict[str, int]
    latency_s: float | None

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over labels."""
        return float(np.mean(list(self.recall.values())))


def measure(turns: pl.DataFrame, nearest: Nearest | None = None) -> list[ArmMetrics]:
    """Return the metrics of every arm in a frame of turns, in order of appearance.

    Args:
        turns: The result of `frame`.
        nearest: The result of `nearest_turns`; see `feedback_use`.
    """
    learned = feedback_use(turns, nearest).join(
        exploration(turns), on=SESSION, how="left", maintain_order="left"
    )
    numbered = turns.drop("sample", "told_length", "told_label", strict=False).with_columns(
        pl.col("path", "answer")
        .cast(pl.Categorical)
        .to_physical()  # integers compare faster than strings
    )
    return [
        _metrics(part, learned.filter(experiment=experiment, arm=arm))
        for (experiment, arm), part in numbered.group_by("experiment", "arm", maintain_order=True)
    ]


def _metrics(turns: pl.DataFrame, learned: pl.DataFrame) -> ArmMetrics:
    recall = (
        turns.drop_nulls("correct").group_by("label").agg(pl.col("correct").mean()).sort("label")
    )
    sessions = turns.group_by("path", maintain_order=True).agg(
        wrong=(~pl.col("correct")).sum(), exposure=pl.col("exposure").mean()
    )
    early, late = (_answer_spread(turns.filter(part)) for part in (EARLY, LATE))
    return ArmMetrics(
        experiment=turns["experiment"][0],
        arm=turns["arm"][0],
        recall=dict(recall.iter_rows()),
        entropy_early=_estimate(early["entropy"]),
        entropy_late=_estimate(late["entropy"]),
        top_share_early=_estimate(early["top"]),
        top_share_late=_estimate(late["top"]),
        wrong=_estimate(sessions["wrong"]),
        exposure=_estimate(sessions["exposure"]),
        **{name: _estimate(learned[name]) for name in _LEARNED},
        tokens={name: int(turns[name].sum()) for name in _TOKENS},
        latency_s=cast("float | None", turns["latency_s"].median()),
    )


def _answer_spread(turns: pl.DataFrame) -> pl.DataFrame:
    """Return entropy (Shannon 1948, in bits) and top share of each session's parsed answers."""
    shares = pl.col("answer").unique_counts() / pl.len()
    return (
        turns.drop_nulls("answer")
        .group_by("path", maintain_order=True)
        .agg(entropy=0 - (shares * shares.log(2)).sum(), top=shares.max())  # avoids -0.0
    )


def _estimate(values: pl.Series) -> Estimate:
    return Estimate.of(values.drop_nulls().cast(pl.Float64).to_numpy())


def confusion(turns: pl.DataFrame) -> pl.DataFrame:
    """Return how often each label received each answer.

    Returns:
        Columns `experiment`, `arm`, `label`, `answer` (null if unparsed), `turns`, and `share` of the
        label's turns; arms in the order of `turns`, labels and answers sorted.
    """
    arm = ("experiment", "arm")
    return (
        turns.drop_nulls("correct")
        .with_columns(order=pl.int_range(pl.len()).min().over(arm))
        .group_by("order", *arm, "label", "answer")
        .agg(turns=pl.len().cast(pl.Int64))
        .with_columns(share=pl.col("turns") / pl.col("turns").sum().over(*arm, "label"))
        .sort("order", "label", "answer", nulls_last=True)
        .drop("order")
    )


def learning_efficiency(accuracy: float, stateless: float, reference: float) -> float | None:
    """Return (accuracy - stateless) / (reference - stateless), all of them late accuracies.

    None if the reference gains nothing over `stateless`.
    """
    gain = reference - stateless
    return (accuracy - stateless) / gain if gain > 0 else None


def equivalent_examples(accuracy: float, turns: ArrayLike, reference: ArrayLike) -> float | None:
    """Return the number of turns after which a reference curve first reaches `accuracy`.

    Args:
        accuracy: Accuracy of the model.
        turns: Turns at which the curve is known, ascending, shape (points,).
        reference: Accuracy of the reference at those turns, shape (points,), interpolated linearly.

    Returns:
        The number of turns (the first point if the curve starts above), or None if never reached.
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
    """Return metrics as JSON; undefined values are null."""
    estimates = (
        *("entropy_early", "entropy_late", "top_share_early", "top_share_late"),
        *("wrong", "exposure", *_LEARNED),
    )
    return {
        "balanced_accuracy": metrics.balanced_accuracy,
        "recall": metrics.recall,
        **{name: getattr(metrics, name).mean for name in estimates},
        "tokens": metrics.tokens,
        "latency_s": metrics.latency_s,
    }
