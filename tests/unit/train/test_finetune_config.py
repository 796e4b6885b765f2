"""FinetuneConfig: its lengths, its files, and that it is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError
from phiforge.train.finetune_config import FinetuneConfig
from phiforge.train.stages import FINETUNE


@pytest.mark.parametrize(
    ("given", "epochs"), [({}, 3.0), ({"max_steps": 5}, None), ({"train_seconds": 5}, None), ({"num_train_epochs": 1}, 1.0)]
)
def test_three_passes_unless_a_length_is_given(given: dict[str, float], epochs: float | None) -> None:
    config = build(FinetuneConfig, {"data": "x.jsonl", **given}, where="test")
    assert config.num_train_epochs == epochs and config.data == ["x.jsonl"]
    assert FinetuneConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "data is missing"),
        ({"data": []}, "data: list should have at least 1 item"),
        ({"data": "x", "max_steps": 3, "num_train_epochs": 1}, "keep one"),
        ({"data": "x", "validation_fraction": 1}, "validation_fraction: "),
        ({"data": "x", "context_lenght": 4}, "did you mean 'context_length'"),
        ({"data": "x", "chat_template": "alpaca"}, "chat_template: "),
    ],
)
def test_mistakes_are_one_line(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(FinetuneConfig, given, where="test")
    assert "\n" not in str(caught.value)


def test_inputs_are_the_files_of_folders_too(tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("[]")
    config = build(FinetuneConfig, {"data": [str(tmp_path)]}, where="test")
    assert [path.name for path in FINETUNE.inputs(config)] == ["a.jsonl", "b.json"]
    with pytest.raises(DataError, match="no such file"):
        FINETUNE.inputs(build(FinetuneConfig, {"data": str(tmp_path / "none.jsonl")}, where="test"))


def test_the_stage_row_is_light() -> None:
    code = "import sys, phiforge.train.stages; print([m for m in ('torch', 'numpy', 'transformers', 'tokenizers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
