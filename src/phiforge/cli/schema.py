"""`phiforge schema`: the JSON schema of any config, for editors and for people who like to read them."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phiforge.core.errors import ConfigError

if TYPE_CHECKING:
    from phiforge.core.config import Config


def schema(
    name: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="A stage such as pretrain, or `recipe` or `experiment`.")] = None,
) -> None:
    """Print the JSON schema of a stage's config, of a recipe or of an experiment. Without a name: the names."""
    from phiforge.core.config import nearest
    from phiforge.lab.experiment import Experiment
    from phiforge.recipes.recipe import Recipe
    from phiforge.recipes.registry import STAGES

    known: dict[str, type[Config]] = {
        "recipe": Recipe,
        "experiment": Experiment,
        **{stage: found.config for stage, found in STAGES.items()},
    }
    if name is None:
        typer.echo("\n".join(known))
        return
    if name not in known:
        raise ConfigError(f"no config is called {name!r}; {nearest(name, known)}")
    document: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **known[name].model_json_schema()}
    typer.echo(json_module.dumps(document, indent=2, ensure_ascii=False))
