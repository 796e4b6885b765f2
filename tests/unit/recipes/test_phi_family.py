"""The family `phi`: what its recipes switch on is what the document's config switches on, and its experiments resolve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.golden.api import PHITrainingConfig
from phiforge.lab.arms import arm_recipe, config_of, resolve
from phiforge.lab.controls import add_controls
from phiforge.lab.experiment import experiment_names, load_experiment
from phiforge.models import sizes
from phiforge.recipes import recipe
from phiforge.train.config import PretrainConfig, TrainConfig


def golden_step(name: str) -> TrainConfig:
    """The last training step of a recipe, built."""
    whole = recipe.load_recipe(name)
    step = [step for step in whole.steps if step.stage in ("pretrain", "finetune")][-1]
    return build(whole.stage_of(step).config, step.config, where=name)  # type: ignore[return-value]


def test_a_family_alone_is_its_tiny() -> None:
    assert recipe.load_recipe("phi") == recipe.load_recipe("phi/tiny")
    with pytest.raises(ConfigError, match="no recipe is called 'codette'"):
        recipe.load_recipe("codette")


@pytest.mark.parametrize("name", sorted(name for name in recipe.recipe_names() if name.startswith("phi/") and name != "phi/plain"))
def test_the_golden_switches_are_the_documents(name: str) -> None:
    ours, document = golden_step(name), PHITrainingConfig()
    dropout = ours.model.dropout if isinstance(ours, PretrainConfig) else ours.phi.base_dropout
    assert ours.phi.model_copy(update={"base_dropout": dropout}) == document.phi()
    assert ours.lr_scheduler_type == document.lr_schedule_mode == "phi_decay"
    assert ours.weight_decay == document.base_weight_decay and dropout == document.base_dropout
    if name in ("phi/tiny", "phi/full"):
        assert ours.per_device_train_batch_size == document.base_batch_size
    if name == "phi/full":
        assert ours.learning_rate == document.base_learning_rate and ours.num_train_epochs == 10


def test_plain_is_tiny_with_every_switch_off() -> None:
    plain, tiny = golden_step("phi/plain"), golden_step("phi/tiny")
    assert not plain.phi.applies
    assert plain == tiny.model_copy(update={"phi": plain.phi, "lr_scheduler_type": "linear"})


def test_tiny_has_a_million_parameters_and_full_those_of_gpt2_small() -> None:
    tiny = golden_step("phi/tiny")
    assert isinstance(tiny, PretrainConfig)
    count = sizes.resolve(tiny.model.model_copy(update={"vocab_size": 2048})).parameters()
    assert 0.9e6 < count < 1.1e6
    full = recipe.load_recipe("phi/full")
    spec = sizes.DecoderSpec(**next(step.config["model"] for step in full.steps if step.name == "pretrain"))
    assert sizes.resolve(spec).parameters() == 124_439_808  # GPT-2 small, counted


BASELINE = {"per_device_train_batch_size": 8, "warmup_ratio": 0.1, "weight_decay": 0.01, "lr_scheduler_type": "linear", "adam_beta2": 0.999}


def resolved(name: str, tmp_path: Path) -> Any:
    text = tmp_path / "chats.jsonl"
    text.write_text('{"prompt": "a", "response": "b"}\n' * 3)
    keys: dict[str, Any] = {"data": str(text)}
    if name == "phi/full":
        model = tmp_path / "gpt2"
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "gpt2"}')
        (model / "model.safetensors").write_bytes(b"")
        keys["model"] = str(model)
    return add_controls(resolve(load_experiment(name, keys)))


@pytest.mark.parametrize("name", ["phi/tiny", "phi/small", "phi/full"])
def test_the_experiments_resolve_and_start_from_the_stated_baseline(name: str, tmp_path: Path) -> None:
    assert name in experiment_names()
    design = resolved(name, tmp_path)
    standard = config_of(arm_recipe(design, design.baseline.settings), design.step)
    assert isinstance(standard, TrainConfig)
    wanted = BASELINE if name != "phi/small" else {**BASELINE, "per_device_train_batch_size": 16}
    assert {key: getattr(standard, key) for key in wanted} == wanted and not standard.phi.applies
    stated = config_of(arm_recipe(design, design.arm("stated").settings), design.step) if name == "phi/tiny" else standard
    assert isinstance(stated, TrainConfig)
    if name != "phi/small":
        assert stated.learning_rate == 2e-4
    document = config_of(arm_recipe(design, design.arm("document").settings), design.step)
    assert isinstance(document, TrainConfig)
    assert document.lr_scheduler_type == "phi_decay"
    assert document.phi.model_copy(update={"base_dropout": 0.1}) == PHITrainingConfig().phi()


def test_every_part_is_tried_alone_and_has_its_control(tmp_path: Path) -> None:
    design = resolved("phi/tiny", tmp_path)
    arms = [arm.name for arm in design.arms if arm.role == "arm"]
    assert arms == ["rate", "rate_cosine", "batch", "phases", "data", "regularisation", "shape", "document", "all"]
    controls = {arm.name for arm in design.arms if arm.role == "control"}
    assert {"stated", "rate=rate", "rate_cosine=rate", "batch=steps"} <= controls
    assert len(design.experiment.seeds) == 12 and design.experiment.prediction and design.experiment.tune
    assert design.shared == ("data", "tokenizer")  # the same text and vocabulary for every arm


def test_the_golden_shape_has_the_baselines_size(tmp_path: Path) -> None:
    design = resolved("phi/tiny", tmp_path)
    counts = []
    for name in ("standard", "shape"):
        config = config_of(arm_recipe(design, design.arm(name).settings), design.step)
        assert isinstance(config, PretrainConfig)
        counts.append(sizes.resolve(config.model.model_copy(update={"vocab_size": 1024})))
    assert counts[0].width / counts[0].depth != counts[1].width / counts[1].depth
    assert abs(counts[1].parameters() / counts[0].parameters() - 1) < 0.05
