"""Stage "data prepare": texts in, a training and a validation set out, with a report of everything that was left out.

documents/train.jsonl.zst, documents/validation.jsonl.zst    one {"id", "text", "source"} a line
data.json                                                    the report
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phiforge.core.atomic import atomic_dir, write_json
from phiforge.core.errors import DataError
from phiforge.core.hardware import preflight_disk
from phiforge.data import split
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document, DocumentFile, writing_documents
from phiforge.data.survey import Survey

if TYPE_CHECKING:
    from phiforge.core.runs import Run, RunWriter

Split = Literal["train", "validation"]
Router = Callable[[Document], Iterator[tuple[Split, Document]]]
_STAGING = ".all.jsonl.zst"


def read_split(run_dir: Path, split: Split) -> DocumentFile:
    """The documents of one side of a data run: iterate as often as you like, one document in memory at a time."""
    path = Path(run_dir) / "documents" / f"{split}.jsonl.zst"
    if not path.is_file():
        raise DataError(f"{run_dir}: no {split} documents in it", fix="give a run made by `phiforge data prepare`")
    return DocumentFile(path)


def run(config: DataPrepareConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """The stage. Metrics: documents, bytes, characters of both sides."""
    if config.source == ["python"]:
        run.log("reading what comes with Python, as no text is given (data=PATH takes yours)")
    with atomic_dir(run.path / "documents") as folder:
        report = prepare(config, folder, say=run.log)
    write_json(run.path / "data.json", report)
    for line in summary(report):
        run.log(line)
    return {
        f"{side}_{what}": report["split"][side][what] for side in ("train", "validation") for what in ("documents", "bytes", "characters")
    }


def prepare(config: DataPrepareConfig, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write both document files into `folder`; returns the report. Raises DataError, PreflightError."""
    survey = Survey(config)
    staging = folder / _STAGING
    items: list[tuple[str, int]] = []
    with writing_documents(staging, level=1) as writer:
        for document in survey.documents():
            if len(items) % 1024 == 0:
                preflight_disk(folder, 4 * len(document.text) + 1_000_000)
            writer.write(document)
            items.append((document.id, len(document.text)))
    _enough(survey)
    documents = DocumentFile(staging)
    route, how = _plan(config, survey, items, documents, say)
    sides = _write(folder, documents, route)
    staging.unlink()
    report = survey.report()
    return {
        "version": 1,
        "sha256": hashlib.sha256((sides["train"]["sha256"] + sides["validation"]["sha256"]).encode()).hexdigest(),
        **report,
        "split": {**how, "asked_fraction": config.validation_fraction, "seed": config.seed, **_shares(sides)},
    }


def summary(report: dict[str, Any]) -> list[str]:
    """What a person should see of the report, a line each."""
    sides = [(name, report["split"][side]) for name, side in (("to train on", "train"), ("held out", "validation"))]
    lines = ["; ".join(f"{name}: {side['documents']:,} documents, {side['bytes']:,} bytes" for name, side in sides)]
    if report["dropped"]:
        lines.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items()))
    for title, key in (("licence hints", "licences"), ("personal data", "personal_data")):
        if report[key]:
            found = ", ".join(f"{name} in {flag['documents']:,}" for name, flag in report[key].items())
            lines.append(f"{title} (documents; nothing was removed, data.json says where): {found}")
    return lines


def _enough(survey: Survey) -> None:
    if survey.bytes < survey.config.min_bytes:
        raise DataError(
            f"{', '.join(survey.config.source)}: too little text: {survey.bytes:,} bytes, {survey.config.min_bytes:,} are needed",
            fix="add text (100 kB is a start, 1 MB and more is better)",
        )


