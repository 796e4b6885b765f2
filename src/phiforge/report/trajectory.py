"""Curves of many seeds as one: their mean with its interval, along tokens or along seconds, and pairs held against each other.

Seeds are brought to common places by straight lines between their points, and only where all of them have been; nothing is drawn on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from phiforge.report.experiment import Arm, Curve

Axis = Literal["tokens", "seconds"]
_MOST_PLACES = 120


@dataclass(frozen=True)
class Trajectory:
    """x, mean and the borders of the 95 % interval of the mean (None with one seed), equally long; `n` curves went in."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    n: int


def points(curve: Curve, axis: Axis) -> tuple[np.ndarray, np.ndarray] | None:
    """The curve over an axis, ascending; None where it has fewer than two places there."""
    kept = sorted((x, y) for x, y in zip(getattr(curve, axis), curve.values, strict=True) if x is not None)
    if len({x for x, _ in kept}) < 2:
        return None
    x, y = np.array(kept, float).T
    _, last = np.unique(x[::-1], return_index=True)  # of equal places the one logged last
    return x[::-1][last], y[::-1][last]


def average(curves: Sequence[Curve], axis: Axis) -> Trajectory | None:
    """Mean over seeds with its interval."""
    lines = [line for curve in curves if (line := points(curve, axis)) is not None]
    x = _places(lines)
    if x is None:
        return None
    rows = np.stack([np.interp(x, *line) for line in lines])
    return Trajectory(x, rows.mean(0), *interval(rows), len(rows))


def difference(arm: Arm, baseline: Arm, axis: Axis) -> Trajectory | None:
    """Mean over pairs of arm minus baseline, with its interval."""
    pairs = _pairs(arm, baseline, axis)
    lines = [line for pair in pairs for line in pair]
    x = _places(lines)
    if x is None:
        return None
    rows = np.stack([np.interp(x, *own) - np.interp(x, *other) for own, other in pairs])
    return Trajectory(x, rows.mean(0), *interval(rows), len(rows))


@dataclass(frozen=True)
class At:
    """Differences at one place that every pair has reached."""

    place: float
    mean: float
    low: float | None
    high: float | None
    n: int


def at_equal(arm: Arm, baseline: Arm, axis: Axis) -> At | None:
    """Arm minus baseline at equal tokens or equal seconds: each pair where the one that got less far ended."""
    pairs = _pairs(arm, baseline, axis)
    if not pairs:
        return None
    ends = [min(own[0][-1], other[0][-1]) for own, other in pairs]
    starts = [max(own[0][0], other[0][0]) for own, other in pairs]
    if any(end < start for end, start in zip(ends, starts, strict=True)):
        return None
    rows = np.array([[np.interp(end, *own) - np.interp(end, *other)] for end, (own, other) in zip(ends, pairs, strict=True)])
    low, high = interval(rows)
    return At(
        float(np.mean(ends)),
        float(rows.mean()),
        None if low is None else float(low[0]),
        None if high is None else float(high[0]),
        len(rows),
    )


def interval(rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The 95 % t interval of the mean of `rows` (n, places) at each place; None with one row."""
    n = len(rows)
    if n < 2:
        return None, None
    from scipy.special import stdtrit

    half = stdtrit(n - 1, 0.975) * rows.std(0, ddof=1) / np.sqrt(n)
    return rows.mean(0) - half, rows.mean(0) + half


def _pairs(arm: Arm, baseline: Arm, axis: Axis) -> list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    by_seed: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    for curve in baseline.curves:
        line = points(curve, axis)
        if line is not None:
            by_seed[str(curve.seed)] = line
    made = ((points(curve, axis), by_seed.get(str(curve.seed))) for curve in arm.curves)
    return [(own, other) for own, other in made if own is not None and other is not None]


def _places(lines: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray | None:
    """Where all lines are: their own places when they share them, else even ones."""
    if not lines:
        return None
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if high <= low:
        return None
    own = [x[(x >= low) & (x <= high)] for x, _ in lines]
    if all(len(x) == len(own[0]) and np.array_equal(x, own[0]) for x in own) and 2 <= len(own[0]) <= _MOST_PLACES:
        return own[0]
    return np.linspace(low, high, min(_MOST_PLACES, 4 * max(len(x) for x in own) + 2))
