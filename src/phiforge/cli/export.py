"""`phiforge export ...`: out of phiforge, through the gate that holds every file against the model it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phiforge.cli.stages import OPEN, Json, Out, Resume, Words, next_commands, run_verb, split_words
from phiforge.core.errors import ConfigError

if TYPE_CHECKING:
    from phiforge.core.runs import Run

export = typer.Typer(help="Take a model to llama.cpp, Ollama or transformers.", no_args_is_help=True)


@export.command("gguf", context_settings=OPEN)
def gguf(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Write a GGUF file and check it in llama.cpp. Example: phiforge export gguf runs/pretrain outtype=q8_0"""
    run = _export("gguf", words, out, resume, json)
    next_commands(f"phiforge chat {run.path}", f"phiforge serve {run.path}")


@export.command("ollama", context_settings=OPEN)
def ollama(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Write a GGUF file with a Modelfile for Ollama. Example: phiforge export ollama runs/pretrain name=mine"""
    run = _export("ollama", words, out, resume, json)
    name = name_in_ollama(run)
    next_commands(f"cd {run.path}", f"ollama create {name} -f Modelfile", f"ollama run {name}")


@export.command("hf", context_settings=OPEN)
def hf(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Make a model folder with a model card, for transformers. Example: phiforge export hf runs/pretrain"""
    run = _export("hf", words, out, resume, json)
    next_commands(f"python -c \"from transformers import pipeline; print(pipeline('text-generation', '{run.model_dir}')('The'))\"")


def name_in_ollama(run: Run) -> str:
    """The name that the Modelfile's model gets."""
    from phiforge.core.runs import Run
    from phiforge.export.stage import name_of, ollama_name

    parent = run.manifest.parents.get("model")
    return ollama_name(str(run.config.get("name") or (name_of(Run(Path(parent.path), run.manifest)) if parent else run.path.name)))


def _export(to: str, words: Sequence[str] | None, out: Path | None, resume: bool, as_json: bool) -> Run:
    plain, keys = split_words(words)
    if "to" in keys:
        raise ConfigError(f"to={keys['to']}: the verb says it already", fix=f"phiforge export {keys['to']} RUN")
    model = plain[0] if plain else keys.get("model")
    if not model:
        raise ConfigError("no model is named", fix=f"phiforge export {to} RUN")
    folder = out or default_folder(Path(str(model)), to, str(keys.get("outtype", "f16")).lower())
    return run_verb("export", [*(words or []), f"to={to}"], folder, resume, as_json)


def default_folder(model: Path, to: str, outtype: str) -> Path:
    """Beside the model: RUN-gguf, RUN-gguf-q8_0, RUN-ollama, RUN-hf."""
    kind = f"{to}-{outtype}" if to != "hf" and outtype != "f16" else to
    whole = model.resolve()
    folder = whole.parent / f"{whole.name}-{kind}"
    return folder if model.is_absolute() or not folder.is_relative_to(Path.cwd()) else folder.relative_to(Path.cwd())
