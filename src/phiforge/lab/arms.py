"""From an experiment to recipes: which steps all arms share, and what each arm, setting and seed would run.

Every config is built, and so checked, before the first run starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phiforge.core.config import Config, build, merge, nearest, to_data
from phiforge.core.errors import ConfigError, DataError
from phiforge.lab.experiment import Experiment, factor, flat, nested
from phiforge.recipes.recipe import Recipe, load_recipe, override
from phiforge.recipes.registry import get_stage
from phiforge.recipes.runner import check_recipe
from phiforge.train.config import TrainConfig

LENGTHS = ("max_steps", "max_tokens", "num_train_epochs", "train_seconds")
_PINNED: dict[str, Any] = {"threads": 1, "compile": False}  # what `auto` would otherwise settle for each run by itself


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """An arm as it will be run. role: baseline, arm or control. settings: nested overrides, those chosen by tuning included."""

    name: str
    role: str
    about: str = ""
    control_of: str | None = None
    settings: Mapping[str, Any]
    tuned: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Design:
    """An experiment, resolved.

    recipe: its plain data with `base` laid over and cut after `measure`. shared: steps that run once for all arms.
    """

    experiment: Experiment
    recipe: Mapping[str, Any]
    step: str
    measure: str
    arms: tuple[ArmPlan, ...]
    shared: tuple[str, ...]

    def arm(self, name: str) -> ArmPlan:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def baseline(self) -> ArmPlan:
        """The arm that the others are compared with."""
        return self.arm(self.experiment.baseline)

    def with_arms(self, arms: Iterable[ArmPlan]) -> Design:
        """The same with other arms (tuned, controls): their configs are checked, and what is shared stays. Raises ConfigError."""
        design = replace(self, arms=tuple(arms))
        for arm in design.arms:
            _built(design, arm.name, arm.settings)
        return design


def resolve(experiment: Experiment) -> Design:
    """Build and check everything that will run. Raises ConfigError naming the arm, DataError for input that isn't there."""
    data = load_recipe(experiment.recipe).model_dump(mode="json")
    step = experiment.step or _last_training_step(data, experiment.recipe)
    measure = experiment.measure or step
    for name in (step, measure):
        _require_step(data, name, experiment.recipe)
    if [s["name"] for s in data["steps"]].index(measure) < [s["name"] for s in data["steps"]].index(step):
        raise ConfigError(f"measure={measure}: comes before {step}, the step that arms change", fix="measure that step or a later one")
    data = _cut(_overridden(data, experiment.base, step, "base: ").model_dump(mode="json"), measure)
    arms = [
        ArmPlan(
            name=name,
            role="baseline" if name == experiment.baseline else "control" if arm.control_of else "arm",
            about=arm.about,
            control_of=arm.control_of,
            settings=arm.settings,
        )
        for name, arm in experiment.arms.items()
    ]
    arms.sort(key=lambda arm: arm.role != "baseline")  # the baseline first, the others as they were written
    _refuse_reserved("base", experiment.base, experiment)
    for arm in arms:
        _refuse_reserved(f"arm {arm.name}", arm.settings, experiment)
    return _checked(Design(experiment=experiment, recipe=data, step=step, measure=measure, arms=tuple(arms), shared=()))


def _checked(design: Design) -> Design:
    """Every arm and every setting to try, built; what they all share, found."""
    variants = [(arm.name, arm.settings) for arm in design.arms]
    if design.experiment.tune:
        variants += [(arm.name, merge(nested(arm.settings), setting)) for arm in design.arms for setting in settings_to_try(design, arm)]
    recipes = [(name, _built(design, name, settings)) for name, settings in variants]
    _refuse_twins(design, dict(recipes[: len(design.arms)]))
    changed = _changed_steps(design, [recipe for _, recipe in recipes])
    shared = tuple(step["name"] for step in design.recipe["steps"] if step["name"] not in changed)
    return replace(design, shared=shared)


