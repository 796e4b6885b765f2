"""Corrections for looking at several arms at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(values: Sequence[float], *, family: int | None = None) -> list[float]:
    """Holm's step-down adjusted p values, in the given order; the family-wise error rate holds however the tests depend on each other.

    `family` counts the tests that were declared where some gave no value; it is at least len(values). Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    m = len(values) if family is None else family
    if m < len(values):
        raise ValueError(f"family={family} is less than the {len(values)} values given")
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, values[place] * (m - rank)))
        adjusted[place] = largest
    return adjusted


def least_pairs(m: int = 1, alpha: float = 0.05) -> int:
    """The fewest pairs with which the sign-flip test can call any of m arms different: the least n with 2 / 2^n <= alpha / m.

    6 for one arm, 9 for 12 arms, at 5 %.
    """
    if m < 1:
        raise ValueError(f"m={m}: a family has at least one arm")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is not between 0 and 1")
    n = 1
    while 2 / 2**n > alpha / m:
        n += 1
    return n
