"""`phiforge data ...` and `phiforge tokenizer ...`: corpora and tokenizers."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer

from phiforge.cli.stages import OPEN, Json, Out, Resume, Words, next_commands, run_verb

data = typer.Typer(help="Prepare a corpus, or look at one.", no_args_is_help=True)
tokenizer = typer.Typer(help="Train a tokenizer of your own.", no_args_is_help=True)


@data.command("prepare", context_settings=OPEN)
def prepare(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Clean text, drop duplicates, split off unseen documents. Example: phiforge data prepare my-texts

    Known corpora: --gutenberg --wikipedia --arxiv --stackexchange --pg19 --all --pile, with --language en --max-files 100.
    """
    from phiforge.data.catalogue import spelled_out

    run = run_verb("data prepare", spelled_out(words), out, resume, json)
    next_commands(f"phiforge data stats {run.path}", f"phiforge pretrain {run.path}", report=run)


@data.command("stats")
def stats(
    path: Annotated[Path, typer.Argument(help="A data run, or a file or folder of text.")],
    json: Json = False,
) -> None:
    """What is in a corpus: sizes, documents, duplicates, licences, personal data."""
    from phiforge.core import console
    from phiforge.data.stats import describe, rows

    found = describe(path)
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
    else:
        console.table(str(path), ["what", "value"], rows(found), result=True)


@tokenizer.command("train", context_settings=OPEN)
def train(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Learn a byte-level BPE vocabulary from a corpus. Example: phiforge tokenizer train my-texts vocab_size=2048"""
    run = run_verb("tokenizer train", words, out, resume, json)
    text = run.manifest.parents["data"].path
    next_commands(f"phiforge pretrain data={os.path.relpath(text)} tokenizer={run.path}", report=run)
