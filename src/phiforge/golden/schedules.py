"""Learning-rate schedules: a table of pure functions, and `schedule`, which puts a warm-up before one of them.

A shape is `(done, planned) -> multiplier in [0, 1]`, where done counts from the end of the warm-up. The unit is the caller's: steps or
tokens. progress p = done / planned. Shapes get both numbers, not p alone, because transformers computes its schedules from integer steps
and ours are equal to the last bit where both have one (tests/contracts/test_schedules.py).
The golden rows and their controls stand in one table, so that a comparison names both in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from phiforge.core.config import nearest
from phiforge.core.errors import ConfigError
from phiforge.golden import learning_rate as golden

Schedule = Callable[[float], float]
Shape = Callable[..., float]  # (done, planned, **parameters) -> multiplier


def constant(done: float, planned: float) -> float:
    """1 throughout."""
    return 1.0


def linear(done: float, planned: float) -> float:
    """From 1 straight to 0."""
    return max(0.0, float(planned - done) / float(max(1, planned)))


def cosine(done: float, planned: float) -> float:
    """Half a cosine from 1 to 0: (1 + cos(pi p)) / 2. Loshchilov & Hutter 2017 (arXiv 1608.03983)."""
    progress = float(done) / float(max(1, planned))
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def warmup_stable_decay(done: float, planned: float, decay_ratio: float = 0.2) -> float:
    """1, then linear to 0 over the last `decay_ratio` of what is planned. Hu et al. 2024 (arXiv 2404.06395)."""
    decay = max(1, round(planned * decay_ratio)) if planned >= 1 else planned * decay_ratio
    return min(1.0, max(0.0, float(planned - done) / float(decay)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One schedule of the table."""

    shape: Shape
    about: str
    floor: bool = True  # whether `lr_min_ratio` may lift its end
    parameters: tuple[str, ...] = field(default=())
    head: str = "linear"  # its warm-up, where none other than linear is asked for


SCHEDULES: dict[str, Row] = {
    "constant": Row(shape=constant, about="the same rate throughout", floor=False),
    "linear": Row(shape=linear, about="straight down to lr_min_ratio (0 unless set)"),
    "linear_to_zero": Row(shape=linear, about="straight down to zero (arXiv 2502.15938)", floor=False),
    "cosine": Row(shape=cosine, about="half a cosine down to lr_min_ratio"),
    "warmup_stable_decay": Row(
        shape=warmup_stable_decay, about="stable, then straight down over the last lr_decay_ratio", parameters=("decay_ratio",)
    ),
    "phi_decay": Row(shape=golden.phi_decay, about="phi^(-p^power), from 1 to 1/phi", floor=False, parameters=("power",)),
    "phi_cosine": Row(shape=golden.phi_cosine, about="half a cosine times phi^(-p), or cycles that grow by phi", parameters=("cycles",)),
    "phi_cosine_literal": Row(shape=golden.phi_cosine_literal, about="half a cosine from 1/phi, as the document writes it", floor=False),
    "phi_cyclic": Row(shape=golden.phi_cyclic, about="phi^(-position) in cycles that grow by phi", floor=False, parameters=("cycles",)),
    "phi_wsd": Row(shape=golden.phi_wsd, about="stable to 61.8 %, then straight to zero", floor=False),
    "phi_warmup": Row(shape=constant, about="a warm-up of 1 - phi^(-s/w), then constant", floor=False, head="phi"),
}
# Heads: (done, warm-up) -> multiplier, for done < warm-up.
WARMUPS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda done, warmup: float(done) / float(max(1, warmup)),
    "phi": golden.phi_warmup,
    "phi_literal": golden.phi_warmup_literal,
}
# transformers' names for what the table has under another; a warm-up goes before any of ours.
ALIASES = {
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    "linear-to-zero": "linear_to_zero",
    "wsd": "warmup_stable_decay",
}


def canonical(name: str) -> str:
    """The table's name for `name`. Raises ConfigError, naming the nearest one."""
    found = ALIASES.get(name, name)
    if found not in SCHEDULES:
        raise ConfigError(f"lr_scheduler_type={name!r} is not a schedule; {nearest(name, [*SCHEDULES, *ALIASES])}")
    return found


def warmup_length(total: float, *, warmup_steps: int = 0, warmup_ratio: float = 0.0) -> int:
    """Steps of warm-up: `warmup_steps`, or `warmup_ratio` of `total` rounded up, as transformers does; never all of a run."""
    wanted = warmup_steps if warmup_steps > 0 else math.ceil(total * warmup_ratio)
    return min(wanted, max(0, math.ceil(total) - 1))


def schedule(
    name: str, total: float, *, warmup: float = 0, floor: float = 0.0, warmup_type: str = "linear", **parameters: float
) -> Schedule:
    """A function from steps (or tokens) done to the multiplier of the base rate.

    total: what is planned, warm-up included. warmup: how much of it rises from 0, in the way that `warmup_type` (a key of WARMUPS) says.
    floor: the multiplier at the end. parameters: the row's own (decay_ratio, power, cycles).
    Raises ConfigError for an unknown name, or for a parameter that the schedule does not have.

    >>> [round(schedule("linear", 10, warmup=2)(step), 3) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    row = SCHEDULES[canonical(name)]
    if floor and not row.floor:
        raise ConfigError(f"lr_min_ratio={floor} has no meaning for the schedule {name!r}", fix="leave it out, or choose linear or cosine")
    unknown = [key for key in parameters if key not in row.parameters]
    if unknown:
        raise ConfigError(f"the schedule {name!r} has no parameter {unknown[0]!r}")
    if warmup_type not in WARMUPS:
        raise ConfigError(f"warmup_type={warmup_type!r} is not one of {', '.join(WARMUPS)}")
    head = WARMUPS[row.head if warmup_type == "linear" else warmup_type]

    def multiplier(done: float) -> float:
        if done < warmup:
            return head(done, warmup)
        value = row.shape(min(done, total) - warmup, total - warmup, **parameters)
        return floor + (1.0 - floor) * value

    return multiplier


_POINTS = 1 << 16  # a longer run's mean is taken from so many evenly spaced points


def mean_rate(rate: Schedule, total: float) -> float:
    """The mean of a schedule over a run: over each step from 0 to the last, or 65,536 evenly spaced points of a longer run.

    >>> mean_rate(schedule("linear", 4), 4)
    0.625
    """
    steps = max(1, math.ceil(total))
    points = min(steps, _POINTS)
    return math.fsum(rate(i if points == steps else (i + 0.5) * total / points) for i in range(points)) / points


def match_mean_rate(rate: Schedule, reference: Schedule, total: float) -> Schedule:
    """`rate`, multiplied by one number so that its mean over the run is that of `reference`; it may then pass 1.

    A control: with it "a better shape" is told from "more learning rate". Raises ConfigError where a mean is 0.

    >>> flat = match_mean_rate(schedule("constant", 4), schedule("linear", 4), 4)
    >>> flat(0), flat(3)
    (0.625, 0.625)
    """
    own, wanted = mean_rate(rate, total), mean_rate(reference, total)
    if own <= 0 or wanted <= 0:
        raise ConfigError("match_mean_rate: a schedule whose mean is 0 cannot be rescaled", fix="a longer run, or no warm-up")
    factor = wanted / own
    return lambda done: factor * rate(done)
