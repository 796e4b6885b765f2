"""`--until-clear`: a test that may be looked at after every pair and keeps its error rate (testing by betting).

The null is that of the sign-flip test: given how large the differences are, their signs are fair coins. A player who stakes the share b of
his wealth on the next sign (|b| <= 1, chosen from the sizes so far, the next one included, and the signs past) has a wealth
prod(1 + b_i sign_i) that is a fair game, so it ever reaches 1 / alpha with probability at most alpha (Ville). Here 12 players bet at once,
six on `+` and six on `-`; their mean wealth is the e-value, and min(1, 1 / largest e-value so far) is a p value at any stopping time.

Two players of a direction stake a constant share, which makes few unanimous pairs enough; four stake tanh(delta sqrt(1 + delta^2) |d_i| /
rms(d_1..d_i)): for normal differences of mean delta standard deviations that is the stake of most growth, the likelihood ratio of the sign.
A zero difference stakes nothing. Sources: Shafer 2021, JRSS A 184:407; Ramdas et al. 2023, Statistical Science 38:576; Ville 1939.

The pairs must be given in the order in which they were planned (that of the seeds).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiforge.core.errors import DataError
from phiforge.stats.corrections import holm
from phiforge.stats.paired import checked

Floats = NDArray[np.float64]
CONSTANT = {1.0: 0.35, 0.9: 0.15}  # share staked -> the player's part of the first wealth
SCALED = {0.4: 0.1, 0.6: 0.1, 0.8: 0.15, 1.5: 0.15}  # delta -> part
LARGEST_LOG = 690.0  # e-values are reported up to e^690, which is still a float
Standing = Literal["clear", "open", "hopeless", "full"]


@dataclass(frozen=True)
class Sequential:
    """What the game says so far: the largest e-value, its p, who led then (+1, -1; 0 = nobody), and the e-value after each pair."""

    e_value: float
    p: float
    direction: int
    path: tuple[float, ...]


@dataclass(frozen=True)
class NextStep:
    """Whether another pair is worth running, why, and each arm's standing."""

    go_on: bool
    reason: str
    arms: dict[str, Standing]


def log_wealth(differences: ArrayLike) -> Floats:
    """Log wealth of the two directions after each pair: (..., n) -> (2, ..., n), `+` first; -inf once all its players are broke."""
    players = _players(np.asarray(differences, dtype=np.float64))
    largest = players.max(axis=1)  # taken out before the exponential: wealth doubles with each pair
    largest = np.where(np.isfinite(largest), largest, 0.0)
    parts = np.array([*CONSTANT.values(), *SCALED.values()])
    with np.errstate(divide="ignore"):
        return largest + np.log(np.einsum("dk...,k->d...", np.exp(players - largest[:, None]), parts))


def _players(values: Floats) -> Floats:
    """Log wealth of each player after each pair: (..., n) -> (2, 6, ..., n)."""
    sizes, signs = np.abs(values), np.sign(values)
    largest = sizes.max(axis=-1, keepdims=True)
    sizes = sizes / np.where(largest > 0, largest, 1.0)  # the ratio below does not depend on it, and nothing overflows
    root = np.sqrt(np.cumsum(sizes**2, axis=-1) / np.arange(1, values.shape[-1] + 1))
    relative = np.divide(sizes, root, out=np.zeros_like(sizes), where=root > 0)
    stakes = [np.full_like(sizes, share) for share in CONSTANT] + [np.tanh(d * math.sqrt(1 + d * d) * relative) for d in SCALED]
    gains = np.stack(stakes) * signs
    with np.errstate(divide="ignore"):  # a player who staked all and lost: log 0
        return np.cumsum(np.log1p(np.stack([gains, -gains])), axis=-1)


def e_process(differences: ArrayLike) -> Floats:
    """The log e-value after each pair, (..., n) -> (..., n). For simulations; finite values only."""
    wealth = log_wealth(differences)
    return np.logaddexp(wealth[0], wealth[1]) - math.log(2)


def anytime(differences: ArrayLike) -> Sequential:
    """The sequential test of one arm's differences, in the order of the seeds."""
    values = checked(differences)
    if not values.size:
        return Sequential(1.0, 1.0, 0, ())
    wealth = log_wealth(values)
    logs = np.logaddexp(wealth[0], wealth[1]) - math.log(2)
    best = int(np.argmax(logs))
    largest = min(max(float(logs[best]), 0.0), LARGEST_LOG)
    direction = 0 if logs[best] <= 0 else int(np.sign(wealth[0, best] - wealth[1, best]))
    path = tuple(float(value) for value in np.exp(np.minimum(logs, LARGEST_LOG)))
    return Sequential(math.exp(largest), math.exp(-largest), direction, path)


