"""A loss that falls with data as a power law, from a few runs: fitted robustly, with the spread of what it predicts.

    L(D) = E + A / D^alpha

(Hestness et al. 2017; Hoffmann et al. 2022, with Huber's loss as there). For a given alpha the best E and A are a small linear problem, so
alpha alone is searched, on a grid that closes in, for many fits at once. E is what no amount of data takes away; a handful of runs hardly
tells it from a small alpha, so every prediction has an interval: the fitted curve is drawn anew with noise as large as the runs scatter
round it (at least NOISE), fitted again, many times. The interval knows of noise and of how little the runs pin down. It does not know
whether the law holds so far out; nobody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST = 4  # runs; a curve of three free numbers goes through any three
LEAST_SPAN = 4.0  # largest over least amount of data: below it there is no slope to see
NOISE = 0.005  # relative: what another seed moves a small model's bits per byte by, at the least
ALPHAS = (0.01, 2.0)
LEAST_FLOOR = 0.05  # E lies between this share of the smallest loss, and that loss
_DELTA = 0.01  # relative residual where Huber's loss goes from square to straight
_GRID, _ROUNDS, _REWEIGHTED = 32, 5, 6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law. `scale` is A / unit^alpha, where `unit` is the geometric mean of the data: that keeps the numbers near 1."""

    floor: float  # E
    scale: float
    exponent: float  # alpha
    unit: float
    scatter: float = 0.0  # standard deviation of the runs round it, relative
    n: int = 0

    def at(self, data: float) -> float:
        """The loss at so much data.

        >>> round(PowerLaw(floor=1.0, scale=0.5, exponent=0.5, unit=1e6).at(4e6), 3)
        1.25
        """
        return float(self.floor + self.scale * (data / self.unit) ** -self.exponent)


@dataclass(frozen=True)
class Predicted:
    """A prediction with its 95 % interval."""

    value: float
    low: float
    high: float


def why_not(data: Sequence[float]) -> str | None:
    """Why so few or so like runs say nothing; None where a law can be fitted."""
    if len(data) < LEAST:
        return f"too few runs to say: {len(data)}, and a law needs {LEAST}"
    if len(set(data)) < 3 or max(data) < LEAST_SPAN * min(data):
        span = f"{min(data):.3g} to {max(data):.3g} bytes"
        return f"the runs read too like amounts of text to say: {span}, and the largest must be {LEAST_SPAN:g} times the least"
    return None


def fit_power_law(data: ArrayLike, losses: ArrayLike) -> PowerLaw:
    """The law nearest to runs: data (n,), losses (n,). Raises ValueError where `why_not` has a reason, or a number is not positive."""
    amounts, values = np.asarray(data, float), np.asarray(losses, float)
    reason = why_not(amounts.tolist())
    if reason:
        raise ValueError(reason)
    if not (np.isfinite(values).all() and (values > 0).all() and (amounts > 0).all()):
        raise ValueError("losses and amounts of data must be positive numbers")
    return _fit_all(amounts, values[None])[0]


def redrawn(law: PowerLaw, data: ArrayLike, *, draws: int = 400, seed: int = 0) -> list[PowerLaw]:
    """Laws fitted to the curve with new noise: what other runs at the same places might have said."""
    amounts = np.asarray(data, float)
    noise = np.random.default_rng(seed).normal(0, max(law.scatter, NOISE), (draws, len(amounts)))
    middle = np.array([law.at(amount) for amount in amounts])
    return _fit_all(amounts, middle * np.exp(noise))


def predict(law: PowerLaw, others: Sequence[PowerLaw], data: float) -> Predicted:
    """The law at `data`, and the middle 95 % of what `redrawn` laws say there."""
    low, high = np.percentile([other.at(data) for other in others], [2.5, 97.5])
    value = law.at(data)
    return Predicted(value, min(float(low), value), max(float(high), value))


def _fit_all(data: Array, values: Array) -> list[PowerLaw]:
    """A law for each row of values (S, n)."""
    unit = float(np.exp(np.log(data).mean()))
    x = np.log(data / unit)
    weights = np.ones_like(values)
    alpha, floor, scale = _closing_in(x, values, weights)
    for _ in range(_REWEIGHTED):
        residual = np.abs((floor + scale * np.exp(-alpha * x)) / values - 1)
        weights = np.minimum(1.0, _DELTA / np.maximum(residual, 1e-12))
        alpha, floor, scale = _closing_in(x, values, weights)
    residual = (floor + scale * np.exp(-alpha * x)) / values - 1
    scatter = np.sqrt((residual**2).sum(1) / max(1, len(data) - 3))
    found = zip(floor[:, 0].tolist(), scale[:, 0].tolist(), alpha[:, 0].tolist(), scatter.tolist(), strict=True)
    return [PowerLaw(floor=e, scale=a, exponent=power, unit=unit, scatter=sd, n=len(data)) for e, a, power, sd in found]


def _closing_in(x: Array, values: Array, weights: Array) -> tuple[Array, Array, Array]:
    """(alpha, E, A), each (S, 1): the best alpha of a logarithmic grid, then of a finer one round it, and so on."""
    rows = np.arange(len(values))
    low, high = (np.full(len(values), np.log(edge)) for edge in ALPHAS)
    for _ in range(_ROUNDS):
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, _GRID)  # (S, G)
        floor, scale, cost = _linear(np.exp(-np.exp(grid)[:, :, None] * x), values[:, None], weights[:, None])
        best = cost.argmin(1)
        step = (high - low) / (_GRID - 1)
        at = grid[rows, best]
        low, high = np.maximum(at - 2 * step, np.log(ALPHAS[0])), np.minimum(at + 2 * step, np.log(ALPHAS[1]))
    return np.exp(at)[:, None], floor[rows, best][:, None], scale[rows, best][:, None]


def _linear(basis: Array, values: Array, weights: Array) -> tuple[Array, Array, Array]:
    """E, A and the cost, each (S, G), of least weighted squares of relative residuals. basis (S, G, n); values, weights (S, 1, n)."""
    w = weights / values**2
    ones, cross, square = w.sum(-1), (w * basis).sum(-1), (w * basis**2).sum(-1)
    right, right_basis = (w * values).sum(-1), (w * values * basis).sum(-1)
    det = np.maximum(ones * square - cross**2, 1e-300)
    least = values.min(-1)
    floor = np.clip((right * square - right_basis * cross) / det, LEAST_FLOOR * least, least)
    scale = np.maximum((right_basis - floor * cross) / square, 0.0)
    cost = (w * (floor[..., None] + scale[..., None] * basis - values) ** 2).sum(-1)
    return floor, scale, cost
