"""A recipe: a YAML list of steps, each a stage with its config and the steps it is made from.

description: one line
steps:
  - name: data
    stage: data prepare
    config: {source: my-texts}
  - name: pretrain
    stage: pretrain
    parents: {data: data, tokenizer: tokenizer}     # role: step, or a path to a finished run
    config: {max_steps: 500}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from phiforge.core.config import (
    ALIASES,
    Config,
    build,
    config_type,
    config_types,
    load_yaml,
    merge,
    nearest,
    nest,
    parse_yaml,
    with_aliases,
)
from phiforge.core.errors import ConfigError
from phiforge.core.runs import Run
from phiforge.core.stages import Stage
from phiforge.models.sizes import DecoderSpec
from phiforge.recipes.registry import get_stage

# Steps that others share: a key that a later step has too is not meant for them.
_SHARED_STAGES = ("data prepare", "tokenizer train")


# What the runs of a stage can be to later ones; all other stages make models.
_ROLE_OF = {"data prepare": "data", "tokenizer train": "tokenizer", "recall": "recall", "evaluate": None, "memory": None}


def role_of(stage: str) -> str | None:
    """What a run of `stage` is to later ones: data, tokenizer, recall, model; None where it is nothing to them."""
    return _ROLE_OF.get(stage, "model")


def stands_for(role: str, stage: str) -> bool:
    """Whether a run of `stage` can be a `role`. Roles other than data, tokenizer and recall are models."""
    return role_of(stage) == (role if role in ("data", "tokenizer", "recall") else "model")


class Step(Config):
    """One stage of a recipe."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="name of the step and of its folder")
    stage: str = Field(description="the stage, as the command line calls it")
    parents: dict[str, str] = Field(default={}, description="role -> name of an earlier step, or path of a finished run")
    config: dict[str, Any] = Field(default={}, description="the stage's config; what is left out takes its default")


class Recipe(Config):
    """Steps in order."""

    description: str = Field(default="", description="what it does, in a line")
    steps: list[Step] = Field(min_length=1, description="the stages, in order")

    @model_validator(mode="after")
    def _parents_come_first(self) -> Recipe:
        seen: dict[str, str] = {}
        for step in self.steps:
            stage = get_stage(step.stage)
            if step.name in seen:
                raise ValueError(f"two steps are called {step.name!r}")
            roles = {role.name for role in stage.roles}
            for role, parent in step.parents.items():
                if role not in roles:
                    raise ValueError(f"step {step.name}: {step.stage} has no role {role!r}; {nearest(role, roles)}")
                if parent not in seen and not Run.can_be(role, parent):
                    raise ValueError(f"step {step.name}: its {role} {parent!r} is neither an earlier step nor a run folder")
                if parent in seen and not stands_for(role, seen[parent]):
                    raise ValueError(f"step {step.name}: its {role} {parent!r} is a {seen[parent]} step, which can't be the {role}")
            missing = [role.name for role in stage.roles if role.required and role.name not in step.parents]
            if missing:
                raise ValueError(f"{step.stage} needs a {missing[0]}: give {missing[0]}=RUN")
            seen[step.name] = step.stage
        return self

    def stage_of(self, step: Step) -> Stage:
        """The stage behind a step."""
        return get_stage(step.stage)


def recipe_names() -> list[str]:
    """The recipes that ship, as `family/name`."""
    root = resources.files("phiforge.recipes") / "families"
    return sorted(f"{family.name}/{file.name[:-5]}" for family in root.iterdir() if family.is_dir() for file in family.iterdir())


