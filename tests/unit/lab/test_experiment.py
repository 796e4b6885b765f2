"""Experiments as people write them, and as people get them wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from phiforge.core.config import to_yaml
from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.lab import experiment as experiments
from phiforge.lab.arms import resolve
from phiforge.lab.controls import add_controls
from phiforge.lab.experiment import Experiment, experiment_names, factor, flat, is_experiment, load_experiment, nested

GOOD: dict[str, Any] = {"recipe": "recipe.yaml", "baseline": "a", "arms": {"a": {}, "b": {"effect": 1.0}}, "seeds": 3}

# What is laid over GOOD (None takes a key away) -> what the line must say.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no recipe": ({"recipe": None}, "recipe is missing"),
    "no baseline": ({"baseline": None}, "baseline is missing"),
    "no arms": ({"arms": None}, "arms is missing"),
    "no seeds": ({"seeds": None}, "seeds is missing"),
    "seeds of nothing": ({"seeds": []}, "seeds"),
    "no seed at all": ({"seeds": 0}, "must be 1 to 1000 seeds, not 0"),
    "minus seeds": ({"seeds": -3}, "not -3"),
    "half a seed": ({"seeds": 2.5}, "seeds"),
    "seeds in words": ({"seeds": "ten"}, "seeds"),
    "seeds that are words": ({"seeds": ["one", "two"]}, "seeds.0"),
    "true as seeds": ({"seeds": True}, "seeds"),
    "a seed twice": ({"seeds": [1, 2, 1]}, "seed 1 is given twice"),
    "a seed below zero": ({"seeds": [-1, 2]}, "a seed is from 0"),
    "a huge seed": ({"seeds": [2**40]}, "a seed is from 0"),
    "too many seeds": ({"seeds": 10**9}, "must be 1 to 1000"),
    "a baseline that is no arm": ({"baseline": "aa"}, "baseline 'aa' is not an arm"),
    "one arm": ({"arms": {"a": {}}}, "arms"),
    "arms in a list": ({"arms": ["a", "b"]}, "arms"),
    "an arm is a word": ({"arms": {"a": {}, "b": "phi_decay"}}, "arms.b"),
    "an arm is a list": ({"arms": {"a": {}, "b": [1]}}, "arms.b"),
    "an arm with a slash": ({"arms": {"a": {}, "../b": {}}}, "arm '../b': a name has"),
    "an arm of dots": ({"arms": {"a": {}, "..": {}}}, "arm '..': a name has"),
    "an arm of nothing": ({"arms": {"a": {}, "": {}}}, "arm '': a name has"),
    "an arm with our sign": ({"arms": {"a": {}, "b=rate": {}}}, "arm 'b=rate': a name has"),
    "an arm that is a number": ({"arms": {"a": {}, 3: {}}}, "arms"),
    "a long arm": ({"arms": {"a": {}, "b" * 80: {}}}, "a name has"),
    "arms that differ in case": ({"arms": {"a": {}, "b": {}, "B": {"effect": 1}}}, "differ in case alone"),
    "an arm's unknown key": ({"arms": {"a": {}, "b": {"about": "x", "setings": {}}}}, "unknown key 'setings' beside about"),
    "an arm's unknown setting": (
        {"arms": {"a": {}, "b": {"lerning_rate": 1}}},
        "arm b: unknown key 'lerning_rate'; did you mean",
    ),
    "an arm's setting of a wrong type": ({"arms": {"a": {}, "b": {"learning_rate": "fast"}}}, "arm b: step train: learning_rate"),
    "an arm's setting that can't be": ({"arms": {"a": {}, "b": {"learning_rate": -1}}}, "arm b: step train: learning_rate"),
    "an arm's unknown schedule": ({"arms": {"a": {}, "b": {"lr_scheduler_type": "phi_decai"}}}, "arm b: step train: lr_scheduler_type"),
    "an arm that changes nothing": ({"arms": {"a": {}, "b": {}}}, "arm b: is the same as a"),
    "an arm that says what holds anyway": ({"arms": {"a": {}, "b": {"effect": 0.0}}}, "arm b: is the same as a"),
    "two arms alike": ({"arms": {"a": {}, "b": {"effect": 1}, "c": {"effect": 1.0}}}, "arm c: is the same as b"),
    "an arm with its own seed": ({"arms": {"a": {}, "b": {"seed": 4}}}, "arm b: sets seed"),
    "a base with a seed": ({"base": {"train.seed": 4}}, "base: sets seed"),
    "a control of nobody": ({"arms": {"a": {}, "b": {"settings": {"effect": 1}, "control_of": "c"}}}, "control_of 'c' is not another arm"),
    "only controls": ({"arms": {"a": {}, "b": {"settings": {"effect": 1}, "control_of": "a"}}}, "every arm but the baseline is a control"),
    "an unknown key": ({"sedes": 3}, "unknown key 'sedes'; did you mean 'seeds'?"),
    "base is a list": ({"base": [1]}, "base"),
    "an unknown key of base": ({"base": {"effekt": 1}}, "base: unknown key 'effekt'"),
    "an unknown recipe": ({"recipe": "nothing/here"}, "no recipe is called 'nothing/here'"),
    "a recipe file that isn't there": ({"recipe": "gone.yaml"}, "gone.yaml"),
    "an unknown step": ({"step": "trane"}, "has no step 'trane'; did you mean 'train'?"),
    "a step measured before it is varied": ({"measure": "words"}, "measure=words: comes before train"),
    "both budgets": ({"budget": {"tokens": 10, "seconds": 5}}, "say tokens or seconds"),
    "a budget of neither": ({"budget": {}}, "say tokens or seconds"),
    "a budget below zero": ({"budget": {"tokens": -1}}, "budget.tokens"),
    "a budget in words": ({"budget": {"tokens": "many"}}, "budget.tokens"),
    "a budget and a length": (
        {"budget": {"tokens": 1000}, "arms": {"a": {}, "b": {"max_steps": 4}}},
        "sets max_steps, and the budget says",
    ),
    "tuning of nothing": ({"tune": {"values": {}}}, "tune.values"),
    "tuning of one value": ({"tune": {"values": {"learning_rate": [0.1]}}}, "has 1 value"),
    "tuning of an unknown key": ({"tune": {"values": {"lerning_rate": ["x1", "x2"]}}}, "lerning_rate"),
    "factors of what is no number": ({"tune": {"values": {"shape": ["x1", "x2"]}}}, "no number to multiply"),
    "tuning beyond what can be": ({"tune": {"values": {"learning_rate": ["x1", "x1e9"]}}}, "arm a: step train: learning_rate"),
    "alpha of one": ({"alpha": 1.0}, "alpha"),
    "alpha of nothing": ({"alpha": 0}, "alpha"),
    "alpha in per cent": ({"alpha": 5}, "alpha"),
    "unknown controls": ({"controls": "some"}, "must be auto or none"),
    "a metric of unknown direction": ({"metric": "charm"}, "which way is better for 'charm' isn't known"),
    "a metric that is a list": ({"metric": ["a", "b"]}, "metric"),
    "an empty metric": ({"metric": ""}, "metric"),
    "until clear in words": ({"until_clear": "soon"}, "until_clear"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, fake_stages: None) -> None:
    from tests.unit.lab.fake_training import RECIPE

    changes, words = MISTAKES[name]
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in (GOOD | changes).items() if value is not None}))
    with pytest.raises(ConfigError) as caught:
        add_controls(resolve(load_experiment(str(file))))
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


TEXTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "only a comment": ("# to do\n", "is empty"),
    "a list": ("- a\n", "a config is a mapping"),
    "bad syntax": ("arms: [\n", "line 2"),
    "an arm twice": ("arms:\n  a: {}\n  a: {effect: 1}\n", "'a' is given twice"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "a python tag": ("arms: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    "an alias of itself": ("arms: &a {b: *a}\n", "within itself"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_broken_file_is_one_line(name: str, tmp_path: Path) -> None:
    text, words = TEXTS[name]
    file = tmp_path / "experiment.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PhiforgeError) as caught:
        load_experiment(str(file))
    assert words in str(caught.value) and caught.value.exit_code == 2


def test_the_ways_to_write_it(make_experiment: Callable[..., Experiment]) -> None:
    arms = {"standard": None, "good-one": {"model.size": "1M", "effect": 2}, "long": {"about": "said", "settings": {"effect": 1}}}
    made = make_experiment(arms=arms, seeds=3, base={"train.sleep": 0})
    assert made.seeds == [1, 2, 3] and made.base == {"train": {"sleep": 0}} and made.lower
    assert made.arms["good-one"].settings == {"model": {"size": "1M"}, "effect": 2}
    assert made.arms["long"].about == "said" and made.arms["standard"].settings == {}


def test_what_is_written_back_is_the_same_experiment(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    made = make_experiment(arms={"standard": {}, "b-c": {"a.b": 1}}, tune={"values": {"learning_rate": ["x1", "x2"]}}, controls=None)
    (tmp_path / "again.yaml").write_text(to_yaml(made))
    assert load_experiment(str(tmp_path / "again.yaml")) == made and made.controls == "none"


def test_keys_of_the_command_line_go_to_the_experiment_or_the_recipe(experiment_file: Callable[..., Path]) -> None:
    file = experiment_file(base={"train.effect": 1, "sleep": 0}, budget={"tokens": 100})
    keys = {"seeds": [4, 5], "budget": {"tokens": 900}, "words": "folder", "train": {"effect": 2}}
    made = load_experiment(str(file), keys)
    assert made.seeds == [4, 5] and made.budget is not None and made.budget.tokens == 900
    assert made.base == {"train": {"effect": 2}, "sleep": 0, "words": "folder"}


@pytest.mark.parametrize(
    ("metric", "lower"), [("eval_loss", True), ("eval_bits_per_byte", True), ("eval_accuracy", False), ("tokens_per_second", False)]
)
def test_the_name_of_a_metric_tells_which_way_is_up(metric: str, lower: bool) -> None:
    assert experiments.lower_is_better(metric) is lower


def test_a_direction_that_is_said_holds(make_experiment: Callable[..., Experiment]) -> None:
    assert not make_experiment(metric="eval_loss", lower_is_better=False).lower


def test_nesting_and_factors() -> None:
    assert nested({"a.b": 1, "a": {"c.d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}
    assert flat({"a": {"b": 1, "c": {"d": 2}}}) == {"a.b": 1, "a.c.d": 2}
    assert [factor(value) for value in ("x2", "x0.5", "x1e-2", "2", 2, "xy", True)] == [2.0, 0.5, 0.01, None, None, None, None]


def test_every_experiment_that_ships_can_be_loaded() -> None:
    assert experiment_names() and all(is_experiment(name) and load_experiment(name).description for name in experiment_names())
    assert is_experiment("some/file.yaml") and not is_experiment("runs/one") and not is_experiment("table.csv")
    with pytest.raises(ConfigError, match="did you mean 'phi/tiny'"):
        load_experiment("phi/tinny")
