"""Statistical power of a design, computed before any turn is played."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import NDArray

from icl_loop.analysis.contrasts import ALPHA, MOST_FOR_SIGN_FLIP, POWER, all_signs

FEWEST_FOR_SIGN_FLIP = 6
"""With fewer streams the sign-flip test is never significant: 2 / 2**5 exceeds 5 %."""
STUDIES = 4_000
_CHUNK = 500
_SEED = 20_230_315
_LARGEST, _STEPS = 16.0, 14


def deviation_of_difference(first: float, second: float, turns: int, spread: float = 0.0) -> float:
    """Return the standard deviation, over streams, of the difference between two accuracies.

    Args:
        first: Mean accuracy of one arm.
        second: Mean accuracy of the other arm.
        turns: Number of turns per accuracy.
        spread: Standard deviation between sessions of an arm; 0 leaves only binomial noise.
    """
    chance = sum(max(mean * (1 - mean) - spread**2, 0.0) for mean in (first, second))
    return float(np.sqrt(2 * spread**2 + chance / turns))


def is_significant(differences: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each study is significant by the test that `Contrast` uses.

    That is the exact sign-flip test (Fisher 1935) up to `MOST_FOR_SIGN_FLIP` streams, and Student's t
    test above.

    Args:
        differences: One difference per stream, shape (studies, streams), at least two streams.
    """
    test = _sign_flip_p if differences.shape[1] <= MOST_FOR_SIGN_FLIP else _t_test_p
    return test(differences) < ALPHA


def _sign_flip_p(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of sign patterns whose sum is at least as far from 0 as the observed one.

    A pattern and its negation are equally far, so half of the patterns suffice.
    """
    signs = all_signs(differences.shape[1])
    sums = np.abs(differences @ signs[: len(signs) // 2].T)
    observed = np.abs(differences.sum(axis=1, keepdims=True))
    shares: NDArray[np.float64] = (sums >= observed - 1e-9).mean(axis=1)
    return shares


def _t_test_p(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    streams = differences.shape[1]
    error = differences.std(axis=1, ddof=1) / np.sqrt(streams)
    mean = np.abs(differences.mean(axis=1))
    beyond = np.where(mean > 0, np.inf, 0.0)
    t = np.divide(mean, error, out=beyond, where=error > 0)
    tails: NDArray[np.float64] = 2 * scipy.special.stdtr(streams - 1, -t)
    return tails


def power(effect: float, deviation: float, streams: int) -> float:
    """Return the probability that the deciding test detects a difference of `effect`.

    Args:
        effect: The true difference.
        deviation: Standard deviation of the difference over streams.
        streams: Number of streams.
    """
    if streams < FEWEST_FOR_SIGN_FLIP:
        return 0.0
    by = power_by_simulation if streams <= MOST_FOR_SIGN_FLIP else power_by_formula
    return by(effect, deviation, streams)


def power_by_formula(effect: float, deviation: float, streams: int) -> float:
    """Return the power of the two-sided t test from the noncentral t distribution (Cohen 1988)."""
    if streams < 2:
        return 0.0
    if deviation == 0:
        return float(effect != 0)
    freedom, shift = streams - 1, abs(effect) / deviation * np.sqrt(streams)
    least = scipy.special.stdtrit(freedom, 1 - ALPHA / 2)
    # scipy returns NaN where a tail underflows.
    above, below = np.nan_to_num(scipy.special.nctdtr(freedom, shift, [least, -least]))
    return float(1 - above + below)


def power_by_simulation(effect: float, deviation: float, streams: int) -> float:
    """Return the share of `STUDIES` simulated studies in which the deciding test detects `effect`.

    Differences are normally distributed; every call uses the same draws.
    """
    found = [
        is_significant(effect + deviation * noise).mean()
        for noise in np.split(_noise(streams), STUDIES // _CHUNK)
    ]
    return float(np.mean(found))


@lru_cache(8)
def _noise(streams: int) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(_SEED)).standard_normal((STUDIES, streams))


def detectable(
    deviation: float, streams: int, by: Callable[[float, float, int], float] = power
) -> float | None:
    """Return the smallest difference detected with power `POWER`, or None if there is none."""
    standardised = _detectable(streams, by)
    return None if standardised is None else standardised * deviation


@lru_cache(64)
def _detectable(streams: int, by: Callable[[float, float, int], float]) -> float | None:
    """Return the smallest detectable difference in standard deviations, by bisection."""
    low, high = 0.0, _LARGEST
    if by(high, 1.0, streams) < POWER:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if by(middle, 1.0, streams) >= POWER else (middle, high)
    return high