def load_recipe(name: str) -> Recipe:
    """A recipe from a file (`*.yaml`, `*.yml`) or by its shipped name; a family's name alone is its `tiny`. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")):
        return build(Recipe, load_yaml(Path(name)), where=name)
    if f"{name}/tiny" in recipe_names():
        name = f"{name}/tiny"
    if name not in recipe_names():
        if os.path.exists(name):  # noqa: PTH110 - Path's raises on what is too long for a name
            raise ConfigError(f"{name}: is no recipe (NAME or FILE.yaml)", fix=f"text is given as data={name}")
        raise ConfigError(f"{name}: no such file or folder, and no recipe is called {name!r}; {nearest(name, recipe_names())}")
    text = (resources.files("phiforge.recipes") / "families" / f"{name}.yaml").read_text(encoding="utf-8")
    return build(Recipe, parse_yaml(text, where=name), where=name)


# What makes a required role when a verb is given none: (role, stage that makes it, its config).
_MAKERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("data", "data prepare", {}),
    ("tokenizer", "tokenizer train", {"template": "plain"}),  # a base model continues text; fine-tuning brings the chat template
)


def default_recipe(stage_name: str) -> dict[str, Any]:
    """The steps that a stage verb stands for when no recipe is named: its parents made with their defaults.

    A required role that nothing makes (`model`) is left open; the command line names it.
    """
    wanted = {role.name for role in get_stage(stage_name).roles if role.required}
    steps: list[dict[str, Any]] = []
    for role, maker, config in _MAKERS:
        if role in wanted:
            parents = {"data": "data"} if role == "tokenizer" else {}
            steps.append({"name": role, "stage": maker, "parents": parents, "config": dict(config)})
    parents = {step["name"]: step["name"] for step in steps}
    name = stage_name.split()[0]
    name = f"{name}-run" if name in parents else name
    return {"steps": [*steps, {"name": name, "stage": stage_name, "parents": parents}]}


def up_to(recipe: Recipe, stage_name: str) -> Recipe:
    """The recipe cut after its last step of stage `stage_name`, with only the steps that this one needs."""
    positions = [index for index, step in enumerate(recipe.steps) if step.stage == stage_name]
    if not positions:
        has = ", ".join(step.stage for step in recipe.steps)
        raise ConfigError(f"the recipe has no {stage_name} step (it has {has})", fix="`phiforge run` runs a whole recipe")
    steps = list(recipe.steps[: positions[-1] + 1])
    needed = {steps[-1].name}
    for step in reversed(steps):
        if step.name in needed:
            needed |= set(step.parents.values())
    return recipe.model_copy(update={"steps": [step for step in steps if step.name in needed]})


def override(recipe: Mapping[str, Any], keys: Mapping[str, Any], *, main: str | None = None) -> Recipe:
    """Lay the command line's keys over a recipe's plain data.

    `step.key=v` goes to that step; `step=PATH` takes a finished run in place of the step (or, for a data step, the
    text at PATH); a bare key goes to the step named `main` if it has it, else to every step that has it, where steps
    that prepare data are asked last. Keys of a nested config are found one level down (`size` is `model.size`).
    """
    steps: dict[str, dict[str, Any]] = {}
    for step in recipe["steps"]:
        config = with_aliases(get_stage(step["stage"]).config, step.get("config") or {}, f"step {step['name']}")
        steps[step["name"]] = {**step, "config": config}
    _refuse_twins(keys)
    for key, value in _family_first(keys):
        key = key.replace("-", "_")
        if key in steps and isinstance(value, Mapping):
            for name, inner in _family_first(value):
                _set(steps[key], name, inner)
        elif not isinstance(value, Mapping) and (main is None or not _is_field(steps[main], key)) and key in steps:
            _replace_step(steps, key, value)
        elif (
            isinstance(value, str)
            and main is not None
            and _is_role(steps[main], key)
            and (Run.is_run(value) or not _is_field(steps[main], key))
        ):
            steps[main]["parents"] = {**(steps[main].get("parents") or {}), key: value}
        else:
            for name in _owners(steps, key, main):
                _set(steps[name], key, value)
    _tell_tokenizers_the_size(steps, asked_for="vocab_size" in keys)
    return build(Recipe, {**recipe, "steps": list(steps.values())}, where="the command line")


def _refuse_twins(keys: Mapping[str, Any]) -> None:
    """A setting given under two of its spellings: which one is meant is not for us to guess."""
    spelt: dict[str, str] = {}
    for key, value in keys.items():
        name = ALIASES.get(key, key)
        if name in spelt:
            raise ConfigError(f"the command line: {name} is given twice, as {spelt[name]} and as {key}", fix="keep one of them")
        spelt[name] = key
        if isinstance(value, Mapping):
            _refuse_twins(value)


def _is_field(step: Mapping[str, Any], key: str) -> bool:
    return key in get_stage(step["stage"]).config.model_fields


def _is_role(step: Mapping[str, Any], key: str) -> bool:
    return any(role.name == key for role in get_stage(step["stage"]).roles)


def _tell_tokenizers_the_size(steps: Mapping[str, dict[str, Any]], *, asked_for: bool) -> None:
    """A vocabulary fits its model: a tokenizer step that says nothing of sizes learns the size of the model made from it.

    asked_for: the command line gives a vocab_size without a step's name. It is the model's, and the tokenizer's whatever its step says.
    """
    for step in steps.values():
        model = step.get("config", {}).get("model")
        tokenizer = steps.get((step.get("parents") or {}).get("tokenizer", ""))
        if step["stage"] == "pretrain" and tokenizer and (asked_for or not {"vocab_size", "model_size"} & set(tokenizer["config"])):
            asked = model if isinstance(model, Mapping) else {}
            if not asked.get("vocab_size"):
                tokenizer["config"]["model_size"] = str(asked.get("size") or DecoderSpec.model_fields["size"].default)
            else:
                tokenizer["config"]["vocab_size"] = asked["vocab_size"]


def _replace_step(steps: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    if len(values) == 1 and Run.is_run(str(values[0])):
        for step in steps.values():
            parents = step.get("parents") or {}
            step["parents"] = {role: str(values[0]) if parent == name else parent for role, parent in parents.items()}
        del steps[name]
    elif steps[name]["stage"] == "data prepare":
        steps[name]["config"]["source"] = [str(item) for item in values]
    else:
        raise ConfigError(f"{name}={value}: not a run folder (no run.json)", fix=f"give a finished {steps[name]['stage']} run")


def _owners(steps: dict[str, dict[str, Any]], key: str, main: str | None) -> list[str]:
    having = [name for name, step in steps.items() if _field_path(get_stage(step["stage"]).config, key)]
    if main in having:
        return [main]
    own = [name for name in having if steps[name]["stage"] not in _SHARED_STAGES]
    if not having:
        known = {field for step in steps.values() for field in _fields(get_stage(step["stage"]).config)}
        raise ConfigError(f"the command line: unknown key {key!r}; {nearest(key, known | set(steps))}")
    return own or having


def _fields(config: type[Config]) -> set[str]:
    """The names that a bare key may have: a config's own and those one level down."""
    return set(config.model_fields).union(*(nested.model_fields for _, nested in nested_configs(config)))


