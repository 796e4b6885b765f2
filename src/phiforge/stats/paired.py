"""Tests and intervals for paired differences (arm minus baseline, one value per shared seed).

`sign_flip` decides a verdict. Its only assumption: where arm and baseline are the same, each difference is as likely to have one sign as
the other. The rest (`paired_t`, `wilcoxon`, `bootstrap_interval`, `effect_size`) is shown beside it and never decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiforge.core.errors import DataError

Floats = NDArray[np.float64]

# Sums that differ by less than this fraction of sum |d| are one sum: metrics arrive rounded, and 0.3 - 0.1 is not 0.2 in binary. Taking
# too much for equal only raises p.
SAME = 1e-9
ENUMERATED = 14  # up to here all sums at once; above, two sorted halves are counted against each other, exactly as well
EXACT = 40  # two halves of 2^20 sums; beyond it, Monte Carlo
DRAWS = 100_000


@dataclass(frozen=True)
class Interval:
    """A mean with its interval and p; low, high and p are None where n = 1 leaves them open."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


def checked(differences: ArrayLike, *, name: str = "differences") -> Floats:
    """The values as a flat float64 array; DataError for anything that is not a finite number, naming its place."""
    try:
        values = np.asarray(differences, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: not a list of numbers", fix="give one number per pair") from None
    if values.ndim != 1:
        raise DataError(f"{name}: an array of shape {values.shape}, expected one number per pair", fix="give one list per arm")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        place = int(bad[0])
        raise DataError(
            f"{name}: pair {place + 1} of {values.size} is {values[place]}, a test needs finite numbers",
            fix="leave that pair out and report it as failed",
        )
    return values


def sign_flip(differences: ArrayLike, *, seed: int = 0) -> float:
    """Two-sided p of the sign-flip (randomisation) test on the mean: the share of all 2^n sign patterns whose |sum| is at least the
    observed one. Exact up to 40 non-zero differences; beyond, (b + 1) / (m + 1) of 100,000 seeded random patterns.

    No difference at all, or an empty list, gives 1. Source: Fisher, The Design of Experiments (1935), section 21; the Monte Carlo form is
    Davison and Hinkley, Bootstrap Methods (1997), section 4.3.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    signed = checked(differences)
    signed = signed[signed != 0]  # a zero stays where it is under both signs: it doubles every count and changes no share
    if not signed.size:
        return 1.0
    signed = signed / np.abs(signed).max()  # so that sums neither overflow nor vanish
    values = np.abs(signed)
    bound = abs(float(signed.sum())) - SAME * float(values.sum())
    if bound <= 0:
        return 1.0
    if values.size <= ENUMERATED:
        return _share_enumerated(values, bound)
    if values.size <= EXACT:
        return _share_of_halves(values, bound)
    return _share_drawn(values, bound, seed)


def signed_sums(values: Floats) -> Floats:
    """All 2^n sums of +-values, (n,) -> (2^n,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _share_enumerated(values: Floats, bound: float) -> float:
    sums = signed_sums(values[1:]) + values[0]  # the other half of the patterns is its mirror image
    return float(np.mean(np.abs(sums) >= bound))


def _share_of_halves(values: Floats, bound: float) -> float:
    """The same count in 2^(n/2) log time: for each sum of one half, how many sums of the other bring it past the bound."""
    middle = values.size // 2
    left, right = np.sort(signed_sums(values[:middle])), np.sort(signed_sums(values[middle:]))
    # |a + b| >= bound, bound > 0: the two tails don't overlap, and they mirror each other
    above = left.size - np.searchsorted(left, bound - right, side="left")
    return 2 * int(above.sum(dtype=np.int64)) / 2**values.size


def _share_drawn(values: Floats, bound: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    hits, block = 0, max(1, 2_000_000 // values.size)
    for start in range(0, DRAWS, block):
        signs = generator.integers(0, 2, size=(min(block, DRAWS - start), values.size), dtype=np.int8) * 2.0 - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ values) >= bound))
    return (hits + 1) / (DRAWS + 1)


def sign_flip_rows(table: ArrayLike) -> Floats:
    """`sign_flip` of every row of a table (rows, n) at once, n <= 14: (rows,). For simulations; rows must be finite."""
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or not 1 <= values.shape[1] <= ENUMERATED:
        raise ValueError(f"sign_flip_rows: a table of shape {values.shape}; expected (rows, 1 to {ENUMERATED})")
    patterns = _patterns(values.shape[1])
    found = np.empty(len(values))
    block = max(1, 4_000_000 // len(patterns))
    for start in range(0, len(values), block):
        part = values[start : start + block]
        scale = np.abs(part).max(axis=1, keepdims=True)
        part = part / np.where(scale > 0, scale, 1.0)
        bound = np.abs(part.sum(axis=1)) - SAME * np.abs(part).sum(axis=1)
        found[start : start + block] = np.mean(np.abs(part @ patterns.T) >= bound[:, None], axis=1)
    return found


def _patterns(n: int) -> Floats:
    """(2^(n-1), n) of +-1: every sign pattern that leaves the first value as it is."""
    codes = np.arange(2 ** (n - 1))[:, None]
    turned = ((codes >> np.arange(n)) & 1)[:, ::-1].astype(np.float64)
    return 1.0 - 2.0 * turned


def spread(values: Floats) -> float:
    """Standard deviation with n - 1; 0 where the values are one number up to rounding, or there is only one."""
    if values.size < 2:
        return 0.0
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0.0
    found = float(np.std(values / largest, ddof=1))
    return found * largest if found > 1e-12 else 0.0


def paired_t(differences: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's paired t: mean, interval, two-sided p. Equal differences give an interval of no width, and p = 0 (1 where all are 0)."""
    from scipy.special import stdtr, stdtrit

    values = checked(differences)
    if not values.size:
        raise DataError("paired t: no pairs", fix="run at least one seed in both arms")
    mean, n = float(values.mean()), values.size
    if n < 2:
        return Interval(mean, None, None, None)
    error = spread(values) / math.sqrt(n)
    if error == 0:
        return Interval(mean, mean, mean, 0.0 if mean else 1.0)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * error
    return Interval(mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error)))


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: zeros dropped, ties at their middle rank, exact in the presence of both.

    It is the sign-flip test on the signed ranks, so it is exact as far as that is. Source: Wilcoxon 1945; Hollander and Wolfe, section 3.1.
    """
    values = checked(differences)
    values = values[values != 0]
    if not values.size:
        return 1.0
    return sign_flip(np.sign(values) * middle_ranks(np.abs(values)))


def middle_ranks(values: Floats) -> Floats:
    """Ranks from 1; values that are equal up to rounding share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(values.size)
    start = 0
    for end in range(1, values.size + 1):
        if end == values.size or values[order[end]] - values[order[end - 1]] > SAME * values[order[end]]:
            ranks[order[start:end]] = (start + 1 + end) / 2
            start = end
    return ranks


def bootstrap_interval(
    differences: ArrayLike, *, confidence: float = 0.95, resamples: int = 9_999, seed: int = 0
) -> tuple[float, float] | None:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean, seeded; None below 2 pairs.

    Below ten pairs or so every bootstrap interval is too narrow; the t interval beside it is not. Source: Efron 1987, JASA 82:171.
    """
    from scipy.special import ndtr, ndtri

    values = checked(differences)
    if values.size < 2:
        return None
    mean = float(values.mean())
    if spread(values) == 0:
        return mean, mean
    generator, block = np.random.default_rng(seed), max(1, 2_000_000 // values.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    means = np.sort(np.concatenate([values[generator.integers(0, values.size, size=(rows, values.size))].mean(axis=1) for rows in sizes]))
    # ties with the mean count half, so that a symmetric sample has no bias
    near = 1e-12 * float(np.abs(values).max())
    below = np.searchsorted(means, mean - near, side="left") + np.searchsorted(means, mean + near, side="right")
    bias = float(ndtri(np.clip(below / (2 * resamples), 1 / (2 * resamples), 1 - 1 / (2 * resamples))))
    lean = (values - mean) / np.abs(values).max()  # how each value pulls the mean; the scale drops out
    acceleration = float((lean**3).sum() / (6 * (lean**2).sum() ** 1.5))
    quantile = ndtri((1 - confidence) / 2)
    shares = [float(ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))) for z in (quantile, -quantile)]
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def effect_size(differences: ArrayLike) -> float | None:
    """Cohen's dz (mean over standard deviation of the differences), times Hedges' small-sample factor J(n - 1).

    None where it is not a number: below 2 pairs, or all differences equal and not zero. Source: Hedges 1981; Lakens 2013.
    """
    values = checked(differences)
    if values.size < 2:
        return None
    deviation, mean = spread(values), float(values.mean())
    if deviation == 0:
        return 0.0 if mean == 0 else None
    return mean / deviation * hedges(values.size - 1)


def hedges(degrees: int) -> float:
    """J(df) = gamma(df/2) / (sqrt(df/2) gamma((df-1)/2)), the factor that makes dz unbiased; 1 at df = 1, where it has no value."""
    if degrees < 2:
        return 1.0
    return math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)
