"""Texts out of files, folders and sets of the hub, in an order that depends on names alone, one document in memory at a time.

`units` lists the pieces of work of a source, `read_unit` reads one, in any process: the same unit gives the same documents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from phiforge.core.console import warn
from phiforge.core.errors import DataError
from phiforge.data import catalogue, hub
from phiforge.data.config import PYTHON, DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.folders import WANTED, find_files
from phiforge.data.formats import html, json_list, jsonl, parquet, tables, text, warc
from phiforge.data.formats.compressed import Damaged
from phiforge.data.python_corpus import LICENCE, describe, read_python
from phiforge.data.reading import COMPRESSED, read_bytes, why
from phiforge.data.unit import Intake, Limits, SourceFile, Unit, within

__all__ = ["Intake", "Limits", "SourceFile", "Unit", "about", "find_files", "input_files", "nothing_read"]
__all__ += ["read_file", "read_source", "read_unit", "units"]

UNIT_BYTES = 1 << 26  # large files are cut into units of about this size
_NOT_TEXT = tuple(f".{name}" for name in "pdf epub docx doc odt rtf zip tar 7z rar db sqlite pkl npy safetensors gguf".split())

Reader = Callable[[Unit, Intake], Iterator[Document]]


def _read_python(unit: Unit, intake: Intake) -> Iterator[Document]:
    return read_python("all" if unit.option("scope") == "all" else "core")


_HARD = "\ufffd"  # two names that are no UTF-8 may look the same

READERS: dict[str, Reader] = {
    "text": text.read_text,
    "jsonl": jsonl.read_jsonl,
    "json": json_list.read_json,
    "table": tables.read_table,
    "parquet": parquet.read_parquet,
    "arrow": parquet.read_arrow,
    "html": html.read_html,
    "warc": warc.read_warc,
    "hub": hub.read_hub,
    "python": _read_python,
}
_KINDS = {  # every other extension is text
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "table", ".tsv": "table"},
    **{".parquet": "parquet", ".arrow": "arrow", ".html": "html", ".htm": "html", ".warc": "warc", ".wet": "warc"},
}
_WHOLE_FILES = ("parquet", "arrow")  # packed inside; read from their end


def units(source: str, config: DataPrepareConfig, intake: Intake) -> list[Unit]:
    """The pieces of work of one source, in the order of their documents. What is left out is counted in `intake`.

    Raises DataError: missing, unreadable, nothing to read, a hub that can't be reached.
    """
    found = _elsewhere(source)
    if found == PYTHON:
        if Path(PYTHON).exists():
            warn("source=python is the default corpus; for the file or folder of that name write ./python")
        whole = Unit(source, PYTHON, "python", PYTHON, PYTHON, group=source, options=(("scope", config.python_corpus),))
        return [replace(whole, max_documents=config.max_files, max_bytes=config.max_bytes)]
    if isinstance(found, catalogue.Corpus):
        limit = min((size for size in (found.max_bytes, config.max_bytes) if size is not None), default=None)
        sets = [hub.parse(name) for name in found.sources(config.language)]
        return [unit for one in sets for unit in hub.units(one, source, max_documents=config.max_files, max_bytes=limit)]
    if found is not None:
        return hub.units(hub.parse(source), source, max_documents=config.max_files, max_bytes=config.max_bytes)
    files = find_files(Path(source), intake)[: config.max_files]
    return [unit for file in files for unit in _plan(file, source, intake, config.max_bytes)]


def _elsewhere(source: str) -> str | catalogue.Corpus | None:
    """What a source is that is no path: the interpreter's corpus, a known one, a set of the hub. None: a path."""
    if source == PYTHON or source.startswith(hub.PREFIX):
        return source
    corpus = catalogue.known(source)
    if corpus is not None and Path(source).exists():
        warn(f"{source} is read from the folder of that name; for the corpus of that name write hub:{corpus.id}")
        return None
    return corpus


def about(source: str) -> tuple[str, str | None]:
    """(what a source is, its licence where that is known), for reports."""
    if source == PYTHON:
        return describe(), LICENCE
    corpus = None if Path(source).exists() else catalogue.known(source)
    return (f"{source} (hub:{corpus.id}): {corpus.about}", corpus.licence) if corpus else (source, None)


def input_files(source: str) -> list[Path]:
    """The local files that a source names now: none for what comes from a hub or with the interpreter."""
    return [] if _elsewhere(source) else [file.path for file in find_files(Path(source), Intake())]


