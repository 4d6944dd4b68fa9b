"""Contrasts between two arms over their common streams: effect, interval and tests.

The unit is the stream. Each stream gives one difference D between the late accuracies of its two
sessions, taken over the second half of the planned turns. Single turns are never tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import ArrayLike

from icl_loop.analysis.power import detectable
from icl_loop.analysis.significance import (
    ALPHA,
    DECIMALS,
    Floats,
    Interval,
    deciding_test,
    deviation_of,
    max_t,
    mean_of,
)

MARGIN = 0.05
"""Accuracies that differ by less than this count as equivalent."""
FEWEST_STREAMS = 5
"""No test is made with fewer streams."""
RATES = (2, 5, 10, 20, 50, 100)
"""Bet sizes (lambda) of the e-process."""
STOP_AT = 20.0
"""The e-value at which a run may stop early: 1 / 0.05."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The difference in late accuracy between two arms.

    One test decides everything: p, interval, equivalence and detectable effect (see `significance`).
    With fewer than `FEWEST_STREAMS` streams nothing is tested, and the last five attributes are None. If all
    differences are equal, the interval has zero width.

    Attributes:
        arms: The arm of interest and the arm it is compared with.
        streams: Streams that both arms completed, in ascending order.
        differences: D of each stream: late accuracy of the first arm minus that of the second.
        margin: Equivalence margin.
        theta: Mean difference, or None without streams.
        test: Name of the test, `sign-flip` or `t`.
        p: Two-sided p-value.
        interval: 95 % confidence interval: the effects that the test does not reject. None with
            fewer than six streams, because every effect is compatible with these.
        mde: Minimum detectable effect: the effect found with 80 % power. None with fewer than six
            streams or if all differences are equal.
        equivalent: Whether two one-sided tests at 5 % place the effect within the margin
            (Schuirmann 1987): whether the 90 % interval lies inside it.
    """

    arms: tuple[str, str]
    streams: tuple[int, ...]
    differences: tuple[float, ...]
    margin: float
    theta: float | None
    test: str | None = None
    p: float | None = None
    interval: Interval | None = None
    mde: float | None = None
    equivalent: bool | None = None

    @classmethod
    def of(
        cls,
        arms: tuple[str, str],
        first: Mapping[int, float],
        second: Mapping[int, float],
        margin: float = MARGIN,
        largest: float = 1.0,
    ) -> "Contrast":
        """Return the contrast between late accuracies by stream, over their common streams.

        Limits of the interval beyond ± `largest` are moved there: accuracies differ by at most 1.
        """
        streams = tuple(sorted(first.keys() & second.keys()))
        exact = np.array([first[each] - second[each] for each in streams])
        values = exact.round(DECIMALS) + 0.0  # no -0.0
        differences = tuple(values.tolist())
        if len(streams) < FEWEST_STREAMS:
            return cls(arms, streams, differences, margin, mean_of(values) if streams else None)
        test = deciding_test(values)
        interval = test.interval()
        low, high = test.interval(2 * ALPHA) or (-inf, inf)
        return cls(
            arms=arms,
            streams=streams,
            differences=differences,
            margin=margin,
            theta=mean_of(values),
            test=test.name,
            p=test.p,
            interval=interval and (max(interval[0], -largest), min(interval[1], largest)),
            mde=detectable(deviation_of(values), len(streams)) or None,
            equivalent=-margin < low and high < margin,
        )

    @property
    def k(self) -> int:
        """Number of streams."""
        return len(self.streams)

    @property
    def e_value(self) -> float:
        """The maximum of the e-process over the streams; 1 without streams."""
        return max(e_process(self.differences).tolist(), default=1.0)

    def shown(self, *, stopped_early: bool) -> bool:
        """Return whether the first arm is shown to be better.

        After early stopping the e-process decides, because the number of streams was not fixed in
        advance and p is not valid; otherwise p decides.
        """
        return self.e_value >= STOP_AT if stopped_early else self.above

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p is not None and self.p < ALPHA

    @property
    def above(self) -> bool:
        """Whether the first arm is significantly better than the second."""
        return self.significant and self.theta is not None and self.theta > 0


def adjusted(contrasts: Sequence[Contrast]) -> list[float | None]:
    """Return the p-values of contrasts adjusted for their number by step-down max-T.

    A contrast that was not tested gets None and is not counted.
    """
    tested = [each for each in contrasts if each.p is not None]
    streams = sorted({stream for each in tested for stream in each.streams})
    differences = np.zeros((len(tested), len(streams)))
    for row, each in zip(differences, tested, strict=True):
        row[np.searchsorted(streams, each.streams)] = each.differences
    own = np.array([each.p for each in tested], dtype=np.float64)
    found = iter(max_t(differences, own).tolist() if tested else ())
    return [None if each.p is None else next(found) for each in contrasts]


def e_process(differences: ArrayLike) -> Floats:
    """Return the evidence, after each stream, that the first arm is better than the second.

    E_n is the mean over lambda in `RATES` of the product of 2 / (1 + exp(-2 lambda D_s)) over the
    first n streams. If every D_s is equally likely to be positive or negative, E_n has expectation 1
    and reaches 20 with probability at most 0.05, however often it is inspected (Ville 1939). This
    holds for stopping between streams, not between turns.

    Args:
        differences: D of each stream in stream order, shape (n,).

    Returns:
        E_1 to E_n, shape (n,).
    """
    values = np.asarray(differences, dtype=np.float64)
    bets = 2 * scipy.special.expit(2 * np.array(RATES, dtype=np.float64)[:, None] * values)
    evidence: Floats = np.cumprod(bets, axis=1).mean(axis=0)
    return evidence
