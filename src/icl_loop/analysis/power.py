"""Statistical power of a design, computed before any turn is played."""

from functools import lru_cache

import numpy as np
import scipy  # loads its submodules on first use

from icl_loop.analysis.significance import (
    ALPHA,
    FEWEST_FOR_SIGNIFICANCE,
    MOST_FOR_SIGN_FLIP,
    Floats,
    rank_of_limit,
    subset_means,
)

POWER = 0.8
PATTERNS, STUDIES = 2_000, 8_000
"""Simulated patterns that give critical values of the sign-flip test; simulated studies of joint power."""
_MOST_MEANS, _MOST_JOINT, _PART = 2**22, 2**24, 2**19
"""Means of subsets computed for all patterns, for all studies (both limit these), and at once."""
_SEED = 20_230_315
_LARGEST, _STEPS = 16.0, 24


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


def power(effect: float, deviation: float, streams: int) -> float:
    """Return the probability that the deciding test detects a difference of `effect`.

    Both tests reject if Student's t exceeds a critical value. That of the t test is a constant; that
    of the sign-flip test depends on the pattern of the differences, which for normal differences is
    independent of t. Power is the mean of noncentral t probabilities (Cohen 1988) over patterns.

    Args:
        effect: The true difference.
        deviation: Standard deviation of the difference over streams.
        streams: Number of streams.
    """
    if streams < FEWEST_FOR_SIGNIFICANCE:
        return 0.0
    if deviation == 0:
        return float(effect != 0)
    critical, shift = _critical_values(streams), abs(effect) / deviation * np.sqrt(streams)
    # scipy returns NaN where a tail underflows.
    above, below = np.nan_to_num(scipy.special.nctdtr(streams - 1, shift, [critical, -critical]))
    return float(np.mean(1 - above + below))


def joint_power(effects: Floats, covariance: Floats, streams: int) -> float:
    """Return the probability that several contrasts are all significant and positive at once.

    It is the share of simulated studies with normal differences in which they are.

    Args:
        effects: True difference of each contrast, shape (contrasts,).
        covariance: Covariance of their differences in a stream, shape (contrasts, contrasts).
        streams: Number of streams.
    """
    if streams < FEWEST_FOR_SIGNIFICANCE:
        return 0.0
    variances, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(variances.clip(0.0))
    studies = _affordable(STUDIES, streams, _MOST_JOINT)
    differences = effects + _noise(studies, streams, len(effects)) @ root.T
    shown = [_lower_limits(each) > 0 for each in np.moveaxis(differences, -1, 0)]
    return float(np.all(shown, axis=0).mean())


@lru_cache(32)
def _critical_values(streams: int) -> Floats:
    """Return the values that t must exceed: of simulated patterns, or the one of the t test.

    The sign-flip test rejects where the interval of the residuals, moved to the mean, excludes 0.
    """
    if streams > MOST_FOR_SIGN_FLIP:
        return np.array([scipy.special.stdtrit(streams - 1, 1 - ALPHA / 2)])
    noise = _noise(_affordable(PATTERNS, streams, _MOST_MEANS), streams)
    distances = noise.mean(axis=1) - _lower_limits(noise)
    critical: Floats = distances / noise.std(axis=1, ddof=1) * np.sqrt(streams)
    return critical


def _affordable(studies: int, streams: int, most: int) -> int:
    """Return the number of studies for which at most about `most` means of subsets are computed."""
    return studies if streams > MOST_FOR_SIGN_FLIP else min(studies, most >> (streams - 1))


def _noise(*shape: int) -> Floats:
    """Return independent normal values; the same in every call."""
    return np.random.Generator(np.random.PCG64(_SEED)).standard_normal(shape)


def _lower_limits(studies: Floats) -> Floats:
    """Return the lower limit of the 95 % interval of each study, from shape (studies, K)."""
    streams = studies.shape[1]
    if streams > MOST_FOR_SIGN_FLIP:
        (critical,) = _critical_values(streams)
        limits: Floats = studies.mean(axis=1) - critical * studies.std(axis=1, ddof=1) / np.sqrt(
            streams
        )
        return limits
    pairs = 2 ** (streams - 1)
    rank, part = rank_of_limit(ALPHA, pairs), _PART // pairs
    return np.concatenate(
        [
            np.partition(subset_means(each).min(axis=0), rank - 1, axis=1)[:, rank - 1]
            for each in np.split(studies, range(part, len(studies), part))
        ]
    )


def detectable(deviation: float, streams: int) -> float | None:
    """Return the smallest difference detected with power `POWER`, or None if there is none."""
    return None if streams < FEWEST_FOR_SIGNIFICANCE else _detectable(streams) * deviation


@lru_cache(64)
def _detectable(streams: int) -> float:
    """Return the smallest detectable difference in standard deviations, by bisection."""
    low, high = 0.0, _LARGEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, 1.0, streams) >= POWER else (middle, high)
    return high
