"""Fair controls, added by themselves: what an arm's gain would be if it came from more learning rate, or from fewer steps, alone.

`<arm>=rate`: the baseline's own schedule, rescaled so that its mean rate is the arm's. For arms that change the shape of the rate.
`<arm>=tuned`: the baseline with the setting that tuning chose for an arm and not for the baseline: what few tuning seeds drew by luck is no
difference of arms, so a verdict must hold against both (decide.py).
`<arm>=steps`: the baseline with a constant batch as large as the arm's mean one: equal steps, equal tokens. For arms whose batch grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from phiforge.core.config import merge, to_data
from phiforge.golden.timetable import Timetable
from phiforge.lab.arms import ArmPlan, Design, arm_recipe, config_of, trains
from phiforge.lab.experiment import flat, nested
from phiforge.train.config import TrainConfig
from phiforge.train.timetables import timetable_of

_SHAPE = ("lr_scheduler_type", "phi.phi_lr_power", "phi.lr_cycles", "lr_decay_ratio")  # what match_mean_rate knows of
_HEAD = ("warmup_type", "warmup_ratio", "warmup_steps", "lr_min_ratio")
_PHASES = tuple(f"phi.phase{n}.{key}" for n in (1, 2) for key in ("lr_scheduler_type", "learning_rate"))
_BATCHES = ("phi.phi_batch_progression", "phi.phase1.batch_size", "phi.phase2.batch_size", "phi.max_batch_size", "phi.batch_phi_phases")
_NOMINAL_STEPS = 1000  # of a run whose length isn't known in steps: the mean of a schedule hardly depends on it
TUNED = "tuned"
_SAME = 1e-3  # means that differ by less than a thousandth are alike


def add_controls(design: Design) -> Design:
    """The design with the controls that its arms call for; the same design where `controls` is none or no arm trains differently."""
    stage = next(step["stage"] for step in design.recipe["steps"] if step["name"] == design.step)
    if design.experiment.controls == "none" or not trains(stage):
        return design
    base = _config(design, design.baseline)
    arms, seen = list(design.arms), [_plain(design, arm) for arm in design.arms]
    for arm in design.arms:
        if arm.role != "arm":
            continue
        for name, about, settings in _controls_of(arm, _config(design, arm), base, design.baseline):
            control = ArmPlan(
                name=f"{arm.name}={name}",
                role="control",
                about=about,
                control_of=arm.name,
                settings=merge(nested(design.baseline.settings), settings),
            )
            plain = _plain(design, control)
            if plain not in seen:  # arms that ask for the same control share it
                seen.append(plain)
                arms.append(control)
    return design.with_arms(arms) if len(arms) > len(design.arms) else design


def control_for(design: Design, arm: ArmPlan) -> list[ArmPlan]:
    """The controls among the design's arms that an arm is to be read beside: its own, and those that it shares with another arm."""
    own = [other for other in design.arms if other.control_of == arm.name]
    if design.experiment.controls == "none":
        return own
    base, names = _config(design, design.baseline), {other.name for other in own}
    wanted = []
    for name, about, settings in _controls_of(arm, _config(design, arm), base, design.baseline):
        settings = merge(nested(design.baseline.settings), settings)
        wanted.append(_plain(design, ArmPlan(name=name, role="control", about=about, settings=settings)))
    others = [other for other in design.arms if other.role == "control" and other.name not in names]
    return own + [other for other in others if _plain(design, other) in wanted]


def _plain(design: Design, arm: ArmPlan) -> dict[str, Any]:
    return to_data(_config(design, arm))


def _config(design: Design, arm: ArmPlan) -> TrainConfig:
    config = config_of(arm_recipe(design, arm.settings), design.step)
    assert isinstance(config, TrainConfig)
    return config


def _controls_of(arm: ArmPlan, config: TrainConfig, base: TrainConfig, baseline: ArmPlan) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(short name, what it is, settings over the baseline's) of each control that an arm calls for."""
    if arm.tuned and baseline.tuned and arm.tuned != baseline.tuned:
        yield TUNED, f"the baseline with what tuning chose for {arm.name}", nested(arm.tuned)
    changed = _changed(config, base)
    if config.match_mean_rate is None and changed & {*_SHAPE, *_HEAD, *_PHASES}:
        settings = _equal_mean(config, base, changed)
        if settings:
            yield "rate", f"the baseline's schedule with the mean learning rate of {arm.name}", settings
    if changed & set(_BATCHES):
        batch = max(1, round(mean_batch(config) / base.gradient_accumulation_steps))
        if batch != base.per_device_train_batch_size:
            about = f"the baseline with a constant batch as large as the mean one of {arm.name}: equal steps and tokens"
            yield "steps", about, {"per_device_train_batch_size": batch}


def _changed(config: TrainConfig, base: TrainConfig) -> set[str]:
    ours, theirs = flat(to_data(config)), flat(to_data(base))
    return {key for key in ours if ours[key] != theirs.get(key)}


def _equal_mean(config: TrainConfig, base: TrainConfig, changed: set[str]) -> Mapping[str, Any]:
    """Settings that give the baseline's schedule the arm's mean rate; empty where it has it already."""
    wanted, has = mean_learning_rate(config), mean_learning_rate(base)
    if abs(wanted / has - 1) < _SAME:
        return {}
    if changed & {*_HEAD, *_PHASES}:  # more than the schedule's name and parameters: the one number that makes the means equal
        return {"learning_rate": float(f"{base.learning_rate * wanted / has:.6g}")}
    settings: dict[str, Any] = {"match_mean_rate": config.lr_scheduler_type}
    own = flat(to_data(config))
    settings |= {key: own[key] for key in _SHAPE[1:] if key in changed}
    if "learning_rate" in changed:
        settings["learning_rate"] = config.learning_rate
    return nested(settings)


def _timetable(config: TrainConfig) -> Timetable:
    base = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.max_steps is not None:
        return timetable_of(config, base_batch=base, steps=min(config.max_steps, 100_000))
    steps = _NOMINAL_STEPS if not config.warmup_steps else max(_NOMINAL_STEPS, 10 * config.warmup_steps)
    return timetable_of(config, base_batch=base, rows=steps * base)


def mean_learning_rate(config: TrainConfig) -> float:
    """The mean of the rate over the rows of a run."""
    plan = _timetable(config)
    return math.fsum(plan.learning_rate_at(step) * plan.batch(step) for step in range(plan.steps)) / plan.rows


def mean_batch(config: TrainConfig) -> float:
    """Rows in a step, on average."""
    plan = _timetable(config)
    return plan.rows / plan.steps
