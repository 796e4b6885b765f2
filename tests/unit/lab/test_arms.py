"""What arms share, what a trial runs, and the controls that arms call for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.errors import ConfigError
from phiforge.lab.arms import arm_recipe, config_of, resolve, settings_to_try, shared_recipe, trial_recipe
from phiforge.lab.controls import add_controls, control_for, mean_batch, mean_learning_rate
from phiforge.lab.experiment import Experiment, load_experiment
from phiforge.recipes.recipe import Recipe

Make = Callable[..., Experiment]
REAL = """
steps:
  - {name: data, stage: data prepare}
  - {name: tokenizer, stage: tokenizer train, parents: {data: data}}
  - name: pretrain
    stage: pretrain
    parents: {data: data, tokenizer: tokenizer}
    config: {max_steps: 200, per_device_train_batch_size: 8, learning_rate: 1.0e-3, lr_scheduler_type: linear}
  - {name: evaluate, stage: evaluate, parents: {data: data, model: pretrain}}
"""


def real(tmp_path: Path, arms: dict[str, Any], **more: Any) -> Experiment:
    """An experiment on pretraining, of which nothing is run."""
    import yaml

    (tmp_path / "real.yaml").write_text(REAL)
    file = tmp_path / "experiment.yaml"
    file.write_text(
        yaml.safe_dump(
            {"recipe": "real.yaml", "baseline": "standard", "arms": {"standard": {}, **arms}, "seeds": 6, **more}, sort_keys=False
        )
    )
    return load_experiment(str(file))


def test_steps_that_no_arm_changes_are_shared(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"fast": {"learning_rate": 0.01}}))
    assert (design.step, design.measure, design.shared) == ("pretrain", "pretrain", ("data", "tokenizer"))
    assert [step["name"] for step in design.recipe["steps"]] == ["data", "tokenizer", "pretrain"], "what is not measured is not run"


def test_a_step_that_an_arm_changes_is_each_trials_own_and_so_is_what_follows(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"words": {"tokenizer.vocab_size": 999}}))
    assert design.shared == ("data",)
    own = trial_recipe(arm_recipe(design, design.arm("words").settings), design, Path("shared"))
    assert [step.name for step in own.steps] == ["tokenizer", "pretrain"]
    assert own.steps[1].parents == {"data": "shared/data", "tokenizer": "tokenizer"}
    assert resolve(real(tmp_path, {"texts": {"data.strip_gutenberg": False}})).shared == ()


def test_a_later_step_may_be_measured(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"fast": {"learning_rate": 0.01}}, measure="evaluate"))
    own = trial_recipe(arm_recipe(design, {}), design, Path("shared"))
    assert [step.name for step in own.steps] == ["pretrain", "evaluate"] and design.shared == ("data", "tokenizer")


def test_the_size_of_an_arms_model_does_not_change_the_tokenizer(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"large": {"size": "3M"}}, base={"size": "1M"}))
    assert design.shared == ("data", "tokenizer")
    shared = shared_recipe(design)
    assert shared is not None and shared.steps[1].config["model_size"] == "1M"


def test_the_budget_is_every_runs_length(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"fast": {"learning_rate": 0.01}}, budget={"tokens": 5000}))
    config = config_of(arm_recipe(design, {}, seed=4, precision="bf16", dropout_seed=9), "pretrain").model_dump()
    assert config["max_tokens"] == 5000 and config["max_steps"] is None
    assert (config["seed"], config["dropout_seed"], config["threads"], config["compile"], config["precision"]) == (4, 9, 1, False, "bf16")
    timed = resolve(real(tmp_path, {"fast": {"learning_rate": 0.01}}, budget={"seconds": 30}))
    assert config_of(arm_recipe(timed, {}), "pretrain").model_dump()["train_seconds"] == 30


def test_what_an_arm_says_of_the_machine_holds(tmp_path: Path) -> None:
    design = resolve(real(tmp_path, {"half": {"precision": "bf16", "threads": 2}}, base={"compile": "auto"}))
    config = config_of(arm_recipe(design, design.arm("half").settings, precision="fp32"), "pretrain").model_dump()
    assert (config["precision"], config["threads"], config["compile"]) == ("bf16", 2, False)


def test_input_that_is_missing_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arm standard: step pretrain: warmup_steps"):
        resolve(real(tmp_path, {"b": {"learning_rate": 0.01}}, base={"warmup_steps": 500}))


def test_settings_to_try_are_every_combination(make_experiment: Make) -> None:
    tune = {"values": {"learning_rate": ["x0.5", "x1", 0.25], "per_device_train_batch_size": ["x0.5", "x2"]}}
    design = resolve(make_experiment(arms={"standard": {}, "b": {"learning_rate": 0.004}}, tune=tune))
    tried = settings_to_try(design, design.arm("b"))
    assert [(one["learning_rate"], one["per_device_train_batch_size"]) for one in tried] == [
        (rate, batch) for rate in (0.002, 0.004, 0.25) for batch in (4, 16)
    ]


# -- controls ---------------------------------------------------------------------------------------------------------


def config(experiment: Experiment, name: str) -> Any:
    design = add_controls(resolve(experiment))
    recipe: Recipe = arm_recipe(design, design.arm(name).settings)
    return config_of(recipe, design.step)


SCHEDULES: dict[str, dict[str, Any]] = {
    "decay": {"lr_scheduler_type": "phi_decay"},
    "decay of a power": {"lr_scheduler_type": "phi_decay", "phi.phi_lr_power": 2.0},
    "cycles": {"lr_scheduler_type": "phi_cyclic", "phi.lr_cycles": 3},
    "another rate too": {"lr_scheduler_type": "phi_decay", "learning_rate": 3e-3},
    "a warm-up": {"warmup_type": "phi", "warmup_ratio": 0.3},
    "a floor": {"lr_min_ratio": 0.2},
    "a rate in phase 2": {"phi.phase2.learning_rate": 5e-4},
    "a growing batch too": {"lr_scheduler_type": "phi_decay", "phi.phi_batch_progression": True},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_control_of_a_schedule_has_its_mean_rate_and_the_baselines_shape(name: str, tmp_path: Path) -> None:
    from phiforge.train.timetables import timetable_of

    experiment = real(tmp_path, {"b": SCHEDULES[name]})
    arm, control, base = (config(experiment, each) for each in ("b", "b=rate", "standard"))
    assert mean_learning_rate(control) == pytest.approx(mean_learning_rate(arm), rel=2e-3)
    plans = [timetable_of(each, base_batch=8, steps=200) for each in (control, base)]
    ratios = [plans[0].learning_rate_at(step) / plans[1].learning_rate_at(step) for step in range(20, 199)]
    assert max(ratios) == pytest.approx(min(ratios)), "one number apart all along"
    changed = {key for key, value in control.model_dump().items() if base.model_dump()[key] != value}
    assert changed <= {"match_mean_rate", "learning_rate", "phi"}


def test_the_control_of_a_growing_batch_takes_as_many_steps(tmp_path: Path) -> None:
    experiment = real(tmp_path, {"b": {"phi.phi_batch_progression": True}}, budget={"tokens": 10**6})
    arm, control = config(experiment, "b"), config(experiment, "b=steps")
    assert control.per_device_train_batch_size == round(mean_batch(arm)) == 11 and not control.phi.phi_batch_progression


def test_arms_that_call_for_the_same_control_share_it(tmp_path: Path) -> None:
    arms = {"rate": {"lr_scheduler_type": "phi_decay"}, "both": {"lr_scheduler_type": "phi_decay", "weight_decay": 0.3}}
    design = add_controls(resolve(real(tmp_path, arms)))
    assert [arm.name for arm in design.arms] == ["standard", "rate", "both", "rate=rate"]
    assert [[control.name for control in control_for(design, design.arm(name))] for name in ("rate", "both")] == [["rate=rate"]] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 2e-3},
        {"weight_decay": 0.3},
        {"per_device_train_batch_size": 16},
        {"lr_scheduler_type": "phi_decay", "match_mean_rate": "linear"},
    ],
    ids=["the rate itself", "no rate", "a constant batch", "matched already"],
)
def test_no_control_where_there_is_nothing_to_control(settings: dict[str, Any], tmp_path: Path) -> None:
    assert len(add_controls(resolve(real(tmp_path, {"b": settings}))).arms) == 2


def test_controls_can_be_declined(tmp_path: Path) -> None:
    assert len(add_controls(resolve(real(tmp_path, {"b": {"lr_scheduler_type": "phi_decay"}}, controls="none"))).arms) == 2


def test_the_controls_of_a_tuned_arm_follow_it(tmp_path: Path) -> None:
    from phiforge.lab.arms import chosen

    design = resolve(real(tmp_path, {"b": {"lr_scheduler_type": "phi_decay"}}))
    tuned = design.with_arms([chosen(design.baseline, {"learning_rate": 4e-3}), chosen(design.arm("b"), {"learning_rate": 2e-3})])
    control = config_of(arm_recipe(tuned, add_controls(tuned).arm("b=rate").settings), "pretrain")
    arm = config_of(arm_recipe(tuned, tuned.arm("b").settings), "pretrain")
    assert mean_learning_rate(control) == pytest.approx(mean_learning_rate(arm), rel=1e-6)  # type: ignore[arg-type]
