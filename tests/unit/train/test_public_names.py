"""Every name that docs/api.md lists is there, and its script runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(phiforge(?:\.\w+)+)`", PAGE)))


def found(name: str) -> Any:
    """A module, or what a module holds."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, last = name.rpartition(".")
        return getattr(found(module), last)


def test_the_page_is_read() -> None:
    assert len(NAMES) > 15 and "phiforge.train.phi_trainer.PHITrainer" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_name_is_there(name: str) -> None:
    found(name)


def test_the_golden_names_are_together() -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `phiforge.golden.api`"))
    for name in re.findall(r"`(PHI\w+)`", row):
        assert hasattr(found("phiforge.golden.api"), name)


def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "trainer.train()" in block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    shape = resolve(DecoderSpec(family="llama", width=16, depth=1, heads=2, vocab_size=32, context_length=8))
    ids = torch.randint(0, 32, (24, 8), generator=torch.Generator().manual_seed(0))
    script = script.replace(
        'output_dir="out"', 'output_dir="out", report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False'
    )
    exec(compile(script, "api.md", "exec"), {"model": build(shape, seed=0), "rows": [{"input_ids": row, "labels": row} for row in ids]})
    assert capsys.readouterr().out.splitlines()[-1] == "8 7"
