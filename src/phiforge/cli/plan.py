"""`phiforge plan`: what a recipe would do, and whether it fits, before anything runs."""

from __future__ import annotations

import json as json_module
from pathlib import Path

import typer

from phiforge.cli.stages import Json, Out, Words, named_by, only_one, recipe_data, split_words
from phiforge.core import console
from phiforge.core.errors import PreflightError

_BLOCKS = " ▁▂▃▄▅▆▇█"


def plan(words: Words = None, out: Out = None, json: Json = False) -> None:
    """Show what a recipe would do: sizes, tokens, memory, disk, time, schedules. Refuses what won't fit (exit code 3).

    Example: phiforge plan codette/quickstart pretrain.model.size=10M. Without a recipe: a pretraining from scratch.
    """
    from phiforge.core.config import load_yaml
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.plan import as_data, plan_recipe

    plain, keys = split_words(words)
    name = only_one(plain, "the recipe")
    data = recipes.default_recipe("pretrain")
    if name and name.endswith((".yaml", ".yml")):
        whole = load_yaml(Path(name))
        data = recipes.load_recipe(name).model_dump(mode="json") if "steps" in whole else recipe_data(name, "pretrain", data)
    elif name and (named := named_by(name, "pretrain")):
        keys = {**named, **keys}
    elif name:
        data = recipes.load_recipe(name).model_dump(mode="json")
    plans = plan_recipe(recipes.override(data, keys), out or Path("runs"))
    if json:
        typer.echo(json_module.dumps(as_data(plans), ensure_ascii=False))
    else:
        for step in plans:
            if step.facts:
                title = step.name if step.name == step.stage else f"{step.name} ({step.stage})"
                console.table(title, ["what", "value"], [(what, _plain(value)) for what, value in step.facts.items()], result=True)
                for label, values in step.curves.items():
                    draw(label, values)
                typer.echo("")
    refusals = [refusal for step in plans for refusal in step.refusals]
    if refusals:
        raise PreflightError("; ".join(refusals))


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def draw(label: str, values: list[float], *, rows: int = 6, columns: int = 72) -> None:
    """A curve in block characters: six rows high, its largest and smallest value beside it."""
    picked = [values[round(i * (len(values) - 1) / max(1, columns - 1))] for i in range(columns)]
    top = max(values) or 1.0
    typer.echo(f"{label}: first {values[0]:.3g}, largest {top:.3g}, last {values[-1]:.3g}")
    for row in reversed(range(rows)):
        cells = [_BLOCKS[max(0, min(8, round((value / top * rows - row) * 8)))] for value in picked]
        typer.echo("  " + "".join(cells).rstrip())
