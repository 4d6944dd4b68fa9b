"""The one test behind p, interval, equivalence, adjusted p and power.

It asks whether the mean difference over streams is zero: by the exact sign-flip test (Fisher 1935) up to
`MOST_FOR_SIGN_FLIP` streams, and by Student's t test above.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import NDArray

from icl_loop.core.records import keyed_bits

ALPHA = 0.05
MOST_FOR_SIGN_FLIP = 16
"""The sign-flip test decides up to this number of streams, the t test above it."""
FEWEST_FOR_SIGNIFICANCE = 6
"""With fewer streams p is never below 0.05."""
DRAWS = 20_000
"""Random flips with more than `MOST_FOR_SIGN_FLIP` streams."""
DECIMALS = 12
"""Differences and their means are rounded to this many decimals, so that equal ones compare equal."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def least_p(streams: int) -> float:
    """Return the smallest p that the sign-flip test can give; `max_t` can give it, too."""
    return 2.0 ** (1 - streams)


@dataclass(frozen=True, slots=True, eq=False)
class SignFlipTest:
    """The exact sign-flip test on the differences of a few streams.

    Flipping the signs of a subset of the streams moves the sum of `values - theta` at least as far from
    0 as observed exactly if theta lies between the mean of the subset and the mean of the other
    streams. A subset and its complement give the same flip, so p(theta) is the share of
    the 2**(K - 1) pairs whose two means enclose theta; the pair of all streams and none encloses any.

    Attributes:
        low: The smaller mean of every other pair, in ascending order, shape (2**(K - 1) - 1,).
        high: The larger means, in ascending order.
    """

    low: Floats
    high: Floats
    name = "sign-flip"

    @classmethod
    def of(cls, values: Floats) -> "SignFlipTest":
        """Return the test on these differences, at most `MOST_FOR_SIGN_FLIP` of them."""
        low, high = np.sort(subset_means(values), axis=0).round(DECIMALS) + 0.0
        return cls(np.sort(low), np.sort(high))

    @property
    def p(self) -> float:
        """Two-sided p-value for a zero mean."""
        # Both means of a pair are below 0, both are above 0, or they enclose it.
        reached = np.searchsorted(self.low, 0.0, "right") - np.searchsorted(self.high, 0.0, "left")
        return (1 + int(reached)) / (1 + self.low.size)

    def interval(self, alpha: float = ALPHA) -> Interval | None:
        """Return all theta with p(theta) >= alpha; None if every theta has.

        This is an interval, because every pair of means encloses the overall mean. Its limits are
        means of some of the differences, so they never leave the range of these.
        """
        rank = rank_of_limit(alpha, 1 + self.low.size)
        return (float(self.low[rank - 1]), float(self.high[-rank])) if rank else None


@dataclass(frozen=True, slots=True)
class TTest:
    """Student's t test on the differences of many streams.

    Attributes:
        mean: Mean difference.
        error: Standard error of the mean; 0 if all differences are equal.
        streams: Number of differences.
    """

    mean: float
    error: float
    streams: int

    @classmethod
    def of(cls, values: Floats) -> "TTest":
        """Return the test on these differences, at least two."""
        return cls(mean_of(values), deviation_of(values) / sqrt(values.size), values.size)

    @property
    def name(self) -> str:
        """Name of the test: with equal differences t is undefined, and signs are flipped instead."""
        return "t" if self.error else "sign-flip"

    @property
    def p(self) -> float:
        """Two-sided p-value for a zero mean."""
        if not self.error:
            return least_p(self.streams) if self.mean else 1.0
        return float(2 * scipy.special.stdtr(self.streams - 1, -abs(self.mean) / self.error))

    def interval(self, alpha: float = ALPHA) -> Interval:
        """Return all means with p >= alpha."""
        half = self.error * float(scipy.special.stdtrit(self.streams - 1, 1 - alpha / 2))
        return self.mean - half, self.mean + half


def deciding_test(values: Floats) -> SignFlipTest | TTest:
    """Return the test for this number of differences."""
    return (SignFlipTest if values.size <= MOST_FOR_SIGN_FLIP else TTest).of(values)


def mean_of(values: Floats) -> float:
    """Return the mean; for equal values, exactly that value."""
    return float(values.mean()) if np.ptp(values) else float(values[0])


