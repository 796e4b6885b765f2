"""`phiforge plan`: what a recipe would do, and whether it fits, before anything runs."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phiforge.cli.stages import Json, Out, Words, named_by, only_one, recipe_data, split_words
from phiforge.core import console
from phiforge.core.errors import ConfigError, PreflightError

if TYPE_CHECKING:
    from phiforge.recipes.curves import Schedules
    from phiforge.recipes.plan import StepPlan
    from phiforge.recipes.scaling import Scaling
    from phiforge.report.svg import Chart

Picture = Annotated[
    Path | None,
    typer.Option("--svg", metavar="FILE", help="Write the schedules as pictures: FILE.html or FILE.svg.", show_default=False),
]


def plan(words: Words = None, out: Out = None, svg: Picture = None, json: Json = False) -> None:
    """Show what a recipe would do: sizes, tokens, memory, disk, time, schedules. Refuses what won't fit (exit code 3).

    Schedules are drawn as training will follow them: rate, batch, dropout, weight decay, weights of the data, borders of the phases.

    A thyme recipe also gets the table of corpus sizes; against=FOLDER (or --runs FOLDER) names finished runs to fit its law to.

    Example: phiforge plan codette/quickstart pretrain.model.size=10M. Without a recipe: a pretraining from scratch.
    """
    from phiforge.core.config import load_yaml
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.plan import as_data, plan_recipe

    if svg is not None:
        _writable(svg)
    plain, keys = split_words(words)
    against = _folders(keys)
    name = only_one(plain, "the recipe")
    data = recipes.default_recipe("pretrain")
    if name and name.endswith((".yaml", ".yml")):
        whole = load_yaml(Path(name))
        data = recipes.load_recipe(name).model_dump(mode="json") if "steps" in whole else recipe_data(name, "pretrain", data)
    elif name and (named := named_by(name, "pretrain")):
        keys = {**named, **keys}
    elif name:
        data = recipes.load_recipe(name).model_dump(mode="json")
    plans = plan_recipe(recipes.override(data, keys), out or Path("runs"), against=against)
    if json:
        typer.echo(json_module.dumps(as_data(plans), ensure_ascii=False))
    else:
        for step in plans:
            if step.facts:
                title = step.name if step.name == step.stage else f"{step.name} ({step.stage})"
                console.table(title, ["what", "value"], [(what, _plain(value)) for what, value in step.facts.items()], result=True)
                for line in _pictures(step.schedules):
                    typer.echo(line)
                if step.scaling:
                    _show_scaling(step.scaling)
                typer.echo("")
    if svg is not None:
        _write(svg, name or "pretrain", plans)
    refusals = [refusal for step in plans for refusal in step.refusals]
    if refusals:
        raise PreflightError("; ".join(refusals))


def _folders(keys: dict[str, Any]) -> list[Path]:
    """Takes against=FOLDER or runs=FOLDER (or a list of them) out of the keys. Raises ConfigError when both are given."""
    given = [name for name in ("against", "runs") if name in keys]
    if len(given) > 1:
        raise ConfigError("against= and runs= are the same thing", fix="keep one of them")
    value = keys.pop(given[0]) if given else []
    return [Path(str(item)) for item in (value if isinstance(value, list) else [value])]


def _show_scaling(scaling: Scaling) -> None:
    """The table of corpus sizes, and what has to be said of it."""
    from phiforge.recipes.plan import duration
    from phiforge.recipes.scaling import HEAD, cells

    typer.echo("")
    title = f"{scaling.training.epochs:.3g} times through each size of text, as the document's table has them"
    console.table(title, HEAD, cells(scaling, duration), result=True)
    for note in scaling.notes:
        typer.echo(f"- {note}")


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _pictures(schedules: Schedules) -> list[str]:
    """Each curve in block characters. Phases are named under the first one only, their borders go through all."""
    from phiforge.report.blocks import picture

    lines: list[str] = []
    columns = max(24, min(72, console.width() - 12))
    for index, curve in enumerate(schedules.curves):
        ranks = curve.over == "difficulty"
        borders = [] if ranks else [(float(border.tokens), "" if index else border.label) for border in schedules.borders]
        first, last = curve.values[0], curve.values[-1]
        lines += ["", f"{curve.name}: first {first:.3g}, largest {max(curve.values):.3g}, last {last:.3g}"]
        unit = "hardest row" if ranks else "tokens"
        lines += picture(curve.places, curve.values, stairs=curve.stairs, borders=borders, unit=unit, columns=columns)
    if schedules.borders:
        said = [f"{b.label} from step {b.step:,}, {b.tokens:,} tokens" for b in schedules.borders]
        lines += ["", "; ".join(said)]
    return lines


def _writable(file: Path) -> None:
    """Raises ConfigError unless pictures can go there."""
    if file.suffix not in (".svg", ".html"):
        raise ConfigError(f"--svg {file}: its name ends neither in .svg nor in .html", fix=f"--svg {file.stem or 'plan'}.html")
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent}: does not exist", fix="make that folder first")


def _write(file: Path, name: str, plans: list[StepPlan]) -> None:
    """All curves as one file."""
    from phiforge.core import atomic
    from phiforge.report.schedule_page import schedules_html, schedules_svg

    groups = [(step.name, _charts(step.schedules)) for step in plans if step.schedules.curves]
    if not groups:
        raise ConfigError(f"{name}: schedules nothing, so there is no picture to write", fix="a recipe that trains")
    atomic.write_text(file, (schedules_svg if file.suffix == ".svg" else schedules_html)(name, groups))
    console.say(f"wrote {file}", whole=True)


def _charts(schedules: Schedules) -> list[Chart]:
    from phiforge.report.svg import Chart, Series

    charts = []
    for curve in schedules.curves:
        ranks = curve.over == "difficulty"
        title, _, unit = curve.name.partition(" (")
        borders = () if ranks else tuple((float(b.tokens), f"phase {b.phase}") for b in schedules.borders)
        series = Series(curve.name, curve.places, curve.values, stairs=curve.stairs, look=1)
        top = max(curve.values) or 1.0
        label = "difficulty rank, 1 = hardest" if ranks else "tokens"
        charts.append(
            Chart(
                title.capitalize(), unit.removesuffix(")"), (series,), x_label=label, borders=borders, legend=False, span=(0.0, 1.15 * top)
            )
        )
    return charts
