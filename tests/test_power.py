"""Tests of statistical power."""

import numpy as np
import pytest

from icl_loop.analysis.contrasts import ALPHA, POWER, Contrast, least_detectable
from icl_loop.analysis.power import (
    detectable,
    deviation_of_difference,
    is_significant,
    power,
    power_by_formula,
    power_by_simulation,
)

RANDOM = np.random.default_rng(5)
EACH_TEST = pytest.mark.parametrize("streams", [6, 8, 12, 13, 24])
DETECTING = pytest.mark.parametrize("streams", [6, 8, 10, 13, 24])
"""Leaves out 12 streams, which take twenty times as long."""


def test_published_values() -> None:
    """The formula reproduces Cohen's tables: d = 0.5 with 34 pairs has 81 % power."""
    assert power_by_formula(0.5, 1.0, 34) == pytest.approx(0.8078, abs=5e-4)
    assert power_by_formula(0.0, 1.0, 20) == pytest.approx(ALPHA)


@pytest.mark.parametrize("streams", [5, 7, 12, 13, 20])
def test_significance_matches_contrast(streams: int) -> None:
    """A simulated study is significant exactly if its `Contrast` is."""
    studies = np.vstack([RANDOM.normal(0.6, 1, (100, streams)), np.zeros((1, streams))])
    alone = [
        Contrast.of(("a", "b"), dict(enumerate(study)), dict.fromkeys(range(streams), 0.0))
        for study in studies
    ]
    assert is_significant(studies).tolist() == [contrast.significant for contrast in alone]


def test_fewer_than_six_streams() -> None:
    """With fewer than six streams no difference is significant."""
    assert not is_significant(np.ones((1, 5))).any()
    assert power(1.0, 0.001, 5) == 0
    assert detectable(0.1, 5) is None
    assert is_significant(np.ones((1, 6))).all()


@EACH_TEST
def test_false_positive_rate(streams: int) -> None:
    """Without a true difference at most 5 % of studies are significant."""
    assert is_significant(RANDOM.normal(0, 1, (4_000, streams))).mean() <= ALPHA + 0.012


@DETECTING
def test_detectable(streams: int) -> None:
    """The detectable difference has 80 % power; smaller ones have less."""
    least = detectable(0.2, streams)
    assert least is not None
    assert power(least, 0.2, streams) >= POWER > power(0.9 * least, 0.2, streams)
    assert power(2 * least, 0.2, streams) > 0.97


@pytest.mark.parametrize("effect", [0.0, 0.4, 0.8])
def test_formula_matches_simulation(effect: float) -> None:
    """Where the t test decides, simulation and formula agree within 2.5 points."""
    simulated, formula = (by(effect, 1.0, 16) for by in (power_by_simulation, power_by_formula))
    assert simulated == pytest.approx(formula, abs=0.025)


def test_sign_flip_is_less_powerful() -> None:
    """With eight streams the sign-flip test needs a larger difference than the t test."""
    flipped, student = detectable(0.1, 8), detectable(0.1, 8, power_by_formula)
    assert flipped is not None
    assert student is not None
    assert student <= flipped < 1.2 * student


def test_detectable_matches_analysis() -> None:
    """Planning and analysis give the same detectable difference for the same deviation."""
    values = RANDOM.normal(0.1, 0.05, 15)
    planned = detectable(float(values.std(ddof=1)), 15, power_by_formula)
    assert planned == pytest.approx(least_detectable(values), rel=1e-3)


def test_deviation_of_difference() -> None:
    """The deviation combines spread between sessions and binomial noise, which falls with turns."""
    assert deviation_of_difference(0.5, 0.5, 100) == pytest.approx(np.sqrt(0.005))
    assert deviation_of_difference(0.5, 0.5, 10**9, spread=0.1) == pytest.approx(np.sqrt(0.02))
    own = RANDOM.normal(0.4, 0.1, (100_000, 2)).clip(0, 1)
    late = RANDOM.binomial(50, own) / 50
    simulated = (late[:, 0] - late[:, 1]).std()
    assert deviation_of_difference(0.4, 0.4, 50, spread=0.1) == pytest.approx(simulated, rel=0.02)


def test_zero_deviation() -> None:
    """With zero deviation, any nonzero difference is detected."""
    assert power_by_formula(0.1, 0.0, 20) == 1
    assert power_by_formula(0.0, 0.0, 20) == 0
    assert is_significant(np.full((1, 20), 0.1)).all()
    assert not is_significant(np.zeros((1, 20))).any()
