"""An experiment over a stage that draws its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from phiforge.lab.experiment import Experiment, load_experiment
from phiforge.recipes.registry import STAGES
from tests.unit.lab import fake_training


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stages `gather` and `fake train` in the table, for one test."""
    monkeypatch.setitem(STAGES, "gather", fake_training.GATHER)
    monkeypatch.setitem(STAGES, "fake train", fake_training.TRAIN)
    yield


@pytest.fixture
def experiment_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an experiment of two arms, `good` 0.3 below `standard`, with changes laid over it."""

    def write(**changes: Any) -> Path:
        (tmp_path / "recipe.yaml").write_text(fake_training.RECIPE)
        data: dict[str, Any] = {
            "recipe": "recipe.yaml",
            "baseline": "standard",
            "arms": {"standard": {}, "good": {"effect": -0.3}},
            "seeds": 6,
            "controls": "none",
        }
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(data | changes, sort_keys=False))
        return file

    return write


@pytest.fixture
def make_experiment(experiment_file: Callable[..., Path], fake_stages: None) -> Callable[..., Experiment]:
    """The same, loaded."""
    return lambda **changes: load_experiment(str(experiment_file(**changes)))
