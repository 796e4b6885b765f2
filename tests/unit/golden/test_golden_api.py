"""The document's names, fields and defaults."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.golden.api import (
    PHIBatchScheduler,
    PHIDataSampler,
    PHIExtendedConfig,
    PHILearningRateScheduler,
    PHIRegularizationScheduler,
    PHIScheduler,
    PHITrainingConfig,
)
from phiforge.golden.schedules import ALIASES, SCHEDULES, schedule
from phiforge.train.config import TrainConfig
from phiforge.train.timetables import timetable_of

DOCUMENT = {
    "base_learning_rate": 2e-4,
    "lr_schedule_mode": "phi_decay",
    "phi_lr_power": 1.0,
    "base_batch_size": 8,
    "phi_batch_progression": True,
    "max_batch_size": 128,
    "batch_phi_phases": 3,
    "phi_training_phases": True,
    "phase1_focus": "exploration",
    "phase2_focus": "exploitation",
    "base_dropout": 0.1,
    "phi_dropout_schedule": True,
    "base_weight_decay": 0.01,
    "phi_weight_decay_schedule": True,
}
SCHEDULERS: list[Any] = [PHILearningRateScheduler, PHIBatchScheduler, PHIRegularizationScheduler, PHIDataSampler]


def test_fields_and_defaults_are_the_documents() -> None:
    assert asdict(PHITrainingConfig()) == DOCUMENT
    assert [f.name for f in fields(PHITrainingConfig)] == list(DOCUMENT)


@pytest.mark.parametrize("name", [*SCHEDULES, *ALIASES])
def test_any_schedule_of_the_table_is_a_mode(name: str) -> None:
    config = PHITrainingConfig(lr_schedule_mode=name)
    warmup = 0.1 if name == "phi_warmup" else 0.0
    rate = schedule(name, 1 << 20, warmup=warmup * (1 << 20))
    assert [PHILearningRateScheduler(config).at(i / 64) for i in range(65)] == [2e-4 * rate(i * (1 << 14)) for i in range(65)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"base_learning_rate": 0}, "base_learning_rate"),
        ({"base_learning_rate": float("nan")}, "base_learning_rate"),
        ({"lr_schedule_mode": "phi_decy"}, "did you mean 'phi_decay'"),
        ({"phi_lr_power": -1}, "phi_lr_power"),
        ({"base_batch_size": 0}, "base_batch_size"),
        ({"phi_batch_progression": "maybe"}, "phi_batch_progression"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"batch_phi_phases": 0}, "batch_phi_phases"),
        ({"phase1_focus": "explore"}, "phase1_focus"),
        ({"base_dropout": 1.0}, "base_dropout"),
        ({"base_dropout": None}, "base_dropout"),
        ({"phi_dropout_schedule": "sine"}, "phi_dropout_schedule"),
        ({"base_weight_decay": -0.1}, "base_weight_decay"),
    ],
)
def test_values_that_cannot_be_are_one_line(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        PHITrainingConfig(**bad)
    assert "\n" not in str(error.value)


def test_from_a_scripts_arguments() -> None:
    args = Namespace(base_learning_rate=1e-3, phi_lr_power=None, model_name="gpt2", phi_architecture=True, epochs=3)
    assert PHITrainingConfig.from_args(args) == PHITrainingConfig(base_learning_rate=1e-3)
    assert PHITrainingConfig.from_args({"learning_rate": 1e-3, "weight_decay": 0.02}) == PHITrainingConfig(
        base_learning_rate=1e-3, base_weight_decay=0.02
    )
    assert PHITrainingConfig.from_args({"difficulty": "loss"}) == PHIExtendedConfig(difficulty="loss")
    with pytest.raises(ConfigError, match="unknown key 'base_lerning_rate'; did you mean 'base_learning_rate'"):
        PHITrainingConfig.from_args({"base_lerning_rate": 1})
    with pytest.raises(ConfigError, match="given twice"):
        PHITrainingConfig.from_args({"lr": 1e-3, "base_learning_rate": 1e-4})


@pytest.mark.parametrize(
    "config",
    [
        PHITrainingConfig(),
        PHITrainingConfig(phi_dropout_schedule="cyclic", lr_schedule_mode="phi_warmup"),
        PHIExtendedConfig(phase2={"learning_rate": 1e-4}, lr_cycles=3, lr_schedule_mode="phi_cosine", warmup_ratio=0.02),
    ],
)
def test_its_settings_make_the_same_training_config(config: PHITrainingConfig) -> None:
    settings = build(TrainConfig, config.to_settings(), where="settings")
    assert settings.phi == config.phi()
    assert (settings.learning_rate, settings.lr_scheduler_type) == (config.base_learning_rate, config.lr_schedule_mode)
    assert (settings.per_device_train_batch_size, settings.weight_decay) == (config.base_batch_size, config.base_weight_decay)
    assert config.warmup is None or settings.warmup_ratio == config.warmup


def test_schedulers_read_the_plan_that_they_are_bound_to() -> None:
    config = PHITrainingConfig(lr_schedule_mode="phi_wsd", base_learning_rate=1e-3)
    plan = timetable_of(build(TrainConfig, config.to_settings() | {"warmup_ratio": 0.0}, where="x"), base_batch=8, rows=3000)
    rate, batch, regularization, data = (kind(config).bind(plan) for kind in SCHEDULERS)
    for step in range(plan.steps):
        p = plan.progress(step)
        assert rate.at_step(step) == pytest.approx(rate.at(p), rel=1e-9)
        assert regularization.at_step(step) == pytest.approx(regularization.at(p))
        if min(abs(p - border) for border in (0.381966, 0.690983)) > 0.01 and step < plan.steps - 1:
            assert batch.at_step(step) == batch.at(p)
            assert data.at_step(step) == data.at(p)
    assert rate.get_lr(2, 10) == rate.at(0.2)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_scheduler_without_a_run_says_so(kind: Any) -> None:
    assert issubclass(kind, PHIScheduler)
    with pytest.raises(ConfigError, match="is not bound to a run"):
        kind(PHITrainingConfig()).at_step(0)


def test_switches_off_are_constant() -> None:
    off = PHITrainingConfig(
        phi_batch_progression=False, phi_training_phases=False, phi_dropout_schedule=False, phi_weight_decay_schedule=False
    )
    assert PHIBatchScheduler(off).sizes == [8] and PHIBatchScheduler(replace(off, base_batch_size=500)).at(1.0) == 500
    assert PHIRegularizationScheduler(off).at(0.7) == {"dropout": 0.1, "weight_decay": 0.01}
    assert PHIDataSampler(off).at(0.9) == "exploration"


def test_the_sampler_yields_each_row_once_in_either_focus() -> None:
    from phiforge.train.batches import Order

    sampler = PHIDataSampler(PHITrainingConfig(), difficulty=list(range(50)), seed=5)
    assert sorted(sampler) == list(range(50)) == sorted(sampler)
    hard = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != hard
    sampler.set_epoch(1, "exploration")
    order = Order(50, 5)
    assert [(1, row) for row in sampler] == [order[50 + g] for g in range(50)], "exploration is the order of any run"
    with pytest.raises(ConfigError, match="has no difficulties"):
        len(PHIDataSampler(PHITrainingConfig()))


def test_the_documents_names_can_be_had_from_the_room() -> None:
    import phiforge.golden as room

    for name in ("PHI", "INV_PHI", "INV_PHI_SQUARED", "phi_learning_rate", "phi_batch_size", "phi_training_phases", "PHITrainingConfig"):
        assert name in dir(room) and getattr(room, name) is not None
    assert room.PHITrainingConfig is PHITrainingConfig and all(getattr(room, kind.__name__) is kind for kind in SCHEDULERS)
    with pytest.raises(AttributeError, match="has no attribute 'phi'"):
        _ = room.phi


def test_a_config_of_the_room_is_light() -> None:
    code = "import sys, phiforge.train.config; print(sorted({'numpy', 'torch', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
