"""Paired tests against enumeration by hand, scipy, and the edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from phiforge.core.errors import DataError
from phiforge.stats import paired
from phiforge.stats.paired import bootstrap_interval, effect_size, paired_t, sign_flip, sign_flip_rows, spread, wilcoxon


def by_hand(values: list[int]) -> float:
    """Every sign pattern, in whole numbers: no rounding anywhere."""
    observed = abs(sum(values))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(total >= observed for total in sums) / len(sums)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 0.25),  # 2 of 8
        ([5], 1.0),
        ([1, -1], 1.0),
        ([1, 1], 0.5),
        ([3, -1], 1.0),  # sums 4, 2, -2, -4: all reach 2
        ([1, 1, 1, 1, 1, 1], 2 / 64),
        ([0, 0, 0], 1.0),
        ([], 1.0),
        ([0, 1, 0, 2, 3], 0.25),  # zeros change nothing
        ([4, 3, -1], 0.5),  # 8, 6, 2, 0 and mirrored: two of four reach 6
    ],
)
def test_values_by_hand(differences: list[int], p: float) -> None:
    assert sign_flip(differences) == p


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.sampled_from([1.0, 0.1, 1e-6, 1e-300, 1e300, 1 / 3]))
@settings(max_examples=150, deadline=None)
def test_equal_to_enumeration_with_ties_at_any_scale(values: list[int], scale: float) -> None:
    """0.1 * 3 is not 0.3 in binary; the count must not depend on it."""
    assert sign_flip([value * scale for value in values]) == by_hand(values)
    assert sign_flip([-value * scale for value in values]) == by_hand(values)


def test_differences_of_rounded_metrics_tie() -> None:
    baseline = np.array([2.3101, 4.1102, 0.5104, 8.3108, 1.2101, 3.9103])
    arm = np.round(baseline + np.array([3, 3, -3, 3, 3, 3]) * 1e-4, 4)
    assert len(set(np.abs(arm - baseline).tolist())) > 2  # six differences of 0.0003 that differ in their last bits
    assert sign_flip(arm - baseline) == by_hand([3, 3, -3, 3, 3, 3])


@pytest.mark.parametrize("n", [2, 5, 10, 14, 15, 16, 19])
def test_the_fast_count_is_the_plain_one(n: int) -> None:
    generator = np.random.default_rng(n)
    for values in (generator.normal(0.5, 1, n), generator.integers(-3, 4, n) + 0.0, generator.standard_cauchy(n)):
        sums = np.abs(paired.signed_sums(values))
        expected = np.mean(sums >= abs(values.sum()) - 1e-9 * np.abs(values).sum())
        assert sign_flip(values) == expected


def test_scipy_agrees() -> None:
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.4, 1, 9)
        expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip(values) == pytest.approx(expected.pvalue, abs=1e-12)
        t = stats.ttest_1samp(values, 0)
        interval = t.confidence_interval(0.95)
        ours = paired_t(values)
        assert (ours.p, ours.low, ours.high) == pytest.approx((t.pvalue, interval.low, interval.high))
        assert wilcoxon(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


def test_wilcoxon_with_ties_and_zeros_is_exact() -> None:
    # |d| = 1 1 2 2 3 -> ranks 1.5 1.5 3.5 3.5 5; signed sum 12 of 15: patterns 15, 12, 12 and mirrored
    assert wilcoxon([0.1, -0.1, 0.2, 0.2, 0.3, 0.0]) == by_hand([3, -3, 7, 7, 10])
    assert wilcoxon([0, 0]) == 1.0
    # 0.3 - 0.1 and 0.2 are one rank
    assert paired.middle_ranks(np.array([0.3 - 0.1, 0.2, 0.5])).tolist() == [1.5, 1.5, 3.0]


def test_forty_pairs_are_still_exact_and_a_hundred_are_drawn() -> None:
    generator = np.random.default_rng(3)
    forty = generator.normal(0.3, 1, 40)
    whole = np.round(forty * 1000).astype(int)
    from phiforge.stats.agreement import sign_flip_counts  # an independent way: convolution of whole numbers

    assert sign_flip(whole) == pytest.approx(sign_flip_counts(whole), rel=1e-9)
    hundred = np.round(generator.normal(0.15, 1, 100) * 100).astype(int)
    exact = sign_flip_counts(hundred)
    drawn = sign_flip(hundred)
    assert drawn == pytest.approx(exact, abs=5 * math.sqrt(exact / paired.DRAWS))
    assert drawn == sign_flip(hundred)  # seeded
    assert sign_flip(np.ones(100)) == 1 / (paired.DRAWS + 1)  # never 0


def test_rows_are_the_single_test() -> None:
    table = np.random.default_rng(0).normal(0.5, 1, (40, 8))
    table[3] = 0
    table[4] = [1, -1] * 4
    assert sign_flip_rows(table).tolist() == [sign_flip(row) for row in table]
    with pytest.raises(ValueError, match="shape"):
        sign_flip_rows(np.zeros((2, 15)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(DataError, match=r"pair 2 of 3 is -?(nan|inf).*leave that pair out"):
        sign_flip([1.0, bad, 2.0])


@pytest.mark.parametrize("bad", [["a"], [[1.0, 2.0]], [None, 1.0]])
def test_what_is_no_list_of_numbers_is_named(bad: object) -> None:
    with pytest.raises(DataError):
        sign_flip(bad)  # type: ignore[arg-type]


def test_edges_of_the_t_interval() -> None:
    assert paired_t([2.0]) == paired.Interval(2.0, None, None, None)
    assert paired_t([0.0, 0.0]) == paired.Interval(0.0, 0.0, 0.0, 1.0)
    equal = paired_t([0.1] * 7)  # their standard deviation in binary is 1e-17, not 0
    assert (equal.low, equal.high, equal.p) == (equal.mean, equal.mean, 0.0)
    two = paired_t([1.0, 3.0])  # mean 2, se 1, t(1) = 12.706
    assert (two.low, two.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    with pytest.raises(DataError, match="no pairs"):
        paired_t([])


def test_bootstrap_is_seeded_and_agrees_with_scipy() -> None:
    values = np.random.default_rng(5).exponential(1, 20)
    ours = bootstrap_interval(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([0.1] * 5) == pytest.approx((0.1, 0.1))
    low, high = bootstrap_interval([1.0, 2.0]) or (0, 0)
    assert 1 <= low <= high <= 2


def test_effect_size_by_hand() -> None:
    # mean 2, sd 1: dz = 2; J(2) = gamma(1) / (1 * gamma(0.5)) = 1 / sqrt(pi)
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(2 / math.sqrt(math.pi))
    assert effect_size([1.0]) is None
    assert effect_size([0.0, 0.0]) == 0.0
    assert effect_size([0.1, 0.1, 0.1]) is None  # infinite
    assert paired.hedges(30) == pytest.approx(1 - 3 / (4 * 30 - 1), abs=1e-4)


def test_spread_at_the_ends_of_the_floats() -> None:
    assert spread(np.array([1e300, -1e300])) == pytest.approx(math.sqrt(2) * 1e300)
    assert spread(np.array([1e-300, 3e-300])) == pytest.approx(math.sqrt(2) * 1e-300)
