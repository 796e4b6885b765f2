"""Two arms on the same test items: who answers right where the other does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiforge.core.errors import DataError


@dataclass(frozen=True)
class Agreement:
    """n01: items that only the baseline has right; n10: that only the arm has right; p: two-sided, exact."""

    n01: int
    n10: int
    p: float


def mcnemar(n01: int, n10: int) -> Agreement:
    """McNemar's exact test: of the items on which the two disagree, each is as likely to go either way. No such item gives p = 1.

    >>> mcnemar(1, 9).p
    0.021484375
    """
    if n01 < 0 or n10 < 0:
        raise DataError(f"counts of items n01={n01}, n10={n10}: a count is not negative", fix="count the items on which the arms differ")
    from scipy.special import bdtr

    if n01 == n10:  # the centre of the distribution: both tails hold it
        return Agreement(n01, n10, 1.0)
    return Agreement(n01, n10, min(1.0, 2 * float(bdtr(min(n01, n10), n01 + n10, 0.5))))


def mcnemar_items(baseline: ArrayLike, arm: ArrayLike) -> Agreement:
    """`mcnemar` of two lists of right (1, true) and wrong (0, false), item by item."""
    first, second = _outcomes(baseline, "baseline", 1), _outcomes(arm, "arm", 1)
    _same_shape(first, second)
    return mcnemar(int(np.sum(first & ~second)), int(np.sum(~first & second)))


def pooled(tables: Sequence[tuple[int, int]]) -> Agreement:
    """Counts (n01, n10) of several seeds added up. It treats one item under two seeds as two items, so p is too small where items stay the
    same: use `pooled_items` where the single outcomes are at hand."""
    return mcnemar(sum(pair[0] for pair in tables), sum(pair[1] for pair in tables))


def pooled_items(baseline: ArrayLike, arm: ArrayLike) -> Agreement:
    """The same over seeds, (seeds, items) each: the exact sign-flip test on each item's net difference, so that an item counts once.

    n01 and n10 are added over the seeds. With one seed it is McNemar's exact test.
    """
    first, second = _outcomes(baseline, "baseline", 2), _outcomes(arm, "arm", 2)
    _same_shape(first, second)
    net = second.sum(axis=0, dtype=np.int64) - first.sum(axis=0, dtype=np.int64)
    return Agreement(int(np.sum(first & ~second)), int(np.sum(~first & second)), sign_flip_counts(net))


def sign_flip_counts(differences: ArrayLike) -> float:
    """The sign-flip test for whole numbers, exact at any length: the distribution of the sum is built by convolution.

    Differences of one size v, k of them, add v (2 B - k) with B binomial; the sizes are few.
    """
    values = np.asarray(differences)
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"differences of kind {values.dtype}: whole numbers are needed here", fix="use sign_flip for measured values")
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    if not sizes.size:
        return 1.0
    from scipy.special import gammaln

    distribution = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        k = np.arange(count + 1)
        chances = np.exp(gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1) - count * np.log(2))
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = chances
        distribution = np.convolve(distribution, steps)
    middle, observed = distribution.size // 2, abs(int(values.sum()))
    if observed == 0:
        return 1.0
    return min(1.0, 2 * float(distribution[middle + observed :].sum()))


def _outcomes(values: ArrayLike, name: str, dimensions: int) -> NDArray[np.bool_]:
    found: NDArray[Any] = np.asarray(values)
    if found.ndim != dimensions or (found.size and not np.isin(found, (0, 1)).all()):
        raise DataError(
            f"outcomes of the {name}: expected {dimensions} dimension(s) of 0 and 1", fix="give 1 for a right answer, 0 for a wrong one"
        )
    return found.astype(bool)


def _same_shape(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> None:
    if first.shape != second.shape:
        raise DataError(
            f"outcomes of baseline {first.shape} and arm {second.shape} don't match", fix="score both on the same items, in the same order"
        )
