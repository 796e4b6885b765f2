"""Data by difficulty: golden weights over ranks, and weighted draws that start anywhere at once.

The rank of a row is its place when all rows are put in order of difficulty, 0 = easiest; equal ones keep the order of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from phiforge.core.errors import ConfigError, DataError
from phiforge.core.seeds import derive
from phiforge.golden.config import Focus
from phiforge.golden.ratio import PHI

Sampling = Literal["golden", "fibonacci"]
FIBONACCI_LIMIT = 64  # F(64) is 1e13: from here on the hardest few rows would be all that is ever drawn


def difficulty_ranks(difficulty: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) difficulties -> (n,) int64 ranks. Raises DataError for one that is no number.

    >>> difficulty_ranks([0.3, 0.1, 0.2]).tolist()
    [2, 0, 1]
    """
    values = np.asarray(difficulty, np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"difficulties have the shape {values.shape}", fix="one number for each row")
    if not np.isfinite(values).all():
        raise DataError(f"the difficulty of row {int(np.argmin(np.isfinite(values)))} is not a finite number")
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def golden_weights(ranks: np.ndarray) -> np.ndarray:
    """phi^(rank/n), normalised to sum 1, float64: the hardest row is drawn less than phi times as often as the easiest.

    Ours: the document says "phi-weighted"; the origin's Fibonacci weights overflow and collapse (`fibonacci_weights`).

    >>> [round(float(weight), 4) for weight in golden_weights(np.arange(3))]
    [0.2815, 0.3305, 0.388]
    """
    weights = PHI ** (np.asarray(ranks, np.float64) / len(ranks))
    return np.asarray(weights / weights.sum())


def fibonacci_weights(ranks: np.ndarray) -> np.ndarray:
    """F(rank + 1) = 1, 1, 2, 3, 5, ..., normalised to sum 1. Origin; refused from 64 rows on (ConfigError).

    >>> [round(float(weight), 4) for weight in fibonacci_weights(np.arange(4))]
    [0.1429, 0.1429, 0.2857, 0.4286]
    """
    if len(ranks) >= FIBONACCI_LIMIT:
        raise ConfigError(
            f"sampling=fibonacci with {len(ranks)} rows: its weights grow to {PHI ** len(ranks):.0e} and the rest is never drawn"
            if len(ranks) < 1000
            else f"sampling=fibonacci with {len(ranks):,} rows: its weights overflow",
            fix=f"sampling=golden, or fewer than {FIBONACCI_LIMIT} rows",
        )
    numbers = [1, 1]
    while len(numbers) < len(ranks):
        numbers.append(numbers[-1] + numbers[-2])
    weights = np.asarray(numbers, np.float64)[np.asarray(ranks, np.int64)]
    return np.asarray(weights / weights.sum())


def sampling_weights(difficulty: Sequence[float] | np.ndarray, sampling: Sampling = "golden") -> np.ndarray:
    """(n,) difficulties -> (n,) weights that sum to 1."""
    ranks = difficulty_ranks(difficulty)
    return fibonacci_weights(ranks) if sampling == "fibonacci" else golden_weights(ranks)


def weighted_permutation(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """All n rows in an order in which each next one is drawn in proportion to weight from those left.

    Efraimidis & Spirakis 2006: the order of keys log(u)/w, greatest first, u uniform in (0, 1].
    """
    return np.argsort(np.log1p(-random.random(len(weights))) / -np.asarray(weights), kind="stable")


def weighted_draws(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """n rows, each drawn in proportion to weight, with replacement."""
    borders = np.cumsum(weights)
    return np.minimum(np.searchsorted(borders, random.random(len(weights)) * borders[-1], side="right"), len(weights) - 1)


class WeightedDraw:
    """A stretch of a run that is drawn by difficulty: its k-th row is row draw(k) of the data.

    It goes through the data in passes of n draws, counted from its own beginning. Without replacement each pass has every row once, the
    difficult ones earlier, so a stretch shorter than a pass leaves out easy rows more often than hard ones. Pass i is made from
    (seed, epoch, i) alone, and two are held: any k is found at once.

    first, rows: the rows of the run that it spans. epoch: which epoch's data it draws from.
    """

    def __init__(
        self,
        weights: np.ndarray,
        *,
        seed: int,
        first: int = 0,
        rows: int | None = None,
        epoch: int = 0,
        replacement: bool = False,
    ) -> None:
        self.weights, self.seed, self.replacement = np.asarray(weights, np.float64), seed, replacement
        self.first, self.epoch = first, epoch
        self.rows = len(self.weights) if rows is None else rows
        self._held: dict[int, np.ndarray] = {}

    def draw(self, k: int) -> int:
        """The row that the k-th draw takes, k = 0, 1, ..."""
        turn, place = divmod(k, len(self.weights))
        return int(self.in_pass(turn)[place])

    def in_pass(self, turn: int) -> np.ndarray:
        """(n,) int64: all draws of one pass."""
        if turn not in self._held:
            self._held = {t: rows for t, rows in self._held.items() if t == turn - 1}
            random = np.random.default_rng(derive(self.seed, "difficulty", self.epoch, turn))
            self._held[turn] = (weighted_draws if self.replacement else weighted_permutation)(self.weights, random)
        return self._held[turn]


def focused_stretches(
    phases: Sequence[tuple[int, int, Focus]],
    difficulty: Sequence[float] | np.ndarray,
    *,
    seed: int,
    sampling: Sampling = "golden",
    replacement: bool = False,
) -> list[WeightedDraw]:
    """The stretches of a run that draw by difficulty. phases: (first row, rows, focus) of each training phase, in order.

    Each begins a pass of its own, so that what is left of a uniform epoch does not decide which rows an exploitation phase may still draw;
    it reads the data of the epoch in which it begins.
    """
    weights = sampling_weights(difficulty, sampling)
    return [
        WeightedDraw(weights, seed=seed, first=first, rows=rows, epoch=first // len(weights), replacement=replacement)
        for first, rows, focus in phases
        if focus == "exploitation" and rows
    ]
