"""An experiment: a recipe, the arms that change it, the seeds that pair them, and the one metric that decides.

description: does the golden decay help?
recipe: codette/tiny-shakespeare
base: {data: my-texts, size: 1M}
baseline: standard
arms:
  standard: {}
  rate: {lr_scheduler_type: phi_decay}
  large: {about: twice the rate, settings: {learning_rate: 2.0e-3}}
seeds: 10
budget: {tokens: 1_000_000}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config, build, load_yaml, merge, nearest, nest, parse_yaml
from phiforge.core.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")  # names a folder, so no slashes; `=` belongs to the controls we add
_FACTOR = re.compile(r"x[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
MAX_SEEDS = 1000
_LONG = {"settings", "about", "control_of"}  # keys of an arm that says more than its settings
# Words in a metric's name that tell which way is up.
_LOWER = ("loss", "bits_per_byte", "perplexity", "seconds", "bytes", "error", "divergence")
_HIGHER = ("accuracy", "reward", "margin", "score", "tokens_per_second", "win_rate", "f1", "bleu", "rouge", "exact_match")


class Arm(Config):
    """One way to do it."""

    about: str = Field(default="", description="what it is, in a line")
    settings: dict[str, Any] = Field(default={}, description="key: value, laid over the recipe as on the command line")
    control_of: str | None = Field(default=None, description="the arm that this one is a control of: shown, not counted in the family")

    @model_validator(mode="before")
    @classmethod
    def _settings_alone(cls, data: Any) -> Any:
        """`{}` and `{key: value}` are the settings themselves."""
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            return data
        if not _LONG & set(data):
            return {"settings": dict(data)}
        strangers = [key for key in data if key not in _LONG]
        if strangers:
            beside = ", ".join(key for key in data if key in _LONG)
            raise ValueError(f"unknown key {strangers[0]!r} beside {beside}; settings go under settings")
        return data

    @field_validator("settings")
    @classmethod
    def _nested(cls, value: dict[str, Any]) -> dict[str, Any]:
        """`a.b: 1` is `a: {b: 1}`."""
        return nested(value)


class Budget(Config):
    """What every run may spend; one of the two."""

    tokens: int | None = Field(default=None, ge=1, description="tokens to train on, whatever the batch")
    seconds: float | None = Field(
        default=None, gt=0, description="seconds of training: an arm's speed, measured once, makes them tokens, the same for all its seeds"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokens is None) == (self.seconds is None):
            raise ValueError("say tokens or seconds, one of them")
        return self


class Tune(Config):
    """Each arm at its best, chosen on seeds that are not measured."""

    values: dict[str, list[Any]] = Field(min_length=1, description="key: values to try; x0.5 is half of what the arm has")
    seeds: int = Field(default=2, ge=1, le=100, description="runs of each setting")

    @field_validator("values")
    @classmethod
    def _something(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, tried in value.items():
            if len(tried) < 2:
                raise ValueError(f"{key} has {len(tried)} value{'s' if len(tried) != 1 else ''}; give two or more to choose from")
        return value


class Experiment(Config):
    """What `phiforge compare` compares."""

    description: str = Field(default="", description="what it is, in a line")
    question: str = Field(default="", description="what is asked")
    prediction: str = Field(default="", description="what is expected, said before the first run")
    recipe: str = Field(min_length=1, description="a recipe's name or FILE.yaml")
    step: str | None = Field(default=None, description="the step that arms change; none = the last that trains")
    measure: str | None = Field(default=None, description="the step whose final metrics count; none = step")
    base: dict[str, Any] = Field(default={}, description="key: value, laid over the recipe for every arm")
    baseline: str = Field(description="the arm that the others are compared with")
    arms: dict[str, Arm] = Field(min_length=2, description="name: settings")
    seeds: list[int] = Field(min_length=1, max_length=MAX_SEEDS, description="paired seeds; a number n = 1 to n")
    metric: str = Field(default="eval_bits_per_byte", min_length=1, description="the one metric that decides: a final metric of the run")
    lower_is_better: bool | None = Field(default=None, description="which way is better; none = told by the metric's name")
    also: list[str] = Field(default=[], description="metrics shown beside it")
    budget: Budget | None = Field(default=None, description="tokens or seconds of every run; none = as the recipe says")
    tune: Tune | None = Field(default=None, description="settings tried for every arm; none = arms as they are")
    controls: str = Field(default="auto", description="auto = fair controls are added by themselves; none")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="family-wise error rate")
    until_clear: bool = Field(default=False, description="add seeds until a sequential test decides")
    max_seeds: int = Field(default=24, ge=2, le=MAX_SEEDS, description="until_clear: most seeds")
    noise_pairs: int = Field(default=0, ge=0, le=100, description="baseline runs repeated with another dropout seed: the noise floor")
    keep_models: bool = Field(default=False, description="keep every run's model, not one for each arm")

    @field_validator("question", "prediction", "description", mode="before")
    @classmethod
    def _yes_and_no(cls, value: Any) -> Any:
        """`prediction: no` is a boolean to YAML, and a word to the person who wrote it."""
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value

    @field_validator("arms", mode="before")
    @classmethod
    def _two_arms(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) < 2:
            raise ValueError("a comparison needs a baseline and at least one other arm")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= MAX_SEEDS:
                raise ValueError(f"must be 1 to {MAX_SEEDS} seeds, not {value}")
            return list(range(1, value + 1))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            twice = next(seed for seed in value if value.count(seed) > 1)
            raise ValueError(f"seed {twice} is given twice; the same run twice is no second pair")
        if any(not 0 <= seed < 2**32 for seed in value):
            raise ValueError("a seed is from 0 to 4294967295")
        return value

    @field_validator("base")
    @classmethod
    def _nested(cls, value: dict[str, Any]) -> dict[str, Any]:
        return nested(value)

    @field_validator("controls", mode="before")
    @classmethod
    def _known_controls(cls, value: Any) -> Any:
        value = "none" if value is None or value is False else value
        if value not in ("auto", "none"):
            raise ValueError(f"must be auto or none, not {value!r}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _check_names(list(self.arms))
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not an arm; {nearest(self.baseline, self.arms)}")
        for name, arm in self.arms.items():
            if arm.control_of is not None and (arm.control_of not in self.arms or arm.control_of == name):
                raise ValueError(f"arm {name}: control_of {arm.control_of!r} is not another arm; {nearest(arm.control_of, self.arms)}")
        if self.arms[self.baseline].control_of is not None:
            raise ValueError(f"the baseline {self.baseline!r} can't be a control")
        if all(arm.control_of is not None for name, arm in self.arms.items() if name != self.baseline):
            raise ValueError("every arm but the baseline is a control; give an arm to decide on")
        if self.lower_is_better is None and self.direction is None:
            raise ValueError(f"which way is better for {self.metric!r} isn't known; say lower_is_better: true or false")
        return self

    @property
    def direction(self) -> bool | None:
        """Whether lower is better; None where neither the config nor the metric's name says."""
        return self.lower_is_better if self.lower_is_better is not None else lower_is_better(self.metric)

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return bool(self.direction)


