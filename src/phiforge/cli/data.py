"""`phiforge data ...` and `phiforge tokenizer ...`: corpora and tokenizers."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated, Any

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
    html: Annotated[
        bool, typer.Option("--html", help="Write a page with pictures: stats.html in the run, or NAME-stats.html here.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the page to this file.", metavar="FILE.html")] = None,
    least_share: Annotated[
        float,
        typer.Option("--least-share", min=0, max=1, help="Warn where a pole of an axiom has less than this share of the lexicon's hits."),
    ] = 0.02,
    sample_mb: Annotated[
        float, typer.Option("--sample-mb", min=0.1, help="Count words in at most so many MB of text, drawn evenly from all of it.")
    ] = 64,
) -> None:
    """What is in a corpus: sizes, duplicates, lengths, vocabulary, languages, axioms by source, licences, personal data."""
    from phiforge.data.stats import measure

    found = measure(path, sample_bytes=int(sample_mb * 1e6), least_share=least_share)
    if html or out is not None:
        _write_page(found, path, out)
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
    else:
        _show(found, path)


def _write_page(found: dict[str, Any], path: Path, out: Path | None) -> None:
    from phiforge.core import console
    from phiforge.report.corpus import render_corpus

    target = out or (path / "stats.html" if (path / "data.json").is_file() else Path(f"{path.resolve().name}-stats.html"))
    console.say(f"page: {render_corpus(found, str(path), target)}", whole=True)


def _show(found: dict[str, Any], path: Path) -> None:
    from phiforge.core import console
    from phiforge.data import stats_tables
    from phiforge.report.blocks import picture

    console.table(str(path), ["what", "value"], stats_tables.rows(found), result=True)
    growth = found["measured"]["vocabulary"]["growth"]
    if len(growth) > 4:
        typer.echo("\nDifferent words over words read")
        typer.echo("\n".join(picture(*zip(*growth, strict=True), unit="words", columns=60)))
    for title, columns, lines in stats_tables.tables(found):
        typer.echo("")
        console.table(title, columns, lines, result=True)
    for line in stats_tables.warnings(found):
        console.warn(line)


@data.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A known corpus (gutenberg, wikipedia, ...) or hub:OWNER/NAME.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.", show_default=False)],
    language: Annotated[list[str] | None, typer.Option("--language", help="Language of a known corpus (default: en).")] = None,
    max_files: Annotated[int | None, typer.Option("--max-files", min=1, help="Fetch at most so many files.")] = None,
    json: Json = False,
) -> None:
    """Download a corpus into a folder, going on where an earlier call stopped. Example: phiforge data fetch gutenberg --out books"""
    from phiforge.data.fetch import fetch as run

    made = run(name, out, language=language, max_files=max_files)
    if json:
        typer.echo(json_module.dumps(made, ensure_ascii=False))
    else:
        next_commands(f"phiforge data prepare {out}")


@tokenizer.command("train", context_settings=OPEN)
def train(words: Words = None, out: Out = None, resume: Resume = False, json: Json = False) -> None:
    """Learn a byte-level BPE vocabulary from a corpus. Example: phiforge tokenizer train my-texts vocab_size=2048"""
    run = run_verb("tokenizer train", words, out, resume, json)
    text = run.manifest.parents["data"].path
    next_commands(f"phiforge pretrain data={os.path.relpath(text)} tokenizer={run.path}", report=run)