def deviation_of(values: Floats) -> float:
    """Return the standard deviation; for equal values, exactly 0."""
    return float(values.std(ddof=1)) if np.ptp(values) else 0.0


def rank_of_limit(alpha: float, pairs: int) -> int:
    """Return which smallest mean is the lower limit of the sign-flip interval; 0 if there is none."""
    return ceil(alpha * pairs) - 1


def subset_means(values: Floats) -> Floats:
    """Return the means of every subset of streams and of the other streams.

    Args:
        values: Differences, shape (..., K), at least one stream.

    Returns:
        Shape (2, ..., 2**(K - 1) - 1): subsets without the last stream, and their complements.
    """
    return np.stack([values @ weights for weights in _weights(values.shape[-1])])


@lru_cache(maxsize=4)
def _weights(streams: int) -> tuple[Floats, Floats]:
    """Return the matrices of `subset_means`, each of shape (K, 2**(K - 1) - 1)."""
    inside = _bits(streams - 1)[1:].T
    inside = np.vstack([inside, np.zeros(inside.shape[1])])
    sizes = inside.sum(axis=0)
    return inside / sizes, (1 - inside) / (streams - sizes)


@lru_cache(maxsize=4)
def _bits(count: int) -> Floats:
    """Return every combination of zeros and ones, shape (2**count, count); the first has only zeros."""
    bits: Floats = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float64)
    return bits


def max_t(differences: Floats, ps: Floats) -> Floats:
    """Return p-values adjusted by the step-down max-T method (Westfall and Young 1993).

    T of a contrast is the sum of its differences over the root of the sum of their squares, and signs
    are flipped for all contrasts of a stream jointly (Nichols and Holmes 2002). Up to
    `MOST_FOR_SIGN_FLIP` streams all flips are enumerated. Above that, 20,000 random flips are
    drawn, which depend only on the number of streams, and the observed one is added to them.

    The contrast with the largest T is compared with the maximum over all contrasts, the next one with
    the maximum over the others, and the last one keeps its own p. An adjusted p is never
    smaller than the own p, nor than that of a contrast with a larger T.

    Args:
        differences: Difference of each contrast and stream, shape (contrasts, K); 0 where a contrast
            lacks a stream.
        ps: Unadjusted p-values, shape (contrasts,).
    """
    sizes = np.sqrt((differences**2).sum(axis=1))
    sums = np.abs(np.stack([_flipped_sums(row) for row in differences]))
    flipped = np.divide(sums, sizes[:, None], out=np.zeros_like(sums), where=sizes[:, None] > 0)
    order = np.argsort(-flipped[:, 0], kind="stable")  # the first flip changes nothing
    adjusted, reached = np.empty_like(ps), 0.0
    for step, place in enumerate(order):
        rest = flipped[order[step:]]
        share = (rest.max(axis=0) >= flipped[place, 0] - 1e-9).mean() if len(rest) > 1 else 0.0
        reached = adjusted[place] = max(reached, float(share), ps[place])
    return adjusted


def _flipped_sums(values: Floats) -> Floats:
    """Return the sums of the values under all flips or random ones; the first flip changes nothing.

    A flip and its reverse give the same absolute sum, so the last sign is never flipped if all are
    enumerated. Otherwise the 256 possible sums of eight values are computed once and looked up.
    """
    if values.size <= MOST_FOR_SIGN_FLIP:
        sums: Floats = values.sum() - 2 * _bits(values.size - 1) @ values[:-1]
        return sums
    eights = np.pad(values, (0, -values.size % 8)).reshape(-1, 8)
    groups = eights @ (1 - 2 * _bits(8)).T
    drawn: Floats = groups[np.arange(len(groups)), _flips(values.size)].sum(axis=1)
    return np.concatenate([[values.sum()], drawn])


@lru_cache(maxsize=4)
def _flips(count: int) -> NDArray[np.uint8]:
    """Return random signs as bits, shape (DRAWS, ceil(count / 8))."""
    words = -(-count // 64)
    bits = keyed_bits(DRAWS * words, "sign-flip", count).reshape(DRAWS, words)
    return bits.astype("<u8").view(np.uint8)[:, : -(-count // 8)]