def lower_is_better(metric: str) -> bool | None:
    """What a metric's name tells; None where it tells nothing.

    >>> lower_is_better("eval_loss"), lower_is_better("eval_accuracy"), lower_is_better("thing")
    (True, False, None)
    """
    if any(word in metric for word in _HIGHER):
        return False
    return True if any(word in metric for word in _LOWER) else None


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"arm {name!r}: a name has letters, digits and . _ + - (it names a folder), at most 60")
        if name.lower() in seen:
            raise ValueError(f"arms {seen[name.lower()]!r} and {name!r} differ in case alone, which some file systems can't tell apart")
        seen[name.lower()] = name


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings, as the command line reads them."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        merge(out, nest(str(key), nested(value) if isinstance(value, Mapping) else value))
    return out


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The other way: nested mappings as dotted keys, for people."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{before}{key}.")
        else:
            out[f"{before}{key}"] = value
    return out


def factor(value: Any) -> float | None:
    """2.0 for `x2`; None for a plain value."""
    return float(value[1:]) if isinstance(value, str) and _FACTOR.fullmatch(value) else None


# -- where experiments come from --------------------------------------------------------------------------------------


def _shipped() -> Any:
    return resources.files("phiforge.lab") / "experiments"


def experiment_names() -> list[str]:
    """The experiments that ship, as `family/name`."""
    root = _shipped()
    if not root.is_dir():
        return []
    return sorted(
        f"{family.name}/{file.name[:-5]}"
        for family in root.iterdir()
        if family.is_dir()
        for file in family.iterdir()
        if file.name.endswith(".yaml")
    )


def is_experiment(word: str) -> bool:
    """Whether a word of the command line names an experiment: a shipped one or a YAML file."""
    return word.endswith((".yaml", ".yml")) or word in experiment_names()


def load_experiment(name: str, keys: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment from FILE.yaml or by its shipped name, with the command line's keys over it.

    A key that is no field of an experiment is meant for the recipe, under `base`. Raises ConfigError.
    """
    if name.endswith((".yaml", ".yml")):
        data = load_yaml(Path(name))
        if not data:
            raise ConfigError(f"{name}: is empty", fix="an experiment has recipe, baseline, arms and seeds")
        data = _near_its_file(data, Path(name))
    else:
        if name not in experiment_names():
            raise ConfigError(f"no experiment is called {name!r}; {nearest(name, experiment_names())}")
        data = parse_yaml((_shipped() / f"{name}.yaml").read_text(encoding="utf-8"), where=name)
    for key, value in (keys or {}).items():
        _lay(data, key, value, name)
    return build(Experiment, data, where=name)


def _lay(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Lay one key of the command line over an experiment's plain data."""
    arms = data.get("arms")
    if key == "arms" and isinstance(value, Mapping) and isinstance(arms, dict):
        for name, settings in value.items():
            long = (
                all(isinstance(one, Mapping) for one in (arms.get(name), settings))
                and _LONG & set(arms[name])
                and not _LONG & set(settings)
            )
            merge(arms, {name: {"settings": settings} if long else settings})
    elif key in Experiment.model_fields:
        merge(data, {key: value})
    else:
        base = data.get("base") or {}
        if not isinstance(base, Mapping):
            raise ConfigError(f"{where}: base: must be a mapping of keys to values")
        data["base"] = merge(nested(base), {key: value})


def _near_its_file(data: dict[str, Any], file: Path) -> dict[str, Any]:
    """A recipe file named beside the experiment is found there, wherever the command is typed."""
    recipe = data.get("recipe")
    if isinstance(recipe, str) and recipe.endswith((".yaml", ".yml")) and (file.parent / recipe).is_file():
        return {**data, "recipe": str(file.parent / recipe)}
    return data