def _last_training_step(data: Mapping[str, Any], recipe: str) -> str:
    training = [step["name"] for step in data["steps"] if trains(step["stage"])]
    if not training:
        raise ConfigError(f"{recipe}: has no step that trains", fix="step=NAME says which step the arms change")
    return str(training[-1])


def trains(stage: str) -> bool:
    """Whether a stage is a training stage."""
    return issubclass(get_stage(stage).config, TrainConfig)


def _require_step(data: Mapping[str, Any], name: str, recipe: str) -> None:
    names = [step["name"] for step in data["steps"]]
    if name not in names:
        raise ConfigError(f"{recipe}: has no step {name!r}; {nearest(name, names)}")


def _cut(data: Mapping[str, Any], last: str) -> dict[str, Any]:
    """The steps that `last` needs, and itself."""
    names = [step["name"] for step in data["steps"]]
    if last not in names:
        raise ConfigError(f"base: a finished run stands for the step {last}, which the arms are to change", fix="leave it out")
    steps = data["steps"][: names.index(last) + 1]
    needed = {last}
    for step in reversed(steps):
        if step["name"] in needed:
            needed |= set(step["parents"].values())
    return {**data, "steps": [step for step in steps if step["name"] in needed]}


def _overridden(data: Mapping[str, Any], keys: Mapping[str, Any], main: str, who: str = "") -> Recipe:
    try:
        return override(data, keys, main=main)
    except ConfigError as error:
        raise ConfigError(f"{who}{error.what.removeprefix('the command line: ')}", fix=error.fix) from None


def _refuse_reserved(who: str, settings: Mapping[str, Any], experiment: Experiment) -> None:
    """Settings that belong to the experiment: an arm that had its own would not be paired, or not be of equal length."""
    names = {key.rpartition(".")[2] for key, value in flat(settings).items() if value is not None}
    if "seed" in names:
        raise ConfigError(f"{who}: sets seed, which the experiment gives", fix="seeds: lists them")
    taken = sorted(names & {*LENGTHS, "epochs"})
    if experiment.budget and taken:
        raise ConfigError(f"{who}: sets {taken[0]}, and the budget says how long every run is", fix="keep one of the two")


def arm_recipe(
    design: Design,
    settings: Mapping[str, Any],
    *,
    seed: int | None = None,
    precision: str | None = None,
    dropout_seed: int | None = None,
    tokens: int | None = None,
) -> Recipe:
    """The whole recipe with an arm's settings, the budget, and what is alike in all runs. tokens: what a budget in seconds came to."""
    recipe = _overridden(design.recipe, settings, design.step).model_dump(mode="json")
    for step in recipe["steps"]:
        config = step["config"]
        if not trains(step["stage"]):
            continue
        if step["name"] == design.step and design.experiment.budget:
            budget = design.experiment.budget
            tokens = budget.tokens or tokens
            config |= {**dict.fromkeys(LENGTHS), "max_tokens": tokens, "train_seconds": None if tokens else budget.seconds}
        if step["name"] in design.shared:
            continue  # made once, as the recipe says
        for key, value in {**_PINNED, **({"precision": precision} if precision else {})}.items():
            if config.get(key, "auto") == "auto":
                config[key] = value
        if seed is not None:
            config["seed"] = seed
        if dropout_seed is not None:
            config["dropout_seed"] = dropout_seed
    return build(Recipe, recipe, where=design.experiment.recipe)


def _built(design: Design, name: str, settings: Mapping[str, Any]) -> Recipe:
    """An arm's recipe with every config checked. Errors name the arm."""
    try:
        recipe = arm_recipe(design, settings)
        check_recipe(recipe)
    except (ConfigError, DataError) as error:
        raise type(error)(f"arm {name}: {error.what}", fix=error.fix) from None
    return recipe


def config_of(recipe: Recipe, name: str) -> Config:
    """The built config of a step."""
    step = next(step for step in recipe.steps if step.name == name)
    return build(recipe.stage_of(step).config, step.config, where=f"step {name}")


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Everything that a recipe's result depends on: parents and resolved configs by step."""
    return {step.name: [step.parents, to_data(config_of(recipe, step.name))] for step in recipe.steps}


