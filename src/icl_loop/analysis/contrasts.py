"""Contrasts of two arms over the streams they share: effect, interval, tests, and what was seen.

The unit is the stream: one difference D each, of the two sessions' accuracies in the second half
of the turns planned. Nothing here looks at single turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its parts are loaded where they are first used
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.records import keyed_bits

ALPHA = 0.05
POWER = 0.8
MARGIN = 0.05
"""Accuracies that differ by less than this count as equal."""
FEWEST_STREAMS = 5
"""With fewer there is no test."""
MOST_FOR_SIGN_FLIP = 12
"""Up to so many streams the sign-flip test has the word, the t test with more."""
MOST_ENUMERATED = 16
"""Up to so many streams all flips are counted; with more, `DRAWS` random ones."""
DRAWS = 20_000
RATES = (2, 5, 10, 20, 50, 100)
"""How bold the bets of the e-process are."""
STOP_AT = 20.0
"""An e-value at which one may stop: 1 / 0.05."""

_DECIMALS = 12
"""Differences are rounded to so many, that equal ones are equal whatever they were made of."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contrast:
    """By how much the late accuracy of one arm is above another's.

    Attributes:
        arms: The arm that is looked at, and the one it is compared with.
        streams: The streams that both played to their end, rising.
        differences: D of each stream: late accuracy of the first arm less that of the second.
        margin: Differences below this count as none.
        theta: Mean of the differences, None without any.
        interval: 95 % t interval with K - 1 degrees of freedom, None with fewer than two streams.
        p_t: Two-sided p of the t test.
        p_sign_flip: Two-sided p of the sign-flip test.
        mde: The effect that would be found significant with a probability of 80 %, None if the
            differences are all the same.
        equivalent: Whether the effect is shown to lie within the margin.

    With fewer than `FEWEST_STREAMS` streams there is no test: the last four are None. If the
    differences are all the same, the interval has no width; p of the t test is 1 if they are 0, and
    None if not, since t has then no distribution.
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
        """Return the contrast of late accuracies by stream, over the streams that both have."""
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
        """How many streams there are."""
        return len(self.streams)

    @property
    def p(self) -> float | None:
        """The p that counts: of the sign-flip test with few streams, of the t test with many."""
        exact = self.k <= MOST_FOR_SIGN_FLIP or self.p_t is None
        return self.p_sign_flip if exact else self.p_t

    @property
    def test(self) -> str:
        """The name of the test whose p counts."""
        return "t" if self.p is not None and self.p is self.p_t else "sign-flip"

    @property
    def e_value(self) -> float:
        """The most that the e-process reached over the streams, 1 before the first one."""
        return max(e_process(self.differences).tolist(), default=1.0)

    def shown(self, *, stopped_early: bool) -> bool:
        """Whether the first arm is shown to be above: by the e-process if one looked, else by p.

        Where a run stopped because of what it saw, p is of a number of streams that was not fixed.
        """
        return self.e_value >= STOP_AT if stopped_early else self.above

    @property
    def significant(self) -> bool:
        """Whether the p that counts is below 0.05."""
        return self.p is not None and self.p < ALPHA

    @property
    def above(self) -> bool:
        """Whether the first arm is above the second by more than chance explains."""
        return self.significant and self.theta is not None and self.theta > 0


def _mean(values: Floats) -> float:
    """Return the mean; that of equal values is exactly their value."""
    return float(values.mean()) if np.ptp(values) else float(values[0])


def _error(values: Floats) -> float:
    """Return the standard error of the mean, exactly 0 for equal values."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if np.ptp(values) else 0.0


def t_interval(values: Floats, level: float = 1 - ALPHA) -> tuple[float, float]:
    """Return the t interval of the mean of at least two values (Student 1908)."""
    half = float(scipy.special.stdtrit(values.size - 1, (1 + level) / 2)) * _error(values)
    mean = _mean(values)
    return mean - half, mean + half


