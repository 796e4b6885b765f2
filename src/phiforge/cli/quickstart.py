"""`phiforge quickstart`: text in, a model of your own out, in llama.cpp, in minutes."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phiforge.cli.stages import Json, Out, Resume, Words, only_one, split_words
from phiforge.core import console
from phiforge.core.errors import ConfigError

if TYPE_CHECKING:
    from phiforge.core.runs import Run

RECIPE = "codette/quickstart"


def quickstart(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """From text to a model that you can talk to, in one command and a few minutes.

    PATH is a file or folder of text; without one, the sources and documentation that come with Python are read.
    Settings go to the recipe codette/quickstart, for example: phiforge quickstart my-books pretrain.train_seconds=600
    """
    from phiforge.recipes import recipe as recipes
    from phiforge.recipes.runner import run_recipe

    plain, keys = split_words(words)
    path = only_one(plain, "the text")
    if path:
        settings = keys.get("data", {})
        if not isinstance(settings, dict) or "source" in settings:
            raise ConfigError(f"the text is named twice, as {path} and by data=", fix="keep one of them")
        keys["data"] = {**settings, "source": path}
    resolved = recipes.override(recipes.load_recipe(RECIPE).model_dump(mode="json"), keys)
    folder = out or Path("runs") / (f"quickstart-{Path(path).resolve().stem}" if path else "quickstart")
    runs = run_recipe(resolved, folder, resume=resume)
    words_said = _first_words(runs["export"])
    if json:
        summary = {step: {"path": str(run.path), "metrics": run.manifest.metrics} for step, run in runs.items()}
        typer.echo(json_module.dumps({"runs": summary, "first_words": words_said}, ensure_ascii=False))
    _close(runs)


def _first_words(export: Run) -> str:
    """A few words of the exported file, from llama.cpp."""
    from phiforge.backends.open import open_backend
    from phiforge.generate.config import SamplingConfig

    with open_backend(str(export.path)) as model:
        text = model.complete("", SamplingConfig(max_new_tokens=80, temperature=0.7, seed=1))
    console.headline("\nFirst words, from llama.cpp:")
    console.say(text)
    return text


def _close(runs: dict[str, Run]) -> None:
    """What was made, what it is worth, and what to type next."""
    gguf = next((runs["export"].path / name for name in runs["export"].manifest.artefacts if name.endswith(".gguf")), runs["export"].path)
    console.say(f"\nYour model: {gguf}", whole=True)
    console.say(f"Its report: {runs['pretrain'].path / 'report.html'}", whole=True)
    console.say("\nNext:")
    for command, about in (
        (f"phiforge chat {runs['export'].path}", "talk to it (it continues what you type)"),
        (f"phiforge serve {runs['export'].path}", "the same in a web page, with an OpenAI-style API"),
        (f"phiforge export ollama {runs['pretrain'].path}", "take it to Ollama"),
        (f"phiforge quickstart MY-TEXTS pretrain.train_seconds={10 * 60}", "your own text, for longer"),
        ("phiforge plan pretrain.model.size=10M", "what a larger one would take"),
    ):
        console.say(f"  {command:<60} {about}" if console.width() >= 120 else f"  {command}\n      {about}", whole=True)
