"""From a training config to the plan of its run: the rate's shape and warm-up, and golden's timetable around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phiforge.core.errors import ConfigError
from phiforge.golden.config import PhaseConfig
from phiforge.golden.timetable import PhaseRate, Timetable, timetable_of_rows, timetable_of_steps
from phiforge.train.config import TrainConfig
from phiforge.train.schedules import SCHEDULES, Schedule, canonical, match_mean_rate, schedule, warmup_length


def shape_parameters(config: TrainConfig, name: str) -> dict[str, Any]:
    """What the config sets of a schedule's own parameters."""
    settings = {"decay_ratio": config.lr_decay_ratio, "power": config.phi.phi_lr_power, "cycles": config.phi.lr_cycles}
    return {key: value for key, value in settings.items() if key in SCHEDULES[canonical(name)].parameters and value is not None}


def warmup_of(config: TrainConfig, total: float) -> int:
    """Base batches (steps, while the batch is constant) of warm-up in a run of `total`."""
    return warmup_length(total, warmup_steps=config.warmup_steps, warmup_ratio=config.warmup_ratio)


def rate_of(config: TrainConfig, total: float) -> Schedule:
    """The run's rate over `total` base batches: base batches done -> multiplier of learning_rate."""

    def shaped(name: str) -> Schedule:
        floor = config.lr_min_ratio if SCHEDULES[canonical(name)].floor else 0.0
        parameters = shape_parameters(config, name)
        return schedule(name, total, warmup=warmup_of(config, total), floor=floor, warmup_type=config.warmup_type, **parameters)

    rate = shaped(config.lr_scheduler_type)
    return match_mean_rate(rate, shaped(config.match_mean_rate), total) if config.match_mean_rate else rate


def phase_rate(config: TrainConfig, block: PhaseConfig) -> PhaseRate | None:
    """The shape that a phase's block asks for, over that phase alone; None where it asks for none."""
    if block.lr_scheduler_type is None:
        return None
    name = canonical(block.lr_scheduler_type)
    shape, parameters = SCHEDULES[name].shape, shape_parameters(config, name)
    floor = config.lr_min_ratio if SCHEDULES[name].floor else 0.0
    return lambda done, planned: floor + (1.0 - floor) * shape(done, planned, **parameters)


def timetable_of(
    config: TrainConfig, *, base_batch: int, rows: int | None = None, steps: int | None = None, dropout: float = 0.0
) -> Timetable:
    """The plan of a run over `rows` rows, or of `steps` optimizer steps (one of the two).

    base_batch: rows of an optimizer step to start from, over processes and accumulation. dropout: the model's own. Raises ConfigError.
    """
    blocks = {1: phase_rate(config, config.phi.phase1), 2: phase_rate(config, config.phi.phase2)}
    bases: dict[str, object] = {
        "learning_rate": config.learning_rate,
        "dropout": dropout,
        "weight_decay": config.weight_decay,
        "rate_of": lambda total: rate_of(config, total),
        "phase_rates": {number: rate for number, rate in blocks.items() if rate is not None},
        "warmup_of": lambda total: warmup_of(config, total),
    }
    make: Callable[..., Timetable] = timetable_of_rows if steps is None else timetable_of_steps
    length = {"rows": rows} if steps is None else {"steps": steps}
    if (rows is None) == (steps is None):
        raise ConfigError("a run is planned in rows or in steps", fix="give one of the two")
    return make(config.phi, base_batch=base_batch, **length, **bases)
