"""The betting test: a fair game under the null, by enumeration and by simulation, and when it stops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from phiforge.core.errors import DataError
from phiforge.stats import sequential
from phiforge.stats.sequential import anytime, e_process, next_step, sequential_least_pairs


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1, 1, 1, 1], [0.1, 5, 0.2, 3, 0, 1, 100, 1], [1e-9, 1e9, 1, 2, 3, 0, 0, 4]])
def test_the_game_is_fair(sizes: list[float]) -> None:
    """Over all sign patterns the mean e-value after every pair is exactly 1: no bet looked at the sign it bet on."""
    patterns = np.array(list(itertools.product((1, -1), repeat=len(sizes))))
    values = np.exp(e_process(patterns * np.array(sizes)))
    np.testing.assert_allclose(values.mean(axis=0), 1, rtol=1e-12)
    # Ville: the share of patterns that ever reach 1 / alpha is at most alpha
    for alpha in (0.5, 0.2, 0.05):
        assert np.mean(values.max(axis=1) >= 1 / alpha) <= alpha


def test_parts_add_up_and_stakes_are_affordable() -> None:
    assert sum(sequential.CONSTANT.values()) + sum(sequential.SCALED.values()) == pytest.approx(1)
    assert all(0 < share <= 1 for share in sequential.CONSTANT)


def test_an_e_value_by_hand() -> None:
    # one pair: |d| / rms = 1, so the players hold 1 +- b; both directions together always 1
    assert anytime([3.0]).path == pytest.approx((1.0,))
    stakes = [*sequential.CONSTANT, *(math.tanh(d * math.sqrt(1 + d * d)) for d in sequential.SCALED)]
    parts = [*sequential.CONSTANT.values(), *sequential.SCALED.values()]
    expected = sum(part * ((1 + b) ** 6 + (1 - b) ** 6) / 2 for b, part in zip(stakes, parts, strict=True))
    six = anytime([-2.0] * 6)
    assert six.e_value == pytest.approx(expected) and six.p == pytest.approx(1 / expected) and six.direction == -1
    assert six.p < 0.05


def test_scale_zeros_and_the_past_peak() -> None:
    values = np.random.default_rng(0).normal(0.8, 1, 12)
    assert anytime(values).e_value == pytest.approx(anytime(values * 1e-200).e_value) == pytest.approx(anytime(values * 1e200).e_value)
    assert anytime([0.0] * 5) == sequential.Sequential(1.0, 1.0, 0, (1.0,) * 5)
    assert anytime([]).p == 1.0
    up_then_down = anytime([1.0] * 7 + [-1.0] * 7)
    assert up_then_down.p == anytime([1.0] * 7).p and up_then_down.direction == 1
    assert anytime([1.0] * 3_000).e_value < math.inf
    with pytest.raises(DataError, match="pair 1"):
        anytime([math.nan])


def test_least_pairs_can_and_fewer_cannot() -> None:
    assert [sequential_least_pairs(m) for m in (1, 2, 3, 4, 5, 6, 10, 12)] == [6, 7, 8, 8, 8, 9, 9, 10]
    for m in (1, 2, 4, 10):
        n = sequential_least_pairs(m)
        growing = np.geomspace(1, 1e30, n)
        assert anytime(growing).p <= 0.05 / m
        assert anytime(growing[:-1]).p > 0.05 / m


def test_error_rate_with_a_look_after_every_pair() -> None:
    generator = np.random.default_rng(11)
    for values in (
        generator.normal(size=(4_000, 24)),
        generator.standard_cauchy((4_000, 24)),
        generator.integers(-1, 2, (4_000, 24)) + 0.0,
    ):
        assert np.mean(e_process(values).max(axis=1) >= math.log(20)) < 0.05


def test_going_on_and_stopping() -> None:
    clear = [-1.0] * 8
    mixed = [1.0, -1.0] * 4
    step = next_step({"a": clear, "b": mixed}, max_pairs=24)
    assert step.go_on and step.arms == {"a": "clear", "b": "open"} and "b" in step.reason and "a," not in step.reason
    assert not next_step({"a": clear}, max_pairs=24).go_on
    full = next_step({"a": clear, "b": mixed}, max_pairs=8)
    assert not full.go_on and full.arms["b"] == "full" and "max_seeds=8" in full.reason
    hopeless = next_step({"b": [1.0, -1.0] * 6}, max_pairs=13)
    assert not hopeless.go_on and hopeless.arms["b"] == "hopeless"
    turned = {"a": [-0.1] * 7 + [9.0, 8.0, 7.0]}  # clear downward once, and now its mean says upward
    assert next_step(turned, max_pairs=24).arms["a"] == "open"
    assert next_step({"a": []}, max_pairs=24).go_on
    assert next_step({"a": []}, max_pairs=5).arms["a"] == "hopeless"  # five pairs can't decide: known before the first
    assert not next_step({}, max_pairs=24).go_on
    with pytest.raises(DataError, match="max_seeds=0"):
        next_step({"a": []}, max_pairs=0)


def test_hopeless_is_never_wrong() -> None:
    """No continuation, however kind, makes a hopeless arm clear."""
    generator = np.random.default_rng(5)
    seen = 0
    for _ in range(300):
        values = generator.normal(0, 1, 8)
        if next_step({"a": values}, max_pairs=11).arms["a"] != "hopeless":
            continue
        seen += 1
        for sign in (1, -1):
            assert anytime([*values, *(sign * np.array([1e3, 1e6, 1e9]))]).p > 0.05
    assert seen > 20


def test_power_is_that_of_a_fresh_simulation() -> None:
    values = np.random.default_rng(1).normal(1.2, 1, (3_000, 16))
    observed = np.mean(e_process(values).max(axis=1) >= math.log(2 / 0.05))
    assert sequential.sequential_power(1.2, 16, m=2) == pytest.approx(observed, abs=0.04)
    detectable = sequential.sequential_minimum_detectable(16, m=2)
    assert detectable is not None and sequential.sequential_power(detectable, 16, m=2) == pytest.approx(0.8, abs=0.03)
    assert sequential.sequential_minimum_detectable(6, m=2) is None
    needed = sequential.sequential_seeds_needed(1.2, m=2)
    assert needed is not None and sequential.sequential_power(1.2, needed, m=2) == pytest.approx(0.8, abs=0.05)
    assert sequential.sequential_seeds_needed(0.0) is None
