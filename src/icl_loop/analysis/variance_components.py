"""Variance of late accuracy: between streams, and between repeats of a stream."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from icl_loop.analysis.curves import LATE


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """How the late accuracy of an arm varies.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        streams: Number of streams with complete sessions.
        sessions: Number of complete sessions.
        between_streams: Variance of the streams' expected accuracies; None with one stream.
        between_repeats: Variance of the repeats of a stream around its expected accuracy.
    """

    experiment: str
    arm: str
    streams: int
    sessions: int
    between_streams: float | None
    between_repeats: float

    def fields(self) -> dict[str, Any]:
        """Return the components as JSON."""
        return {
            name: each for name, each in asdict(self).items() if name not in ("experiment", "arm")
        }


def variance_components(turns: pl.DataFrame) -> list[VarianceComponents]:
    """Return the components of each arm of a frame that has complete repeats of a stream."""
    late = (
        turns.filter(LATE, "complete")
        .group_by("experiment", "arm", "stream", "path", maintain_order=True)
        .agg(pl.col("correct").mean())
        .group_by("experiment", "arm", "stream", maintain_order=True)
        .agg("correct")
    )
    return list(_by_arm(late))


def _by_arm(late: pl.DataFrame) -> Iterator[VarianceComponents]:
    arms = late.group_by("experiment", "arm", maintain_order=True).agg("correct")
    for experiment, arm, streams in arms.iter_rows():
        sessions = sum(map(len, streams))
        if sessions > len(streams):
            between, within = components(streams)
            yield VarianceComponents(experiment, arm, len(streams), sessions, between, within)


def components(groups: Sequence[Sequence[float]]) -> tuple[float | None, float]:
    """Return the variances between and within groups, at least one of which has two values.

    The estimates of the one-way random-effects analysis of variance for groups of any size (Searle,
    Casella and McCulloch 1992, section 3.6). A negative estimate between groups is given as 0, and
    None stands for it with a single group.
    """
    sizes = np.array([len(group) for group in groups])
    means = np.array([np.mean(group) for group in groups])
    count, degrees = sizes.sum(), len(groups) - 1
    spread = sum(float(np.square(np.subtract(group, np.mean(group))).sum()) for group in groups)
    within = spread / float(count - len(groups))
    if not degrees:
        return None, within
    centre = float(sizes @ means) / float(count)
    between = float(sizes @ np.square(means - centre)) / degrees
    size = (float(count) - float(sizes @ sizes) / float(count)) / degrees
    return max(0.0, (between - within) / size), within