def _shares(sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    whole = sum(side["characters"] for side in sides.values())
    if not sides["train"]["documents"] or not sides["validation"]["documents"]:
        raise DataError("one side of the split came out empty", fix="add text, or choose another validation_fraction")
    return {"got_fraction": round(sides["validation"]["characters"] / whole, 6), **sides}


def _plan(
    config: DataPrepareConfig, survey: Survey, items: list[tuple[str, int]], documents: DocumentFile, say: Callable[[str], None]
) -> tuple[Router, dict[str, Any]]:
    """How documents go to the two sides, and what the report says about it."""
    if config.split == "tail":
        border = split.tail_border(survey.characters, config.validation_fraction)
        return _tail(border), {"method": "tail", "why": "asked for"}
    if config.split == "chunks":
        return _plan_chunks(config, documents, say)
    held = split.hold_out(items, config.validation_fraction, config.seed)
    if held is not None:
        return _by_document(held), {"method": "document", "why": "whole documents are held out"}
    size = split.block_size(survey.characters, config.validation_fraction)
    blocks = [(_block_name(d.text[a:b]), b - a) for d in documents for a, b in split.cut_blocks(d.text, size)]
    held = split.hold_out(blocks, config.validation_fraction, config.seed)
    count = f"{len(items)} document{'s' if len(items) > 1 else ''}"
    if held is None:
        raise DataError(f"{count} can't be split into a training and a validation part", fix="add text that does not repeat itself")
    why = f"{count} can't be held out whole and give a share of {config.validation_fraction:g}, so chapters and blocks of text are held out"
    say(f"validation: {why}")
    return _by_block(held, size), {"method": "block", "why": why, "block_characters": size}


def _plan_chunks(config: DataPrepareConfig, documents: DocumentFile, say: Callable[[str], None]) -> tuple[Router, dict[str, Any]]:
    size = config.chunk_characters
    count = sum(len(split.cut_chunks(document.text, size)) for document in documents)
    held = split.hold_out_chunks(count, config.validation_fraction, config.seed)
    chunks = {"chunks": count, "held_out_chunks": int(held.sum()), "chunk_characters": size}
    why = "asked for: text beside the held-out chunks is trained on, so this does not say what a model does on unseen documents"
    say(f"validation: {chunks['held_out_chunks']:,} of {count:,} chunks of about {size} characters ({why})")
    return _by_chunk(held, size), {"method": "chunks", "why": why, **chunks}


def _by_chunk(held: np.ndarray, size: int) -> Router:
    """The chunks of each side, in order, are one document of that side."""
    at = 0

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        nonlocal at
        chunks = split.cut_chunks(document.text, size)
        mine = held[at : at + len(chunks)]
        at += len(chunks)
        sides: tuple[tuple[Split, bool], ...] = (("train", False), ("validation", True))
        for side, wanted in sides:
            text = "".join(document.text[a:b] for (a, b), out in zip(chunks, mine, strict=True) if out == wanted)
            if text:
                yield side, Document.of(text, f"{document.source}#chunks")

    return route


def _by_document(held: set[str]) -> Router:
    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        yield ("validation" if document.id in held else "train"), document

    return route


def _block_name(text: str) -> str:
    """Blocks that differ only in blanks at their ends are one: they must not come to lie on both sides."""
    return hashlib.sha256(text.strip().encode("utf-8")).hexdigest()[:16]


def _by_block(held: set[str], size: int) -> Router:
    """Neighbouring blocks of one side stay one document, so that training text is not broken where nothing was taken out."""

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        part, first, side = 0, 0, None
        for start, end in split.cut_blocks(document.text, size):
            here: Split = "validation" if _block_name(document.text[start:end]) in held else "train"
            if side is not None and here != side:
                yield side, _part(document, first, start, part)
                part, first = part + 1, start
            side = here
            if end == len(document.text):
                yield side, _part(document, first, end, part)

    return route


def _part(document: Document, start: int, end: int, number: int) -> Document:
    return Document.of(document.text[start:end], f"{document.source}#block{number}")


def _tail(border: int) -> Router:
    """Characters before `border` train, those from it on validate: the document that holds it is cut there."""
    at = 0

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        nonlocal at
        cut = min(max(border - at, 0), len(document.text))
        at += len(document.text)
        if cut == len(document.text):
            yield "train", document
        elif cut == 0:
            yield "validation", document
        else:
            yield "train", Document.of(document.text[:cut], f"{document.source}#head")
            yield "validation", Document.of(document.text[cut:], f"{document.source}#tail")

    return route


def _write(folder: Path, documents: DocumentFile, route: Router) -> dict[str, dict[str, Any]]:
    with (
        writing_documents(folder / "train.jsonl.zst") as train,
        writing_documents(folder / "validation.jsonl.zst") as validation,
    ):
        writers = {"train": train, "validation": validation}
        sources: dict[str, list[str]] = {"train": [], "validation": []}
        for document in documents:
            for side, part in route(document):
                writers[side].write(part)
                if len(sources[side]) < 20:
                    sources[side].append(part.source)
    return {
        side: {
            "documents": writer.documents,
            "characters": writer.characters,
            "bytes": writer.bytes,
            "sha256": writer.sha256,
            "first_sources": sources[side],
        }
        for side, writer in writers.items()
    }