def _plan(file: SourceFile, source: str, intake: Intake, max_bytes: int | None = None) -> list[Unit]:
    """The units of one file: one, or several of a large one."""
    if file.kind in _NOT_TEXT and file.named:
        raise DataError(f"{file.path}: {file.kind} is not a text format that phiforge reads", fix=WANTED)
    kind = _KINDS.get(file.kind, "text")
    try:
        found = file.path.stat()
        pieces = _pieces(file, kind, found.st_size, intake.max_document_bytes)
    except OSError as error:
        if file.named:
            raise DataError(f"{file.path}: {why(error)}", fix="check the path") from None
        intake.skip(why(error), file.label)
        return []
    except Damaged as damage:
        if file.named:
            raise
        intake.skip(damage.reason, file.label)
        return []
    return [
        Unit(
            source=source,
            key=f"{file.label}{os.fsencode(file.path.name).hex() if _HARD in file.label else ''}@{start}",
            kind=kind,
            path=str(file.path),
            label=file.label + (f"@{start}" if kind == "jsonl" and start else ""),
            named=file.named,
            start=start,
            stop=None if len(pieces) == 1 else stop,
            part=part,
            size=found.st_size if len(pieces) == 1 else (stop - start if kind in ("text", "jsonl") else found.st_size // len(pieces)),
            file_size=found.st_size,
            modified=found.st_mtime_ns,
            group=source,
            max_bytes=max_bytes,
        )
        for start, stop, part in pieces
    ]


def _pieces(file: SourceFile, kind: str, size: int, limit: int) -> list[tuple[int, int, int]]:
    """(start, stop, documents before it) of each unit."""
    packed = file.path.suffix.lower() in COMPRESSED
    if kind in _WHOLE_FILES and packed:
        raise Damaged(f"{file.path}: a packed {kind} file", reason=f"packed {kind} file", fix="unpack it: it is packed inside already")
    if kind == "parquet":
        return parquet.plan(file.path, size, UNIT_BYTES)
    if size > UNIT_BYTES and not packed:
        if kind == "text":
            return text.plan(file.path, size, limit, UNIT_BYTES)
        if kind == "jsonl":
            return jsonl.plan(size, UNIT_BYTES)
    return [(0, size, 0)]


def read_unit(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of one unit, and no more than its group may give.

    A file that the person named must be sound: DataError names the place. In a folder, what is damaged is counted in `intake`, and
    the documents before the damage are kept.
    """
    intake.files += not unit.start
    try:
        yield from within(unit, READERS[unit.kind](unit, intake))
    except Damaged as damage:
        if unit.named:
            raise
        intake.skip(damage.reason, f"{unit.label}: {damage.what}")
        return
    except DataError:
        cause = _damage_of(unit)
        if cause is None:
            raise
        if unit.named:
            raise cause from None
        intake.skip(cause.reason, f"{unit.label}: {cause.what}")
        return
    _refuse_changed(unit, intake)


def _damage_of(unit: Unit) -> Damaged | None:
    """Whether what looks like broken text comes of a broken packed file, whose checksum shows it only at its end."""
    if unit.kind == "hub" or Path(unit.path).suffix.lower() not in COMPRESSED:
        return None
    try:
        for _ in read_bytes(Path(unit.path)):
            pass
    except Damaged as damage:
        return damage
    return None


def _refuse_changed(unit: Unit, intake: Intake) -> None:
    """A file that is written to while it is read gives what nobody can make again."""
    if not unit.modified:
        return
    try:
        now = Path(unit.path).stat()
        same = (now.st_size, now.st_mtime_ns) == (unit.file_size, unit.modified)
    except OSError:
        same = False
    if not same:
        unit.fault(
            intake, "changed while it was read", f"{unit.path}: changed while it was read", fix="wait until it is written, then run again"
        )


def nothing_read(source: str, intake: Intake) -> DataError:
    """That a source gave no document at all, with the reasons."""
    first = next((example for example in intake.examples.values() if ": " in example), "")  # one that says more than its reason
    reasons = intake.reasons() or "no text in it"
    return DataError(f"{source}: no document could be read ({reasons}){f', the first: {first}' if first else ''}", fix=WANTED)


def read_file(file: SourceFile, intake: Intake) -> Iterator[Document]:
    """The documents of one file. Raises DataError naming file and line or byte: not text, not UTF-8, not JSON, corrupt, unreadable."""
    for unit in _plan(file, str(file.path), intake):
        yield from read_unit(unit, intake)


def read_source(source: Path, intake: Intake) -> Iterator[Document]:
    """All documents at `source`, a file or a folder."""
    got = False
    for file in find_files(source, intake):
        for document in read_file(file, intake):
            got = True
            yield document
    if not got:
        raise nothing_read(str(source), intake)
