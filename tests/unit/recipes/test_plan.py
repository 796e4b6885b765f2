"""A plan counts truly, says how it knows, and refuses what won't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phiforge.core import hardware
from phiforge.core.errors import ConfigError, PreflightError
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.recipes import plan, recipe


def planned(tmp_path: Path, **keys: Any) -> dict[str, plan.StepPlan]:
    resolved = recipe.override(recipe.default_recipe("pretrain"), keys)
    return {step.name: step for step in plan.plan_recipe(resolved, tmp_path)}


def test_a_small_model_is_tried(tmp_path: Path) -> None:
    step = planned(tmp_path, size="300K", max_steps=7)["pretrain"]
    assert step.facts["steps"] == 7 and step.facts["tokens in all"] == 7 * 8 * 256
    count = resolve(DecoderSpec(size="300K", vocab_size=2048)).parameters()
    assert step.facts["parameters, counted"].startswith(f"{count:,} ")
    assert "three steps tried here" in step.facts["speed"] and not step.refusals
    (curve,) = step.curves.values()
    assert max(curve) == pytest.approx(1e-3) and curve[-1] == pytest.approx(0, abs=1e-9)


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_matrix_speed", lambda device: 100.0)
    monkeypatch.setattr(hardware, "free_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(hardware, "free_disk", lambda path: 10**10)
    step = planned(tmp_path, size="codette-medium", max_steps=10)["pretrain"]
    assert "2.68B" in step.facts["parameters, counted"] and "predicted: 50% of the 100 GFLOP/s" in step.facts["speed"]
    assert ["of memory" in refusal or "of disk" in refusal for refusal in step.refusals] == [True, True]


def test_the_verb_leaves_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from phiforge.cli.main import _guarded

    monkeypatch.setattr(plan, "_matrix_speed", lambda device: 100.0)
    monkeypatch.setattr(hardware, "free_memory", lambda: 8 * 10**9)
    assert _guarded(["plan", "size=codette-large", "max_steps=10", "--json"]) == PreflightError.exit_code == 3
    assert capsys.readouterr().out.startswith("[{")


def test_a_text_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        planned(tmp_path, data=str(tmp_path / "none"))


def test_the_shipped_recipes_plan(tmp_path: Path) -> None:
    for name in recipe.recipe_names():
        keys = {"data": str(tmp_path)} if name.endswith("shakespeare") else {}
        steps = plan.plan_recipe(recipe.override(recipe.load_recipe(name).model_dump(mode="json"), keys), tmp_path)
        assert any("time to train" in step.facts for step in steps), name


@pytest.mark.parametrize(("seconds", "said"), [(30, "30 seconds"), (600, "10.0 minutes"), (9000, "2.5 hours"), (10**6, "11.6 days")])
def test_durations(seconds: float, said: str) -> None:
    assert plan.duration(seconds) == said
