"""The verbs that run one stage, and what they share: words -> recipe, keys, folder -> the runner."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phiforge.core import console
from phiforge.core.errors import ConfigError

if TYPE_CHECKING:
    from phiforge.core.runs import Run

# Unknown options are keys: `--lr 1e-3` means `lr=1e-3`.
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPE|FILE.yaml] [KEY=VALUE]...", help="A recipe or YAML file, then settings.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the run (default: runs/NAME).", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in that folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def split_words(words: Sequence[str] | None) -> tuple[list[str], dict[str, Any]]:
    """Plain words, and the keys: `key=value`, `--key value` and `--key=value` alike. Raises ConfigError."""
    from phiforge.core.config import parse_overrides

    plain: list[str] = []
    pairs: list[str] = []
    rest = list(words or [])
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and "=" not in word:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{word} needs a value", fix=f"{word.lstrip('-')}=VALUE")
            pairs.append(f"{word[2:]}={rest.pop(0)}")
        elif word.startswith("-") and len(word) > 1 and not word.startswith("--"):
            raise ConfigError(f"unknown option {word!r}", fix="settings are written key=value")
        elif "=" in word and not os.path.exists(word):  # noqa: PTH110 - Path's raises on what is too long for a name
            pairs.append(word)
        else:
            plain.append(word)
    return plain, parse_overrides(pairs)


def only_one(plain: list[str], what: str) -> str | None:
    """The single plain word, or None. Raises ConfigError when there are more."""
    if len(plain) > 1:
        raise ConfigError(f"{plain[1]!r} is one word too many: {what} is already {plain[0]!r}", fix="settings are written key=value")
    return plain[0] if plain else None


def run_verb(stage_name: str, words: Sequence[str] | None, out: Path | None, resume: bool, as_json: bool) -> Run:
    """Run one stage (and what it needs first) from a recipe, a YAML file, or its defaults."""
    from phiforge.core.runs import Run
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.runner import run_recipe

    plain, keys = split_words(words)
    name = only_one(plain, "the recipe")
    data = recipes.default_recipe(stage_name)
    if name and Run.can_be("model", name):
        keys = {"model": name, **_data_of(name, data), **keys}
    elif name:
        data = recipe_data(name, stage_name, data)
    main = data["steps"][-1]["name"]
    resolved = recipes.up_to(recipes.override(data, keys, main=main), stage_name)
    folder = out or Path("runs") / (
        f"{Path(name).resolve().name}-{main}" if "model" in keys and name else Path(name).stem if name else main
    )
    runs = run_recipe(resolved, folder, resume=resume, main_in_place=True)
    finished = runs[resolved.steps[-1].name]
    if as_json:
        typer.echo(json.dumps({"path": str(finished.path), **finished.manifest.model_dump(mode="json")}, ensure_ascii=False))
    return finished


def _data_of(model: str, recipe: dict[str, Any]) -> dict[str, str]:
    """The data run that a model was made from, for a verb that needs data and was given none."""
    from phiforge.core.runs import Run

    if not Run.is_run(model) or not any(step["name"] == "data" for step in recipe["steps"]):
        return {}
    parent = Run.open(model).manifest.parents.get("data")
    return {"data": parent.path} if parent and Run.is_run(parent.path) else {}


def recipe_data(name: str, stage_name: str, default: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain data, cut after the stage; a YAML file without `steps` is the stage's own config."""
    from phiforge.core.config import load_yaml, merge
    from phiforge.recipes import recipe as recipes

    if name.endswith((".yaml", ".yml")):
        data = load_yaml(Path(name))
        if "steps" not in data:
            merge(default["steps"][-1].setdefault("config", {}), data)
            return default
    return recipes.up_to(recipes.load_recipe(name), stage_name).model_dump(mode="json")


def pretrain(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Train a model from scratch. Example: phiforge pretrain data=my-texts model.size=3M max_steps=500"""
    run = run_verb("pretrain", words, out, resume, json)
    next_commands(f"phiforge chat {run.path}", f"phiforge export gguf {run.path}", f"open {run.path}/report.html")


def finetune(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Teach a model to chat. Example: phiforge finetune model=runs/pretrain data=chats.jsonl"""
    run = run_verb("finetune", words, out, resume, json)
    next_commands(f"phiforge chat {run.path}", f"phiforge export gguf {run.path}")


def evaluate(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Measure a model on unseen text. Example: phiforge evaluate model=runs/pretrain data=runs/pretrain/data"""
    run_verb("evaluate", words, out, resume, json)


def next_commands(*commands: str) -> None:
    """What a person would type next."""
    if int(os.environ.get("RANK", "0")):
        return  # one process of a launch is enough to say it
    console.say("\nNext:")
    for command in commands:
        console.say(f"  {command}")