@lru_cache(maxsize=64)
def sequential_least_pairs(m: int = 1, alpha: float = 0.05) -> int:
    """The fewest pairs with which the sequential test can call any of m arms different: 6 for one arm, 10 for 12 at 5 %.

    The wealth of n unanimous pairs is largest where each difference dwarfs those before it (|d_i| / rms = sqrt(i)).
    """
    if m < 1 or not 0 < alpha < 1:
        raise ValueError(f"m={m}, alpha={alpha}: a family has at least one arm, and alpha lies between 0 and 1")
    relative = np.sqrt(np.arange(1, 2_001))
    logs = [np.log(part) + np.arange(1, 2_001) * math.log1p(share) for share, part in CONSTANT.items()]
    logs += [np.log(part) + np.cumsum(np.log1p(np.tanh(d * math.sqrt(1 + d * d) * relative))) for d, part in SCALED.items()]
    best = np.logaddexp.reduce(np.array(logs)) - math.log(2)
    return int(np.argmax(best >= math.log(m / alpha))) + 1


def next_step(differences: Mapping[str, ArrayLike], *, max_pairs: int, alpha: float = 0.05, family_size: int | None = None) -> NextStep:
    """After each pair: go on, or stop, and why. Stopping never costs validity: the p value holds whenever one looks.

    An arm is `clear` once its p after Holm is at most alpha (unless its mean has turned round since), `full` at max_pairs, `hopeless` where
    even unanimous pairs up to max_pairs could not make it clear, else `open`. Only open arms need another pair.
    """
    if max_pairs < 1:
        raise DataError(f"max_seeds={max_pairs}: at least one pair is needed", fix="give max_seeds a number from 6 up")
    m = len(differences) if family_size is None else family_size
    names = list(differences)
    if not names:
        return NextStep(False, "there is no arm to compare", {})
    given = {name: checked(differences[name], name=f"differences of arm {name!r}") for name in names}
    games = {name: anytime(values) for name, values in given.items()}
    adjusted = holm([game.p for game in games.values()], family=m)
    standing: dict[str, Standing] = {}
    for (name, values), p in zip(given.items(), adjusted, strict=True):
        if p <= alpha and games[name].direction == np.sign(values.sum()):
            standing[name] = "clear"
        elif values.size >= max_pairs:
            standing[name] = "full"
        else:
            standing[name] = "open" if p <= alpha or _best_log(values, max_pairs) >= math.log(1 / alpha) else "hopeless"
    waiting = [name for name in names if standing[name] == "open"]
    if waiting:
        return NextStep(True, f"not clear yet: {', '.join(waiting)}", standing)
    if all(state == "clear" for state in standing.values()):
        return NextStep(False, "every arm is clear", standing)
    if "hopeless" in standing.values() and "full" not in standing.values():
        return NextStep(False, f"what is not clear can't become so within max_seeds={max_pairs}", standing)
    return NextStep(False, f"max_seeds={max_pairs} reached", standing)


def _best_log(values: Floats, max_pairs: int) -> float:
    """An upper bound of the log e-value at max_pairs: every player who is not broke doubles his wealth with each pair to come."""
    if not values.size:
        return (max_pairs - 1) * math.log(2)
    wealth = log_wealth(values)[:, -1]
    return float(np.max(wealth)) + (max_pairs - values.size) * math.log(2)


@lru_cache(maxsize=256)
def _crossings(effect: float, most: int, m: int, alpha: float) -> NDArray[np.int64]:
    """The pair at which each of the simulated normal arms becomes clear, sorted; most + 1 where it does not."""
    generator = np.random.default_rng(4_711)
    games = _games(most)
    found, block = [], max(1, min(games, 60_000 // most))
    for start in range(0, games, block):
        logs = e_process(generator.standard_normal((min(block, games - start), most)) + effect)
        clear = logs >= math.log(m / alpha)
        found.append(np.where(clear.any(axis=1), clear.argmax(axis=1) + 1, most + 1))
    return np.sort(np.concatenate(found))


def _games(most: int) -> int:
    """How many are simulated: fewer where they are long, so that the answer comes within some tenths of a second."""
    return 2_000 if most <= 64 else 400


def sequential_power(effect: float, n: int, *, m: int = 1, alpha: float = 0.05) -> float:
    """The probability that an effect dz is clear within n pairs, at level alpha / m.

    Simulated: standard error at most 0.011, beyond 64 pairs 0.025.
    """
    if n < 1:
        return 0.0
    return float(np.searchsorted(_crossings(round(abs(float(effect)), 3), n, m, alpha), n, side="right") / _games(n))


def sequential_minimum_detectable(n: int, *, m: int = 1, alpha: float = 0.05, target: float = 0.8) -> float | None:
    """The least dz that is clear within n pairs with probability `target`; None where n pairs can't be clear, or only effects above 16."""
    if n < sequential_least_pairs(m, alpha):
        return None
    low, high = 0.0, 1.0
    while sequential_power(high, n, m=m, alpha=alpha) < target:
        low, high = high, 2 * high
        if high > 16:
            return None
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if sequential_power(middle, n, m=m, alpha=alpha) >= target else (middle, high)
    return high


def sequential_seeds_needed(effect: float, *, m: int = 1, alpha: float = 0.05, target: float = 0.8, most: int = 1_000) -> int | None:
    """The fewest pairs within which an effect dz is clear with probability `target`; None where `most` are not enough."""
    horizon = min(64, most)
    while True:
        crossings = _crossings(round(abs(float(effect)), 3), horizon, m, alpha)
        found = int(crossings[math.ceil(target * _games(horizon)) - 1])
        if found <= horizon:
            return found
        if horizon == most:
            return None
        horizon = min(4 * horizon, most)
