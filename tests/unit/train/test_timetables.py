"""From a training config to the plan of its run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.train.config import TrainConfig
from phiforge.train.schedules import SCHEDULES, schedule, warmup_length
from phiforge.train.timetables import timetable_of

G = (1 + 5**0.5) / 2


def config_of(**settings: Any) -> TrainConfig:
    return build(TrainConfig, settings, where="test")


@pytest.mark.parametrize("name", ["cosine", "linear", "warmup_stable_decay", "constant"])
def test_with_every_switch_off_it_is_the_step_schedule_to_the_last_bit(name: str) -> None:
    config = config_of(lr_scheduler_type=name, lr_decay_ratio=0.3)
    plan = timetable_of(config, base_batch=6, steps=317)
    own = {"decay_ratio": 0.3} if name == "warmup_stable_decay" else {}
    stock = schedule(name, 317, warmup=warmup_length(317, warmup_ratio=config.warmup_ratio), **own)  # type: ignore[arg-type]
    assert [plan.rate_at(step) for step in range(317)] == [stock(step) for step in range(317)]
    assert (plan.learning_rate, plan.weight_decay, plan.rows) == (config.learning_rate, config.weight_decay, 317 * 6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("growing", [False, True])
def test_the_control_has_the_mean_rate_of_the_schedule_over_the_tokens(name: str, growing: bool) -> None:
    phi = {"phi_batch_progression": growing, "phi_lr_power": 2.0}
    wanted, control = (
        timetable_of(config_of(phi=phi, warmup_ratio=0.1, **rates), base_batch=8, rows=24_000)
        for rates in ({"lr_scheduler_type": name}, {"lr_scheduler_type": "constant", "match_mean_rate": name})
    )

    def mean(plan: Any) -> float:
        return math.fsum(plan.rate_at(step) * plan.batch(step) for step in range(plan.steps)) / plan.rows

    assert mean(control) == pytest.approx(mean(wanted), rel=2e-3 if growing else 1e-9)
    assert control.rate_at(control.steps - 1) == control.rate_at(control.steps // 2), "the shape is its own"


def test_parameters_floors_and_heads_reach_the_rate() -> None:
    config = config_of(lr_scheduler_type="phi_cosine", lr_min_ratio=0.2, warmup_steps=10, warmup_type="phi", phi={"lr_cycles": 3})
    plan = timetable_of(config, base_batch=1, steps=110)
    assert plan.rate_at(5) == pytest.approx((1 - G**-0.5) / (1 - 1 / G))
    assert plan.rate_at(10) == 1.0
    second = 1 / (1 + G + G * G)  # where the second cycle begins
    assert plan.rate_at(10 + math.ceil(100 * second)) == pytest.approx(0.2 + 0.8 / G, rel=2e-3)
    power = timetable_of(config_of(lr_scheduler_type="phi_decay", warmup_ratio=0.0, phi={"phi_lr_power": 3}), base_batch=1, steps=100)
    assert power.rate_at(50) == pytest.approx(G**-0.125)


def test_a_phases_block_has_its_own_schedule_after_the_warm_up() -> None:
    phi = {"phase2": {"lr_scheduler_type": "linear", "learning_rate": 5e-4}}
    plan = timetable_of(config_of(learning_rate=1e-3, lr_scheduler_type="constant", lr_min_ratio=0.0, phi=phi), base_batch=2, steps=100)
    border = plan.segments[1].first_step
    assert plan.learning_rate_at(border - 1) == 1e-3
    assert [plan.learning_rate_at(step) for step in (border, 99)] == pytest.approx([5e-4, 5e-4 / (100 - border)])


@pytest.mark.parametrize("lengths", [{}, {"rows": 5, "steps": 5}])
def test_a_run_is_planned_in_rows_or_in_steps(lengths: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="in rows or in steps"):
        timetable_of(config_of(), base_batch=1, **lengths)


def test_names_of_schedules_are_checked_wherever_they_stand() -> None:
    for settings in ({"lr_scheduler_type": "cosin"}, {"match_mean_rate": "cosin"}, {"phi": {"phase1": {"lr_scheduler_type": "cosin"}}}):
        with pytest.raises(ConfigError, match="'cosin' is not a schedule; did you mean 'cosine'"):
            config_of(**settings)


def test_the_rooms_table_and_the_aliases_of_the_document() -> None:
    config = config_of(base_learning_rate=2e-4, base_weight_decay=0.01, base_batch_size=8, lr_schedule_mode="phi_decay")
    assert (config.learning_rate, config.weight_decay, config.per_device_train_batch_size) == (2e-4, 0.01, 8)
    assert config.lr_scheduler_type == "phi_decay" and not config.phi.applies
