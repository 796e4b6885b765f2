"""How likely the verdict is to find a planted effect, how small an effect it can find, and how many seeds a measured one needs.

An effect is dz: the mean difference over the standard deviation of the differences, which are taken as normal. The level is alpha / m, that
of the first of Holm's steps, so with several real effects the true power is a little higher.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from phiforge.stats.corrections import least_pairs

SIMULATED = 12  # pairs up to which the sign-flip test itself is simulated; above, Student's t stands for it
SIMULATIONS = {12: 2_000, 11: 4_000}  # 8,000 below; each sample counts with its mirror image
MOST_SEEDS = 1_000
TARGET = 0.8


def power(effect: float, n: int, *, m: int = 1, alpha: float = 0.05) -> float:
    """The probability that the sign-flip test over n pairs, one of m arms, calls an effect dz different (in either direction).

    Up to 12 pairs by simulation of the exact test (standard error at most 0.01), beyond by the noncentral t distribution, which lies within
    0.02 of the test there. 0 where n is too small to call anything.
    """
    if n < least_pairs(m, alpha):
        return 0.0
    effect = abs(float(effect))
    if n <= SIMULATED:
        edges = _critical_effects(n, _patterns_allowed(n, m, alpha))
        below = np.searchsorted(edges, [effect, -effect], side="left")
        return float(below.sum() / edges.size)
    return _t_power(effect, n, alpha / m)


def minimum_detectable_effect(n: int, *, m: int = 1, alpha: float = 0.05, target: float = TARGET) -> float | None:
    """The least dz that n pairs find with probability `target`; None where n pairs can't call anything."""
    if n < least_pairs(m, alpha):
        return None
    if n <= SIMULATED:
        return float(np.quantile(_critical_effects(n, _patterns_allowed(n, m, alpha)), target))
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _t_power(middle, n, alpha / m) >= target else (middle, high)
    return high


def seeds_needed(effect: float, *, m: int = 1, alpha: float = 0.05, target: float = TARGET, most: int = MOST_SEEDS) -> int | None:
    """The fewest pairs that find an effect dz with probability `target`; None where `most` are not enough."""
    low = least_pairs(m, alpha)
    if power(effect, most, m=m, alpha=alpha) < target:
        return None
    high = most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, m=m, alpha=alpha) >= target else (middle + 1, high)
    return low


def _patterns_allowed(n: int, m: int, alpha: float) -> int:
    """K: how many of the 2^(n-1) sign patterns (mirror images taken together) may reach the observed |sum| for p <= alpha / m."""
    return math.floor(alpha / m * 2 ** (n - 1) * (1 + 1e-12))


@lru_cache(maxsize=64)
def _critical_effects(n: int, allowed: int) -> NDArray[np.float64]:
    """For each simulated standard normal sample the effect above which its p is small enough, sorted ascending.

    Turning the signs of a subset S lowers the sum by twice the sum over S, so a pattern reaches the observed sum exactly where the mean
    over S is <= 0. With z + effect in place of the differences that is: -mean(z over S) >= effect. p <= alpha / m as long as fewer than K
    non-empty subsets do so, hence the critical effect is the K-th largest of -mean(z over S): one table gives the power at every effect.
    """
    generator = np.random.default_rng(20_240 + n)
    subsets = ((np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1).astype(np.float32)
    subsets /= subsets.sum(axis=1, keepdims=True)
    found = []
    for _ in range(SIMULATIONS.get(n, 8_000) // 500):
        means = generator.standard_normal((500, n), dtype=np.float32) @ subsets.T
        means.partition([allowed - 1, means.shape[1] - allowed], axis=1)
        found += [means[:, -allowed], -means[:, allowed - 1]]  # a sample and its mirror image
    return np.sort(np.concatenate(found).astype(np.float64))


def _t_power(effect: float, n: int, level: float) -> float:
    """Two-sided power of the one-sample t test."""
    from scipy.special import nctdtr, stdtrit

    bound, shift = float(stdtrit(n - 1, 1 - level / 2)), effect * math.sqrt(n)
    if shift > 30 + bound:  # far beyond any doubt, where the series of nctdtr gives out
        return 1.0
    above, below = 1 - float(nctdtr(n - 1, shift, bound)), float(nctdtr(n - 1, shift, -bound))
    return above + (below if math.isfinite(below) else 0.0)
