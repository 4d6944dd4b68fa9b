"""Calibration: whether the probabilities of labels are as good as they claim to be."""

import math
from dataclasses import dataclass

import polars as pl

BINS = 10
"""Bins of equal width into which confidence is divided."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The turns whose confidence lies between `low` and `high`: its mean, and the share of hits."""

    low: float
    high: float
    turns: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well confidence agrees with accuracy, over the turns of all sessions of an arm.

    Attributes:
        error: Expected calibration error: the mean over turns of the distance between confidence and
            accuracy of their bin (Naeini et al. 2015; Guo et al. 2017), or None without turns. It is
            above 0 for a calibrated model, too, by about sqrt(bins / turns) / 2 at most.
        bins: The bins that have turns.
    """

    error: float | None
    bins: tuple[ReliabilityBin, ...]


def calibration(graded: pl.DataFrame) -> Calibration:
    """Return the calibration over the graded turns of a frame."""
    place = (pl.col("confidence") * BINS).floor().clip(0, BINS - 1).cast(pl.Int64)
    found = (
        graded.drop_nulls("confidence")
        .group_by(place=place, maintain_order=True)
        .agg(pl.len(), pl.col("confidence").mean(), accuracy=pl.col("hit").mean())
        .sort("place")
    )
    bins = tuple(
        ReliabilityBin(place / BINS, (place + 1) / BINS, turns, confidence, accuracy)
        for place, turns, confidence, accuracy in found.iter_rows()
    )
    total = sum(each.turns for each in bins)
    apart = math.fsum(each.turns * abs(each.accuracy - each.confidence) for each in bins)
    return Calibration(apart / total if total else None, bins)
