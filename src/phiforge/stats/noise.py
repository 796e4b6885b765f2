"""How much a metric moves when nothing that is asked about changes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from phiforge.stats.paired import checked, spread


def sd(values: ArrayLike) -> float | None:
    """Standard deviation (n - 1) of one group, say the baseline over its seeds; None below 2 values."""
    found = checked(values, name="values")
    return spread(found) if found.size > 1 else None


def pooled_sd(groups: Iterable[ArrayLike]) -> float | None:
    """One standard deviation for several groups with means of their own (an arm each); groups of one value say nothing."""
    squares, degrees = 0.0, 0
    for group in groups:
        found = checked(group, name="values")
        if found.size > 1:
            squares += spread(found) ** 2 * (found.size - 1)
            degrees += found.size - 1
    return math.sqrt(squares / degrees) if degrees else None


def same_config_sd(pairs: ArrayLike) -> float | None:
    """Standard deviation of one run, from pairs (n, 2) of runs of the same configuration: rms difference / sqrt 2. None without pairs.

    The pairs may differ in anything else (their seed): only what is inside a pair counts.
    """
    table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    differences = checked(table[:, 0] - table[:, 1], name="differences of pairs")
    if not differences.size:
        return None
    return float(np.sqrt(np.mean(differences**2) / 2))
