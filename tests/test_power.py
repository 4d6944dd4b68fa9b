"""Tests of statistical power."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.power import (
    POWER,
    detectable,
    deviation_of_difference,
    joint_power,
    power,
)
from icl_loop.analysis.significance import ALPHA, least_p

STREAMS = pytest.mark.parametrize("streams", [6, 7, 8, 12, 16, 17, 24])


def contrast(values: Sequence[float]) -> Contrast:
    """Return the contrast with these differences."""
    streams = len(values)
    return Contrast.of(("a", "b"), dict(enumerate(values)), dict.fromkeys(range(streams), 0.0))


def test_published_values() -> None:
    """The t test reproduces Cohen's tables: d = 0.5 with 34 pairs has 81 % power."""
    assert power(0.5, 1.0, 34) == pytest.approx(0.8078, abs=5e-4)
    assert power(0.0, 1.0, 20) == pytest.approx(ALPHA)


@pytest.mark.parametrize("streams", [17, 40])
def test_detectable_of_the_t_test(streams: int) -> None:
    """The noncentral t test detects the detectable difference with 80 % power."""
    shift = detectable(1.0, streams)
    assert shift is not None
    critical, freedom = stats.t.ppf(0.975, streams - 1), streams - 1
    assert stats.nct.sf(critical, freedom, shift * streams**0.5) == pytest.approx(0.8, abs=1e-5)


def test_fewer_than_six_streams() -> None:
    """With fewer than six streams no difference is significant; with six some are."""
    assert power(1.0, 0.001, 5) == 0
    assert detectable(0.1, 5) is None
    assert power(1.0, 0.001, 6) == pytest.approx(1)
    assert least_p(5) > ALPHA > least_p(6)


@STREAMS
def test_power_without_effect(streams: int) -> None:
    """Without a true difference, power is the share of false positives: at most 5 %."""
    assert 0.02 < power(0.0, 1.0, streams) <= ALPHA + 0.002


@STREAMS
def test_detectable(streams: int) -> None:
    """The detectable difference has 80 % power; smaller ones have less."""
    least = detectable(0.2, streams)
    assert least is not None
    assert power(least, 0.2, streams) >= POWER > power(0.98 * least, 0.2, streams)
    assert power(2 * least, 0.2, streams) > 0.97


@pytest.mark.parametrize("streams", [6, 7, 8, 12])
def test_power_of_contrasts(streams: int) -> None:
    """Contrasts of simulated studies are significant as often as planned: 80 % at the detectable effect."""
    least = detectable(1.0, streams)
    assert least is not None
    studies = np.random.default_rng(streams).normal(least, 1, (1_500, streams))
    found = np.mean([contrast(each).significant for each in studies.tolist()])
    assert found == pytest.approx(POWER, abs=0.03)


def test_sign_flip_is_less_powerful() -> None:
    """With few streams the sign-flip test needs a larger difference than the t test would."""
    for streams in (6, 8, 16):
        found, freedom = detectable(1.0, streams), streams - 1
        assert found is not None
        student = stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, found * streams**0.5)
        assert POWER < student < 1


@STREAMS
def test_detectable_matches_analysis(streams: int) -> None:
    """Planning and analysis give the same detectable difference for the same deviation."""
    values = np.random.default_rng(streams).normal(0.1, 0.05, streams)
    found = contrast(values.tolist())
    assert found.mde == pytest.approx(detectable(float(values.std(ddof=1)), streams))


@pytest.mark.parametrize("streams", [6, 8, 11, 20])
def test_joint_power(streams: int) -> None:
    """Joint power is that of one contrast if all are equal, the product if they are independent."""
    least = detectable(1.0, streams)
    assert least is not None
    alone = joint_power(np.array([least]), np.eye(1), streams)
    equal = joint_power(np.full(3, least), np.ones((3, 3)), streams)
    apart = joint_power(np.full(3, least), np.eye(3), streams)
    assert alone == pytest.approx(POWER, abs=0.04)
    assert equal == pytest.approx(alone, abs=0.04)
    assert apart == pytest.approx(POWER**3, abs=0.05)


def test_joint_power_of_contrasts() -> None:
    """Contrasts with a common arm are all significant as often in simulated studies as planned."""
    covariance, effects = 0.5 + 0.5 * np.eye(2), np.array([1.0, 1.3])
    studies = np.random.default_rng(2).multivariate_normal(effects, covariance, (1_000, 8))
    found = [all(contrast(each).above for each in study.T.tolist()) for study in studies]
    assert joint_power(effects, covariance, 8) == pytest.approx(np.mean(found), abs=0.045)


def test_joint_power_at_the_limits() -> None:
    """Joint power is 0 with five streams or if one difference is negative, and 1 without noise."""
    assert joint_power(np.ones(2), np.eye(2) * 1e-6, 5) == 0
    assert joint_power(np.array([1.0, -1.0]), np.eye(2), 8) < 0.03
    assert joint_power(np.ones(2), np.zeros((2, 2)), 6) == 1


def test_deviation_of_difference() -> None:
    """The deviation combines spread between sessions and binomial noise, which falls with turns."""
    assert deviation_of_difference(0.5, 0.5, 100) == pytest.approx(np.sqrt(0.005))
    assert deviation_of_difference(0.5, 0.5, 10**9, spread=0.1) == pytest.approx(np.sqrt(0.02))
    random = np.random.default_rng(5)
    own = random.normal(0.4, 0.1, (100_000, 2)).clip(0, 1)
    late = random.binomial(50, own) / 50
    simulated = (late[:, 0] - late[:, 1]).std()
    assert deviation_of_difference(0.4, 0.4, 50, spread=0.1) == pytest.approx(simulated, rel=0.02)


@STREAMS
def test_zero_deviation(streams: int) -> None:
    """With zero deviation, any nonzero difference is detected."""
    assert power(0.1, 0.0, streams) == 1
    assert power(0.0, 0.0, streams) == 0
