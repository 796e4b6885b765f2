"""Weights by difficulty, and weighted draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.core.errors import ConfigError, DataError
from phiforge.golden.sampling import (
    WeightedDraw,
    difficulty_ranks,
    fibonacci_weights,
    focused_stretches,
    golden_weights,
    sampling_weights,
    weighted_permutation,
)

G = (1 + 5**0.5) / 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80))
def test_ranks_are_the_order_of_difficulty(difficulty: list[float]) -> None:
    ranks = difficulty_ranks(difficulty)
    assert sorted(ranks.tolist()) == list(range(len(difficulty)))
    by_rank = [difficulty[i] for i in np.argsort(ranks)]
    assert by_rank == sorted(difficulty)


@pytest.mark.parametrize("n", [1, 2, 63, 10**6])
def test_the_golden_ramp_is_bounded_and_its_closed_form(n: int) -> None:
    weights = golden_weights(np.arange(n))
    assert weights.dtype == np.float64 and weights.sum() == pytest.approx(1)
    assert weights.max() / weights.min() < G
    raw = G ** (np.arange(n) / n)
    assert np.allclose(weights, raw / raw.sum(), rtol=1e-12, atol=0)


def test_fibonacci_below_64_rows_only() -> None:
    numbers = [1, 1]
    for _ in range(61):
        numbers.append(numbers[-1] + numbers[-2])
    assert np.allclose(fibonacci_weights(np.arange(63)), np.array(numbers, float) / sum(numbers), rtol=1e-12)
    assert fibonacci_weights(np.arange(1)).tolist() == [1.0]
    for n in (64, 5000):
        with pytest.raises(ConfigError, match=r"sampling=fibonacci with [\d,]+ rows"):
            sampling_weights(np.arange(n), "fibonacci")


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_difficulties_that_are_none(bad: list[float]) -> None:
    with pytest.raises(DataError):
        difficulty_ranks(bad)


def test_a_weighted_permutation_draws_each_next_row_in_proportion_to_weight() -> None:
    weights = np.array([0.5, 0.3, 0.2])
    random = np.random.default_rng(3)
    trials = 20_000
    seen = dict.fromkeys(itertools.permutations(range(3)), 0)
    for _ in range(trials):
        seen[tuple(int(i) for i in weighted_permutation(weights, random))] += 1
    for order, count in seen.items():
        expected, left = 1.0, 1.0
        for i in order:
            expected, left = expected * weights[i] / left, left - weights[i]
        assert count / trials == pytest.approx(expected, abs=5 * (expected * (1 - expected) / trials) ** 0.5)


def test_draws_with_replacement_are_in_proportion_to_weight() -> None:
    weights = golden_weights(np.arange(5))
    draw = WeightedDraw(weights, seed=1, replacement=True)
    counts = np.bincount([draw.draw(k) for k in range(20_000)], minlength=5)
    assert np.allclose(counts / 20_000, weights, atol=5 * (0.25 / 20_000) ** 0.5)


@given(st.integers(1, 50), st.booleans(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_any_draw_is_found_at_once_and_a_pass_has_every_row(n: int, replacement: bool, epoch: int, random: object) -> None:
    def new() -> WeightedDraw:
        return WeightedDraw(golden_weights(np.arange(n)), seed=7, epoch=epoch, replacement=replacement)

    walked = new()
    rows = [walked.draw(k) for k in range(3 * n)]
    places = list(range(3 * n))
    random.shuffle(places)  # type: ignore[attr-defined]
    seeking = new()
    assert [seeking.draw(k) for k in places] == [rows[k] for k in places]
    if not replacement:
        assert all(sorted(rows[turn * n : (turn + 1) * n]) == list(range(n)) for turn in range(3))


def test_hard_rows_come_earlier() -> None:
    n = 2000
    draw = WeightedDraw(golden_weights(np.arange(n)), seed=0)
    first, second = draw.in_pass(0)[: n // 2], draw.in_pass(0)[n // 2 :]
    assert first.mean() > second.mean() + 50


def test_seeds_epochs_and_passes_differ() -> None:
    weights = golden_weights(np.arange(40))
    orders = {tuple(WeightedDraw(weights, seed=s, epoch=e).in_pass(t)) for s in (0, 1) for e in (0, 1) for t in (0, 1)}
    assert len(orders) == 8


def test_only_exploitation_draws_by_difficulty() -> None:
    phases = [(0, 38, "exploration"), (38, 62, "exploitation")]
    stretches = focused_stretches(phases, np.arange(10), seed=0)  # type: ignore[arg-type]
    assert [(s.first, s.rows, s.epoch) for s in stretches] == [(38, 62, 3)]
    assert focused_stretches([(0, 5, "exploration")], np.arange(10), seed=0) == []
