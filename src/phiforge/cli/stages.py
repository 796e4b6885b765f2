"""The verbs that run one stage, and what they share: words -> recipe, keys, folder -> the runner."""

from __future__ import annotations

import json as json_module
import os
import sys
import time
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
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.runner import run_recipe

    plain, keys = split_words(words)
    name = only_one(plain, "the recipe")
    data = recipes.default_recipe(stage_name)
    named = named_by(name, stage_name)
    recipe = None if named else name
    keys = {**named, **keys}
    if recipe:
        data = recipe_data(recipe, stage_name, data)
    elif isinstance(keys.get("model"), str) and "data" not in keys and any(step["name"] == "data" for step in data["steps"]):
        keys["data"] = _data_of(keys["model"])
    main = data["steps"][-1]["name"]
    resolved = recipes.up_to(recipes.override(data, keys, main=main), stage_name)
    folder = out or Path("runs") / (
        Path(recipe).stem if recipe else f"{Path(keys['model']).resolve().name}-{main}" if isinstance(keys.get("model"), str) else main
    )
    runs = run_recipe(resolved, folder, resume=resume, main_in_place=True)
    finished = runs[resolved.steps[-1].name]
    if as_json:
        typer.echo(json_module.dumps({"path": str(finished.path), **finished.manifest.model_dump(mode="json")}, ensure_ascii=False))
    return finished


def named_by(name: str | None, stage_name: str) -> dict[str, str]:
    """What a plain word that is no recipe stands for: a run in its role, or text to read. Raises ConfigError where it is neither."""
    from phiforge.core.runs import Run
    from phiforge.recipes.recipe import recipe_names, role_of
    from phiforge.recipes.registry import get_stage

    if name is None or name.endswith((".yaml", ".yml")) or name in recipe_names():
        return {}
    roles = {role.name for role in get_stage(stage_name).roles if role.required}
    if Run.can_be("model", name):
        stage = Run.open(name).manifest.stage if Run.is_run(name) else None
        if not roles:
            raise ConfigError(f"{name}: is a {stage or 'model'} run, and {stage_name} reads text", fix="give a file or folder of text")
        own = role_of(stage) if stage else None
        return {own if own in roles else "model": name}
    exists = os.path.exists(name)  # noqa: PTH110 - Path's raises on what is too long for a name
    if "model" in roles:
        inside = Run.inside(name, with_model=True)
        what, fix = "is no run and no model folder" if exists else "does not exist", "`phiforge runs list` shows the runs there are"
        raise ConfigError(f"{name}: {what}", fix=f"it holds {', '.join(inside)}" if inside else fix)
    return {"data": name} if exists else {}


def _data_of(model: str) -> str:
    """The data run behind a model, for a verb that needs data and was given none. Raises ConfigError where it isn't known."""
    from phiforge.core.runs import Run

    step = model
    while Run.is_run(step):
        parents = Run.open(step).manifest.parents
        if "data" in parents and Run.is_run(parents["data"].path):
            return parents["data"].path
        if "model" not in parents:
            break
        step = parents["model"].path
    raise ConfigError(
        f"{model}: what text it was made from isn't known, and none is given", fix="data=TEXT, or data=RUN of `phiforge data prepare`"
    )


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
    """Train a model from scratch. Example: phiforge pretrain my-texts size=3M max_steps=500"""
    run = run_verb("pretrain", words, out, resume, json)
    stays = (run.config.get("model") or {}).get("family") == "thyme"  # llama.cpp doesn't know it
    out_of_here = () if stays else (f"phiforge export gguf {run.path}",)
    next_commands(f"phiforge chat {run.path}", f"phiforge evaluate {run.path}", *out_of_here, report=run)


def finetune(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Teach a model to chat. Example: phiforge finetune runs/pretrain data=chats.jsonl"""
    run = run_verb("finetune", words, out, resume, json)
    next_commands(f"phiforge chat {run.path}", f"phiforge export gguf {run.path}", report=run)


def evaluate(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Measure a model on unseen text: what was held out from it, or data=TEXT. Example: phiforge evaluate runs/pretrain"""
    began = time.time()
    run = run_verb("evaluate", words, out, resume, json)
    if not json:
        done_before = (run.path / "run.json").stat().st_mtime < began
        if done_before or not sys.stdout.isatty():  # else the stage has just shown it on the same terminal
            _show_scores(run, summary=done_before)
        next_commands(report=run)


def _show_scores(run: Run, *, summary: bool) -> None:
    """The figures of an evaluation on stdout."""
    from phiforge.evaluate.config import EVALUATION, scores_of

    found = json_module.loads((run.path / EVALUATION).read_text(encoding="utf-8"))
    console.table("", ["", "bits/byte", "standard error", ""], scores_of(found), result=True)
    if summary:
        typer.echo(found["sentence"])


def next_commands(*commands: str, report: Run | None = None) -> None:
    """Where a run's report is, and what a person would type next."""
    if int(os.environ.get("RANK", "0")):
        return  # one process of a launch is enough to say it
    if report and (report.path / "report.html").is_file():
        console.say(f"\nReport: {report.path / 'report.html'}", whole=True)
    if commands:
        console.say("\nNext:")
    for command in commands:
        console.say(f"  {command}", whole=True)