def t_test(values: Floats) -> float | None:
    """Return the two-sided p of the mean being 0; None if the values are equal, but not 0."""
    error = _error(values)
    if not error:
        return None if values[0] else 1.0
    return float(2 * scipy.special.stdtr(values.size - 1, -abs(_mean(values)) / error))


def sign_flip(values: Floats) -> float:
    """Return the two-sided p of the mean of values whose signs are as likely as not (Fisher 1935).

    All flips are counted for up to 16 values; for more, 20,000 random ones that are a function of
    the number of values, among which the flip that was observed counts as one.
    """
    exact = values.size <= MOST_ENUMERATED
    sums = _all_signs(values.size) @ values if exact else _random_sums(values)
    least = abs(float(values.sum())) - 10.0**-_DECIMALS * values.size
    reached = int((np.abs(sums) >= least).sum())
    return reached / sums.size if exact else (1 + reached) / (1 + DRAWS)


@lru_cache(maxsize=4)
def _all_signs(count: int) -> Floats:
    """Return every choice of signs, shape (2**count, count)."""
    chosen = np.arange(2**count)[:, None] >> np.arange(count) & 1
    signs: Floats = 1.0 - 2.0 * chosen.astype(np.float64)
    return signs


def _random_sums(values: Floats) -> Floats:
    """Return the sums of values under as many random choices of signs as there are draws.

    Eight values have 256 sums, which are worked out once and looked up.
    """
    eights = np.pad(values, (0, -values.size % 8)).reshape(-1, 8)
    looked_up: Floats = (eights @ _all_signs(8).T)[np.arange(len(eights)), _flips(values.size)]
    sums: Floats = looked_up.sum(axis=1)
    return sums


@lru_cache(maxsize=4)
def _flips(count: int) -> NDArray[np.uint8]:
    """Return random choices of signs, one a bit, shape (DRAWS, eights of `count`)."""
    words = -(-count // 64)
    bits = keyed_bits(DRAWS * words, "sign-flip", count).reshape(DRAWS, words)
    return bits.astype("<u8").view(np.uint8)[:, : -(-count // 8)]


def least_detectable(values: Floats) -> float | None:
    """Return the effect that a two-sided t test at 0.05 finds with a probability of 80 %.

    It is delta * s / sqrt(K), where the noncentral t with K - 1 degrees of freedom and
    noncentrality delta is above t(0.975, K - 1) with that probability (Johnson and Welch 1940);
    the other tail, of less than 1e-6, is left out. It takes s as it was observed, and stands for
    the sign-flip test too. Values without variance say nothing of it: None.
    """
    freedom = values.size - 1
    delta = scipy.special.nctdtrinc(
        freedom, 1 - POWER, scipy.special.stdtrit(freedom, 1 - ALPHA / 2)
    )
    return float(delta) * _error(values) or None


def is_equivalent(values: Floats, margin: float) -> bool:
    """Whether two one-sided t tests at 0.05 place the mean within the margin (Schuirmann 1987)."""
    low, high = t_interval(values, 1 - 2 * ALPHA)
    return -margin < low and high < margin


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number by Holm's step-down method (Holm 1979).

    What was not tested is None, stays so and is not counted.
    """
    tested = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    reached = 0.0
    for rank, (p, place) in enumerate(tested):
        reached = max(reached, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = reached
    return adjusted


def e_process(differences: ArrayLike) -> Floats:
    """Return the evidence after each stream that the first arm is above the second.

    E_n is the mean over lambda in `RATES` of the product of 2 / (1 + exp(-2 lambda D_s)) over the
    first n streams. If the sign of each difference is as likely as not, its expectation stays 1,
    so that it reaches 20 with a probability of at most 0.05 however often one looks (Ville 1939).
    It is about streams: to stop on turns would void it.

    Args:
        differences: D of each stream, in the order of the streams, shape (n,).

    Returns:
        E_1 to E_n, shape (n,).
    """
    values = np.asarray(differences, dtype=np.float64)
    bets = 2 * scipy.special.expit(2 * np.array(RATES, dtype=np.float64)[:, None] * values)
    evidence: Floats = np.cumprod(bets, axis=1).mean(axis=0)
    return evidence
