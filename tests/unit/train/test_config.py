"""Values that make no sense are one line with the way out; defaults need no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.train.adapter import require_reporters
from phiforge.train.config import PretrainConfig

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
    ({"learning_rate": 0}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"max_steps": 10, "train_seconds": 5}, "keep one"),
    ({"max_steps": 0}, "max_steps"),
    ({"num_train_epochs": -1}, "num_train_epochs"),
    ({"warmup_steps": 10, "max_steps": 10}, "warm up for less"),
    ({"warmup_ratio": 1.0}, "warmup_ratio"),
    ({"lr_min_ratio": 0.1, "lr_scheduler_type": "constant"}, "leave one"),
    ({"adam_beta2": 1.0}, "adam_beta2"),
    ({"threads": 0}, "auto or at least 1"),
    ({"precision": "fp16"}, "precision"),
    ({"loss": "fast"}, "loss"),
    ({"report_to": "wandbb"}, "report_to"),
    ({"report_to": ["none", "wandb"]}, "leave none out"),
    ({"seed": -1}, "seed"),
    ({"context_length": 2}, "context_length"),
    ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size"),
    ({"learning_rat": 1e-3}, "learning_rate"),
]


@pytest.mark.parametrize("data, says", WRONG, ids=[str(data) for data, _ in WRONG])
def test_wrong_values_are_one_line(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(PretrainConfig, data, where="test")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_reporter_needs_no_list() -> None:
    assert build(PretrainConfig, {"report_to": "tensorboard"}, where="test").report_to == ["tensorboard"]


def test_transformers_names_of_schedules() -> None:
    assert build(PretrainConfig, {"lr_scheduler_type": "constant_with_warmup"}, where="test").lr_scheduler_type == "constant"


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        require_reporters(["wandb"])
    require_reporters(["none"])


def test_the_config_needs_no_torch() -> None:
    code = "import sys, phiforge.train.stages; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
