"""Contrasts between two arms over their common streams: effect, interval and tests.

The unit is the stream. Each stream gives one difference D between the late accuracies of its two
sessions, taken over the second half of the planned turns. Single turns are never tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.records import keyed_bits

ALPHA = 0.05
POWER = 0.8
MARGIN = 0.05
"""Accuracies that differ by less than this count as equivalent."""
FEWEST_STREAMS = 5
"""No test is made with fewer streams."""
MOST_FOR_SIGN_FLIP = 12
"""The sign-flip test decides up to this number of streams, the t test above it."""
MOST_ENUMERATED = 16
"""All sign flips are enumerated up to this number of streams; above it, `DRAWS` random ones."""
DRAWS = 20_000
RATES = (2, 5, 10, 20, 50, 100)
"""Bet sizes (lambda) of the e-process."""
STOP_AT = 20.0
"""The e-value at which a run may stop early: 1 / 0.05."""

_DECIMALS = 12
"""Differences are rounded to this many decimals, so that equal differences compare equal."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contrast:
    """The difference in late accuracy between two arms.

    With fewer than `FEWEST_STREAMS` streams nothing is tested, and the last four attributes are None.
    If all differences are equal, the interval has zero width, and the t test's p is 1 if they are 0
    and None otherwise, because t is then undefined.

    Attributes:
        arms: The arm of interest and the arm it is compared with.
        streams: Streams that both arms completed, in ascending order.
        differences: D of each stream: late accuracy of the first arm minus that of the second.
        margin: Equivalence margin.
        theta: Mean difference, or None without streams.
        interval: 95 % t interval with K - 1 degrees of freedom, or None with fewer than two streams.
        p_t: Two-sided p-value of the t test.
        p_sign_flip: Two-sided p-value of the sign-flip test.
        mde: Minimum detectable effect: the effect found with 80 % power; None if all differences are
            equal.
        equivalent: Whether the effect is shown to lie within the margin.
    """

    arms: tuple[str, str]
    streams: tuple[int, ...]
    differences: tuple[float, ...]
    margin: float
    theta: float | None
    interval: tuple[float, float] | None
    p_t: float | None
    p_sign_flip: float | None
    mde: float | None
    equivalent: bool | None

    @classmethod
    def of(
        cls,
        arms: tuple[str, str],
        first: Mapping[int, float],
        second: Mapping[int, float],
        margin: float = MARGIN,
    ) -> "Contrast":
        """Return the contrast between late accuracies by stream, over their common streams."""
        streams = tuple(sorted(first.keys() & second.keys()))
        exact = np.array([first[each] - second[each] for each in streams])
        values = exact.round(_DECIMALS) + 0.0  # no -0.0
        tested = len(streams) >= FEWEST_STREAMS
        return cls(
            arms=arms,
            streams=streams,
            differences=tuple(values.tolist()),
            margin=margin,
            theta=_mean(values) if streams else None,
            interval=t_interval(values) if len(streams) > 1 else None,
            p_t=t_test(values) if tested else None,
            p_sign_flip=sign_flip(values) if tested else None,
            mde=least_detectable(values) if tested else None,
            equivalent=is_equivalent(values, margin) if tested else None,
        )

    @property
    def k(self) -> int:
        """Number of streams."""
        return len(self.streams)

    @property
    def p(self) -> float | None:
        """The deciding p-value: from the sign-flip test with few streams, from the t test with many."""
        exact = self.k <= MOST_FOR_SIGN_FLIP or self.p_t is None
        return self.p_sign_flip if exact else self.p_t

    @property
    def test(self) -> str:
        """Name of the deciding test."""
        return "t" if self.p is not None and self.p is self.p_t else "sign-flip"

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
        """Whether the deciding p-value is below 0.05."""
        return self.p is not None and self.p < ALPHA

    @property
    def above(self) -> bool:
        """Whether the first arm is significantly better than the second."""
        return self.significant and self.theta is not None and self.theta > 0


