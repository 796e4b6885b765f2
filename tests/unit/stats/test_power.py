"""Predicted power against the test itself."""

from __future__ import annotations

import numpy as np
import pytest

from phiforge.stats.paired import sign_flip, sign_flip_rows
from phiforge.stats.power import minimum_detectable_effect, power, seeds_needed


@pytest.mark.parametrize(("n", "m", "effect"), [(6, 1, 1.8), (8, 1, 0.7), (8, 3, 1.5), (10, 1, 1.0), (10, 10, 1.4), (12, 4, 1.2)])
def test_small_samples_by_the_exact_test(n: int, m: int, effect: float) -> None:
    values = np.random.default_rng(n * m).normal(effect, 1, (3_000, n))
    assert power(effect, n, m=m) == pytest.approx(np.mean(sign_flip_rows(values) <= 0.05 / m), abs=0.035)
    assert power(-effect, n, m=m) == power(effect, n, m=m)


@pytest.mark.parametrize(("n", "m"), [(13, 1), (13, 10), (18, 4)])
def test_larger_samples_by_the_t_distribution(n: int, m: int) -> None:
    effect = minimum_detectable_effect(n, m=m)
    assert effect is not None
    values = np.random.default_rng(n * m).normal(effect, 1, (600, n))
    assert np.mean([sign_flip(row) <= 0.05 / m for row in values]) == pytest.approx(0.8, abs=0.05)


def test_size_and_limits() -> None:
    for n, m in ((6, 1), (9, 4), (12, 1), (40, 1)):
        assert power(0, n, m=m) <= 0.05 / m + 0.012
        assert power(50, n, m=m) == pytest.approx(1.0)
    assert power(5, 5) == 0.0 and power(5, 7, m=4) == 0.0
    assert minimum_detectable_effect(5) is None


def test_the_way_there_and_back() -> None:
    for n, m in ((7, 1), (12, 4), (30, 2)):
        effect = minimum_detectable_effect(n, m=m)
        assert effect is not None and power(effect, n, m=m) == pytest.approx(0.8, abs=0.005)
        needed = seeds_needed(effect * 1.02, m=m)
        assert needed is not None and abs(needed - n) <= 1
    assert seeds_needed(0.5) == pytest.approx(34, abs=1)  # the textbook figure of the paired t test: 34
    assert seeds_needed(0.0) is None and seeds_needed(0.05) is None
    assert seeds_needed(50, m=12) == 9
    assert seeds_needed(1e6) == 6


def test_more_pairs_and_larger_effects_never_hurt_much() -> None:
    grid = np.array([[power(effect, n) for effect in (0.3, 0.6, 1.0, 1.5)] for n in range(6, 20)])
    assert (np.diff(grid, axis=1) > 0).all()
    assert (np.diff(grid, axis=0) > -0.03).all()  # simulation error, and the seam between the two ways
