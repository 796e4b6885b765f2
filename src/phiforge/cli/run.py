"""`phiforge run`: a whole recipe; finished stages are skipped."""

from __future__ import annotations

import json as json_module
from pathlib import Path

import typer

from phiforge.cli.stages import Json, Out, Resume, Words, only_one, split_words
from phiforge.core import console
from phiforge.core.errors import ConfigError


def run(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Run a recipe from end to end. Without a name: list the recipes. Example: phiforge run codette/quickstart data=my-texts"""
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.runner import run_recipe

    plain, keys = split_words(words)
    name = only_one(plain, "the recipe")
    if name is None:
        if keys:
            raise ConfigError("no recipe is named", fix="phiforge run RECIPE key=value; `phiforge run` alone lists them")
        listed = {name: recipes.load_recipe(name).description for name in recipes.recipe_names()}
        if json:
            typer.echo(json_module.dumps(listed, ensure_ascii=False))
        else:
            console.table("recipes", ["name", "what it does"], list(listed.items()), result=True)
        return
    resolved = recipes.override(recipes.load_recipe(name).model_dump(mode="json"), keys)
    folder = out or Path("runs") / Path(name).stem
    finished = run_recipe(resolved, folder, resume=resume)
    if json:
        typer.echo(json_module.dumps({step: {"path": str(made.path), "metrics": made.manifest.metrics} for step, made in finished.items()}))
    else:
        console.table(
            "done",
            ["step", "folder", "seconds"],
            [(step, str(made.path), round(made.manifest.seconds or 0, 1)) for step, made in finished.items()],
        )