def _mean(values: Floats) -> float:
    """Return the mean; for equal values, exactly that value."""
    return float(values.mean()) if np.ptp(values) else float(values[0])


def _error(values: Floats) -> float:
    """Return the standard error of the mean; for equal values, exactly 0."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if np.ptp(values) else 0.0


def t_interval(values: Floats, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Return the t interval for the mean of at least two values (Student 1908)."""
    half = float(scipy.special.stdtrit(values.size - 1, (1 + level) / 2)) * _error(values)
    mean = _mean(values)
    return mean - half, mean + half


def t_test(values: Floats) -> float | None:
    """Return the two-sided p-value for a zero mean; None if all values equal the same nonzero number."""
    error = _error(values)
    if not error:
        return None if values[0] else 1.0
    return float(2 * scipy.special.stdtr(values.size - 1, -abs(_mean(values)) / error))


def sign_flip(values: Floats) -> float:
    """Return the two-sided p-value of the sign-flip test (Fisher 1935).

    Under the null hypothesis every value is as likely to be positive as negative. Up to 16 values all
    sign flips are enumerated. Above that, 20,000 random flips are drawn, which depend only on
    the number of values, and the observed one is added to them.
    """
    exact = values.size <= MOST_ENUMERATED
    sums = all_signs(values.size) @ values if exact else _random_sums(values)
    least = abs(float(values.sum())) - 10.0**-_DECIMALS * values.size
    reached = int((np.abs(sums) >= least).sum())
    return reached / sums.size if exact else (1 + reached) / (1 + DRAWS)


@lru_cache(maxsize=4)
def all_signs(count: int) -> Floats:
    """Return every combination of signs, shape (2**count, count)."""
    chosen = np.arange(2**count)[:, None] >> np.arange(count) & 1
    signs: Floats = 1.0 - 2.0 * chosen.astype(np.float64)
    return signs


def _random_sums(values: Floats) -> Floats:
    """Return the sum of the values under each random flip, shape (DRAWS,).

    The 256 possible sums of each group of eight values are computed once and looked up.
    """
    eights = np.pad(values, (0, -values.size % 8)).reshape(-1, 8)
    looked_up: Floats = (eights @ all_signs(8).T)[np.arange(len(eights)), _flips(values.size)]
    sums: Floats = looked_up.sum(axis=1)
    return sums


@lru_cache(maxsize=4)
def _flips(count: int) -> NDArray[np.uint8]:
    """Return random signs as bits, shape (DRAWS, ceil(count / 8))."""
    words = -(-count // 64)
    bits = keyed_bits(DRAWS * words, "sign-flip", count).reshape(DRAWS, words)
    return bits.astype("<u8").view(np.uint8)[:, : -(-count // 8)]


def least_detectable(values: Floats) -> float | None:
    """Return the effect that a two-sided t test at 0.05 detects with 80 % power.

    It is delta * s / sqrt(K), where s is the observed standard deviation and delta the
    noncentrality at which the noncentral t distribution with K - 1 degrees of freedom exceeds
    t(0.975, K - 1) with probability 0.8 (Johnson and Welch 1940). The opposite tail, below 1e-6, is
    ignored. None if the values have no variance.
    """
    freedom = values.size - 1
    delta = scipy.special.nctdtrinc(
        freedom, 1 - POWER, scipy.special.stdtrit(freedom, 1 - ALPHA / 2)
    )
    return float(delta) * _error(values) or None


def is_equivalent(values: Floats, margin: float) -> bool:
    """Return whether two one-sided t tests at 0.05 place the mean within the margin (Schuirmann 1987)."""
    low, high = t_interval(values, 1 - 2 * ALPHA)
    return -margin < low and high < margin


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's step-down method (Holm 1979).

    None stands for a contrast that was not tested; it stays None and is not counted.
    """
    tested = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    reached = 0.0
    for rank, (p, place) in enumerate(tested):
        reached = max(reached, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = reached
    return adjusted


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
