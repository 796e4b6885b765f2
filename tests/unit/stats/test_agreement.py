"""Outcomes on the same items, and noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from phiforge.core.errors import DataError
from phiforge.stats.agreement import mcnemar, mcnemar_items, pooled, pooled_items, sign_flip_counts
from phiforge.stats.noise import pooled_sd, same_config_sd, sd
from phiforge.stats.paired import sign_flip


@pytest.mark.parametrize(("n01", "n10"), [(0, 0), (0, 1), (0, 6), (3, 3), (1, 9), (10, 4), (400, 460)])
def test_mcnemar_is_the_binomial_test(n01: int, n10: int) -> None:
    expected = stats.binomtest(n01, n01 + n10, 0.5).pvalue if n01 + n10 else 1.0
    assert mcnemar(n01, n10).p == pytest.approx(expected)
    assert mcnemar(n01, n10).p == mcnemar(n10, n01).p


def test_mcnemar_by_hand_from_items() -> None:
    found = mcnemar_items([1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1])
    assert (found.n01, found.n10, found.p) == (1, 3, 0.625)  # 2 (1 + 4) / 16
    assert mcnemar_items([True, False], [True, False]).p == 1.0


def test_pooling_counts_an_item_once() -> None:
    """Three seeds with the same outcomes hold no more evidence than one."""
    baseline, arm = [0] * 5 + [1], [1] * 5 + [0]
    one, three = pooled_items([baseline], [arm]), pooled_items([baseline] * 3, [arm] * 3)
    assert one.p == pytest.approx(three.p) == pytest.approx(mcnemar_items(baseline, arm).p)
    assert (three.n01, three.n10) == (3, 15)
    assert pooled([(1, 5)] * 3).p < three.p
    assert pooled([]).p == 1.0


def test_whole_numbers_by_enumeration() -> None:
    values = [3, 1, -2, 0, 2, 1, 1]
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = sum(total >= abs(sum(values)) for total in sums) / len(sums)
    assert sign_flip_counts(np.array(values)) == pytest.approx(expected) == pytest.approx(sign_flip(values))
    assert sign_flip_counts(np.array([1, -1])) == 1.0 and sign_flip_counts(np.zeros(3, dtype=int)) == 1.0
    many = np.random.default_rng(0).integers(-2, 3, 3_000)
    z = many.sum() / math.sqrt((many**2).sum())
    assert sign_flip_counts(many) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.02)


def test_bad_outcomes_are_named() -> None:
    with pytest.raises(DataError, match="don't match"):
        mcnemar_items([1, 0], [1])
    with pytest.raises(DataError, match="0 and 1"):
        mcnemar_items([1, 2], [1, 0])
    with pytest.raises(DataError, match="dimension"):
        pooled_items([1, 0], [1, 0])
    with pytest.raises(DataError, match="negative"):
        mcnemar(-1, 2)
    with pytest.raises(DataError, match="whole numbers"):
        sign_flip_counts([0.5])


def test_noise_by_hand() -> None:
    assert sd([1.0, 3.0]) == pytest.approx(math.sqrt(2)) and sd([1.0]) is None
    assert pooled_sd([[1.0, 3.0], [10.0, 10.0, 10.0], [5.0]]) == pytest.approx(math.sqrt(2 / 3))
    assert pooled_sd([[1.0]]) is None
    assert same_config_sd([[1.0, 3.0], [5.0, 5.0]]) == pytest.approx(1.0)  # rms of (2, 0) is sqrt 2
    assert same_config_sd([]) is None
    generator = np.random.default_rng(0)
    pairs = generator.normal(0, 0.3, (2_000, 2)) + generator.normal(0, 5, (2_000, 1))  # what a seed adds cancels inside a pair
    assert same_config_sd(pairs) == pytest.approx(0.3, rel=0.06)