def _refuse_twins(design: Design, recipes: Mapping[str, Recipe]) -> None:
    """Two arms that are the same run compare nothing."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for name, recipe in recipes.items():
        plain = _plain(recipe)
        twin = next((other for other, content in seen if content == plain), None)
        if twin:
            raise ConfigError(
                f"arm {name}: is the same as {twin}: its settings change nothing",
                fix="change a setting, or leave it out (two equal runs: dropout_seed=1 makes an A/A arm)",
            )
        seen.append((name, plain))


def _changed_steps(design: Design, recipes: Sequence[Recipe]) -> set[str]:
    """Steps that differ between arms, the varied and the measured one, and all that is made from one of these."""
    plains = [_plain(recipe) for recipe in recipes]
    order = [step["name"] for step in design.recipe["steps"]]
    changed = {design.step, design.measure}
    for step in design.recipe["steps"]:
        name = step["name"]
        if any(plain.get(name) != plains[0].get(name) for plain in plains) or changed & set(step["parents"].values()):
            changed.add(name)
    return {name for name in order if name in changed}


def shared_recipe(design: Design) -> Recipe | None:
    """The steps that run once; None where there are none."""
    recipe = arm_recipe(design, {})
    steps = [step for step in recipe.steps if step.name in design.shared]
    return recipe.model_copy(update={"steps": steps}) if steps else None


def trial_recipe(recipe: Recipe, design: Design, shared: Path) -> Recipe:
    """What one trial runs: the steps that are its own, made from the shared runs."""
    places = {name: str(shared / name) for name in design.shared}
    steps = [
        step.model_copy(update={"parents": {role: places.get(parent, parent) for role, parent in step.parents.items()}})
        for step in recipe.steps
        if step.name not in design.shared
    ]
    return recipe.model_copy(update={"steps": steps})


# -- tuning -----------------------------------------------------------------------------------------------------------


def settings_to_try(design: Design, arm: ArmPlan) -> list[dict[str, Any]]:
    """Every combination of the values to try, factors (`x0.5`) resolved against what the arm has, as nested overrides."""
    tune = design.experiment.tune
    if tune is None:
        return []
    if arm.control_of is not None:
        return []  # a control has its arm's settings; choosing them again would unmatch it
    keys = list(tune.values)
    choices = [[_resolved(design, arm, key, value) for value in tune.values[key]] for key in keys]
    return [nested(dict(zip(keys, values, strict=True))) for values in itertools.product(*choices)]


def _resolved(design: Design, arm: ArmPlan, key: str, value: Any) -> Any:
    times = factor(value)
    if times is None:
        return value
    has = setting_of(design, arm.settings, key)
    if not isinstance(has, int | float) or isinstance(has, bool):
        raise ConfigError(
            f"tune: {key}={value}: arm {arm.name} has {has!r}, which is no number to multiply", fix="give values, not factors"
        )
    product = has * times
    return max(1, round(product)) if isinstance(has, int) else float(f"{product:.6g}")


def setting_of(design: Design, settings: Mapping[str, Any], key: str) -> Any:
    """The value that an arm's varied step has for a (dotted or bare) key. Raises ConfigError for a key it has not."""
    data = to_data(config_of(_overridden(design.recipe, settings, design.step), design.step))
    parts = key.replace("-", "_").split(".")
    parts = parts[1:] if parts[0] == design.step else parts
    for place in (data, *(inner for inner in data.values() if isinstance(inner, dict))):
        value: Any = place
        for part in parts:
            value = value.get(part) if isinstance(value, dict) and part in value else _MISSING
        if value is not _MISSING:
            return value
    raise ConfigError(f"tune: the step {design.step} has no {key!r}; {nearest(parts[-1], data)}")


_MISSING = object()


def chosen(arm: ArmPlan, setting: Mapping[str, Any]) -> ArmPlan:
    """The arm with a tuned setting laid over its own."""
    return replace(arm, settings=merge(nested(arm.settings), setting), tuned=flat(setting))