def _field_path(config: type[Config], key: str) -> str | None:
    """Dotted place of `key` in a config: its own field, an alias of one, or a field one level down."""
    for name in (key, ALIASES.get(key, key)):
        if name in config.model_fields:
            return name
    for name, nested in nested_configs(config):
        if key in nested.model_fields:
            return f"{name}.{key}"
    return None


def nested_configs(config: type[Config]) -> Iterator[tuple[str, type[Config]]]:
    """Fields of a config that are configs themselves."""
    for name, field in config.model_fields.items():
        for nested in config_types(field.annotation):
            yield name, nested


def _set(step: dict[str, Any], key: str, value: Any) -> None:
    cls = get_stage(step["stage"]).config
    path = _field_path(cls, key.replace("-", "_")) or key
    if "." in path and isinstance(value, Mapping):
        value = dict(value)
    change = nest(path, value)
    for name in change.keys() & cls.model_fields.keys():
        _forget_other_family(cls, name, step["config"], change[name])
    merge(step["config"], change)


def _family_first(keys: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The keys in their order, but a model's family before its shape: whichever way they were typed, the shape is the new family's."""
    return sorted(keys.items(), key=lambda item: item[0] not in ("family", "model.family"))


_OF_ANY_FAMILY = ("family", "vocab_size", "context_length", "dropout")


def _forget_other_family(cls: type[Config], name: str, config: dict[str, Any], change: Any) -> None:
    """Where a model of another kind is asked for, what the recipe says of its own kind's shape has no meaning any more."""
    before, annotation = config.get(name), cls.model_fields[name].annotation
    if not (isinstance(before, dict) and isinstance(change, Mapping) and "family" in change):
        return
    if config_type(annotation, before) is not config_type(annotation, change):
        config[name] = {key: value for key, value in before.items() if key in _OF_ANY_FAMILY}
