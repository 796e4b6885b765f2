"""Golden learning rates: pure shapes `(done, planned) -> multiplier of the base rate`, and the document's own function.

done and planned are in any unit (steps, tokens, base batches) and count from the end of the warm-up; progress p = done / planned in [0, 1].
Where each comes from: "document" = the plan of golden-ratio training that this package makes real (docs/seeds.md), "origin" = the code
that the document speaks of, "ours" = decided here where both are silent. docs/methods.md lists them side by side.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache

from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED, PHI

MODES = ("decay", "warmup", "cosine_phi")  # of phi_learning_rate, the document's


def progress(done: float, planned: float) -> float:
    """done / planned within [0, 1]; a run of no length is at its start."""
    return min(1.0, max(0.0, done / planned)) if planned > 0 else 0.0


def phi_decay(done: float, planned: float, power: float = 1.0) -> float:
    """phi^(-p^power): from 1 to 1/phi. Document; `power` is its `phi_lr_power`.

    >>> round(phi_decay(0, 100), 6), round(phi_decay(50, 100), 6), round(phi_decay(100, 100), 6)
    (1.0, 0.786151, 0.618034)
    """
    return float(PHI ** -(progress(done, planned) ** power))


def phi_cosine(done: float, planned: float, cycles: int = 1) -> float:
    """Half a cosine, damped by the golden ratio: (1 + cos(pi p)) / 2 * phi^(-p), from 1 to 0.

    With `cycles` k > 1 ("phi-proportioned cycles"): a plain half cosine in each of k cycles, each phi times as long as the last, which fill
    the run exactly; cycle i starts from phi^(-i). Document's idea; the published parts are Loshchilov & Hutter 2017 (arXiv 1608.03983:
    cosine, and restarts with growing cycles); the damping and the peaks are ours.

    >>> round(phi_cosine(50, 100), 6), phi_cosine(100, 100)
    (0.393076, 0.0)
    >>> round(phi_cosine(cycle_borders(3)[1], 1, cycles=3), 6)
    0.618034
    """
    p = progress(done, planned)
    if cycles <= 1:
        return 0.5 * (1.0 + math.cos(math.pi * p)) * float(PHI**-p)
    cycle, position = cycle_at(p, cycles)
    return 0.5 * (1.0 + math.cos(math.pi * position)) * float(PHI**-cycle)


def phi_cosine_literal(done: float, planned: float) -> float:
    """(1 + cos(pi p)) / 2 / phi, as the document writes `cosine_phi`: a cosine that starts at 0.618, so mostly a lower base rate.

    >>> round(phi_cosine_literal(0, 100), 6), round(phi_cosine_literal(50, 100), 6)
    (0.618034, 0.309017)
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress(done, planned))) * INV_PHI


def phi_cyclic(done: float, planned: float, cycles: int = 4) -> float:
    """phi^(-position) inside each of `cycles` cycles, each phi times as long as the last: a saw from 1 to 1/phi. Origin, k = 4.

    >>> phi_cyclic(0, 100), round(phi_cyclic(cycle_borders(4)[2], 1), 6), round(phi_cyclic(100, 100), 6)
    (1.0, 1.0, 0.618034)
    """
    return float(PHI ** -cycle_at(progress(done, planned), cycles)[1])


def phi_wsd(done: float, planned: float) -> float:
    """1 up to 61.8 % of what is planned, then straight to 0 over the last 38.2 %. Ours, after Hu et al. 2024 (arXiv 2404.06395).

    >>> phi_wsd(61, 100), round(phi_wsd(81, 100), 6), phi_wsd(100, 100)
    (1.0, 0.497426, 0.0)
    """
    return min(1.0, (1.0 - progress(done, planned)) / INV_PHI_SQUARED)


def phi_warmup(done: float, warmup: float) -> float:
    """(1 - phi^(-s/w)) / (1 - 1/phi), the head of any schedule: from 0 to 1. Document, divided by what it ends at (ours).

    >>> phi_warmup(0, 10), round(phi_warmup(5, 10), 6), round(phi_warmup(10, 10), 6)
    (0.0, 0.559863, 1.0)
    """
    return phi_warmup_literal(done, warmup) / INV_PHI_SQUARED


def phi_warmup_literal(done: float, warmup: float) -> float:
    """1 - phi^(-s/w) as the document writes it: from 0 to 0.382, from where the schedule behind it jumps to 1.

    >>> round(phi_warmup_literal(10, 10), 6)
    0.381966
    """
    return 1.0 - float(PHI ** -progress(done, warmup))


@lru_cache(maxsize=256)
def cycle_borders(cycles: int) -> tuple[float, ...]:
    """Where each of k cycles of lengths L, L phi, L phi^2, ... starts, as progress, and where the last one ends: k + 1 numbers.

    Border i = (phi^i - 1) / (phi^k - 1). Raises ConfigError for less than one cycle.

    >>> [round(border, 4) for border in cycle_borders(3)]
    [0.0, 0.191, 0.5, 1.0]
    """
    if cycles < 1:
        raise ConfigError(f"cycles={cycles} is not at least 1")
    whole = PHI**cycles - 1.0
    return (0.0, *((PHI**i - 1.0) / whole for i in range(1, cycles)), 1.0)


def cycle_at(p: float, cycles: int) -> tuple[int, float]:
    """(cycle, position within it in [0, 1]) at progress p; a border belongs to the cycle that it starts, the end to the last one."""
    borders = cycle_borders(cycles)
    cycle = min(bisect_right(borders, p) - 1, cycles - 1)
    return cycle, (p - borders[cycle]) / (borders[cycle + 1] - borders[cycle])


def phi_learning_rate(
    base_lr: float, epoch: float, total_epochs: float, mode: str = "decay", *, warmup_epochs: float | None = None, power: float = 1.0
) -> float:
    """The document's function, its three modes as it writes them; `power` is its `phi_lr_power`.

    decay: base * phi^(-(epoch/total)^power). warmup: base * (1 - phi^(-epoch/warmup)) up to `warmup_epochs` (which the document uses
    without defining; a tenth of total_epochs when not given), then base. cosine_phi: base * (1 + cos(pi epoch/total)) / 2 / phi.
    Epochs may be fractions. Raises ConfigError for an unknown mode or an epoch outside 0 to total_epochs.

    >>> round(phi_learning_rate(2e-4, 10, 10), 8), round(phi_learning_rate(2e-4, 1, 10, "warmup", warmup_epochs=2), 8)
    (0.00012361, 4.277e-05)
    """
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r} of phi_learning_rate is not one of {', '.join(MODES)}")
    if not 0 <= epoch <= total_epochs or total_epochs <= 0:
        raise ConfigError(f"epoch={epoch} is outside 0 to total_epochs={total_epochs}")
    if mode == "decay":
        return base_lr * phi_decay(epoch, total_epochs, power)
    if mode == "cosine_phi":
        return base_lr * phi_cosine_literal(epoch, total_epochs)
    warmup = total_epochs / 10 if warmup_epochs is None else warmup_epochs
    return base_lr * phi_warmup_literal(epoch, warmup) if epoch <= warmup and warmup > 0 else base_lr
