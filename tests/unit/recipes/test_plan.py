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
    (curve,) = step.schedules.curves
    assert max(curve.values) == pytest.approx(1e-3) and curve.values[-1] == pytest.approx(0, abs=1e-9)
    assert curve.steps[-1] == 7 and curve.tokens[-1] == 7 * 8 * 256 and not step.schedules.borders


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
        if name.startswith("thyme/"):  # test_thyme_plan.py
            continue
        keys: dict[str, Any] = {"data": str(tmp_path)} if name.endswith("shakespeare") else {}
        if name == "phi/full":  # its examples are the user's
            (tmp_path / "chats.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
            keys = {"finetune": {"data": str(tmp_path / "chats.jsonl")}}
        steps = plan.plan_recipe(recipe.override(recipe.load_recipe(name).model_dump(mode="json"), keys), tmp_path)
        assert any("time to train" in step.facts for step in steps), name


@pytest.mark.parametrize(("seconds", "said"), [(30, "30 seconds"), (600, "10.0 minutes"), (9000, "2.5 hours"), (10**6, "11.6 days")])
def test_durations(seconds: float, said: str) -> None:
    assert plan.duration(seconds) == said


GOLDEN = {"phi_batch_progression": True, "phi_training_phases": True, "phi_dropout_schedule": True, "phi_weight_decay_schedule": True}
GOLDEN |= {"base_dropout": 0.1}


def golden(tmp_path: Path, **keys: Any) -> plan.StepPlan:
    phi = GOLDEN | keys.pop("phi", {})
    return planned(tmp_path, size="300K", lr_scheduler_type="phi_decay", warmup_ratio=0.0, weight_decay=0.01, phi=phi, **keys)["pretrain"]


def test_every_golden_schedule_is_planned_as_it_will_run(tmp_path: Path) -> None:
    from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED, PHI

    step = golden(tmp_path, max_tokens=1000 * 256)
    curves = {curve.name: curve for curve in step.schedules.curves}
    rate, batch, dropout, decay, data, ranks = curves.values()
    assert list(curves) == [
        "learning rate (phi_decay)",
        "batch (rows in a step)",
        "dropout",
        "weight decay",
        "data weights, hardest row over easiest",
        "data weights by difficulty (1 = uniform)",
    ]
    total = 1000 * 256
    for curve in (rate, dropout, decay):
        assert curve.steps == sorted(set(curve.steps)) and curve.tokens[-1] == total and len(curve.values) > 40
    progress = [tokens / total for tokens in rate.tokens]
    assert rate.values == pytest.approx([1e-3 * PHI**-p for p in progress])
    assert dropout.values == pytest.approx([0.1 * PHI**-p for p in progress])
    assert decay.values == pytest.approx([0.01 * PHI**p for p in progress])
    assert sorted(set(batch.values)) == [8, 12, 20] and batch.values == sorted(batch.values)
    first, second = step.schedules.borders
    assert (first.phase, first.step, first.tokens, first.focus) == (1, 0, 0, "exploration")
    assert second.focus == "exploitation" and second.tokens / total == pytest.approx(INV_PHI_SQUARED, abs=0.01)
    changes = [tokens for tokens, value in zip(data.tokens, data.values, strict=True) if value > 1]
    assert changes[0] == second.tokens and max(data.values) == pytest.approx(PHI, abs=0.02)
    assert sum(ranks.values) / len(ranks.values) == pytest.approx(1) and ranks.places[0] == 0 and INV_PHI < ranks.values[0] < 1
    assert step.facts["steps"] == rate.steps[-1] and step.facts["tokens in all"] == total
    assert step.facts["tokens in a step"] == "2,048 then 3,072 then 5,120"


def test_the_plan_says_what_the_curves_do_not(tmp_path: Path) -> None:
    step = golden(tmp_path, max_steps=40, match_mean_rate="cosine", phi={"base_dropout": None, "sampling": "fibonacci"})
    assert step.facts["dropout"].startswith("0 throughout") and step.facts["mean of the rate"].startswith("that of cosine")
    assert step.facts["steps"] == 40 and "phi.sampling=fibonacci is for fewer than 64 rows" in step.refusals[0]


@pytest.mark.parametrize("length", [{"max_steps": 1}, {"max_steps": 10_000_000}, {"num_train_epochs": 1.0}, {"num_train_epochs": 2.0}])
def test_any_length_is_drawn(tmp_path: Path, length: dict[str, Any]) -> None:
    from phiforge.cli.plan import _pictures

    step = golden(tmp_path, **length)
    lines = _pictures(step.schedules)
    assert all(len(line) <= 100 for line in lines if "phase 1: exploration from" not in line)
    assert sum("┼" in line for line in lines) == len(step.schedules.curves) >= 3


def test_finetuning_is_planned_from_its_conversations(tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text('{"instruction": "Say hello.", "output": "Hello."}\n' * 500)
    model = tmp_path / "borrowed"
    model.mkdir()
    (model / "config.json").write_text('{"attention_dropout": 0.2, "max_position_embeddings": 128}')
    (model / "model.safetensors").write_bytes(b"")

    def finetune(**keys: Any) -> plan.StepPlan:
        resolved = recipe.override(recipe.default_recipe("finetune"), {"model": str(model), **keys}, main="finetune")
        return plan.plan_recipe(resolved, tmp_path)[-1]

    step = finetune(data=str(data), phi_weight_decay_schedule=True, phi_dropout_schedule=True)
    dropout = step.schedules.curves[1]
    assert dropout.name == "dropout" and dropout.values[0] == pytest.approx(0.2) and step.facts["tokens in a row"].startswith("128 or more")
    assert [curve.name.partition(" (")[0] for curve in step.schedules.curves] == ["learning rate", "dropout", "weight decay"]
    assert step.facts["steps (predicted)"] == step.schedules.curves[0].steps[-1] > 1
    with pytest.raises(ConfigError, match="does not exist"):
        finetune(data="no-such.jsonl")


@pytest.mark.parametrize("name", ["plan.svg", "plan.html"])
def test_pictures_in_one_file(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import json
    from xml.dom import minidom

    from phiforge.cli.main import _guarded

    words = ["size=300K", "max_steps=20", "phi.phi_batch_progression=true", "phi.phi_training_phases=true", "--json"]
    assert _guarded(["plan", *words, "--svg", str(tmp_path / name)]) == 0
    said = json.loads(capsys.readouterr().out)[-1]
    text = (tmp_path / name).read_text()
    assert text.count("<svg") - (name == "plan.svg") == len(said["curves"]) == 4
    assert [border["phase"] for border in said["borders"]] == [1, 2] and "phase 2" in text
    if name == "plan.svg":
        assert "var(" not in text and minidom.parseString(text).documentElement.tagName == "svg"
    assert _guarded(["plan", "size=300K", "--svg", str(tmp_path / "plan.png")]) == 2
    assert _guarded(["plan", "size=300K", "--svg", str(tmp_path / "none" / name)]) == 2


def test_other_layouts_are_tried_too_and_say_where_they_run(tmp_path: Path) -> None:
    gpt2 = planned(tmp_path, family="gpt2", size="200K", max_steps=3)["pretrain"]
    assert gpt2.facts["layout"] == "gpt2" and "llama.cpp" in gpt2.facts["runs in"] and "tried here" in gpt2.facts["speed"]
    tapered = planned(tmp_path, size="300K", mlp_taper=True, shape="golden", max_steps=3)["pretrain"]
    assert tapered.facts["runs in"].startswith("phiforge (") and " down to " in tapered.facts["width x layers"]


def test_a_named_size_has_its_own_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_matrix_speed", lambda device: 100.0)
    step = planned(tmp_path, size="gpt2-small", max_steps=3)["pretrain"]
    assert step.facts["parameters, counted"].startswith("124,439,808 ")
