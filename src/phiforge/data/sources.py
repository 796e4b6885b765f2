"""Texts out of files and folders, in an order that depends on names alone, one document in memory at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phiforge.core.errors import DataError
from phiforge.data.document import Document
from phiforge.data.filters import normalise_line_ends
from phiforge.data.reading import COMPRESSED, read_blocks, read_lines

TEXT = (".txt", ".md", ".rst", ".py")
KNOWN = (*TEXT, ".jsonl")
_WANTED = "phiforge reads .txt .md .rst .py .jsonl, and .gz or .zst of them"
_NOT_TEXT = (".json", ".parquet", ".pdf", ".epub", ".docx", ".doc", ".odt", ".zip", ".tar", ".7z", ".xz", ".bz2")
_IGNORED_FOLDERS = ("__pycache__", "node_modules")
_TEXT_FIELDS = ("text", "content")
_SURROGATE = re.compile("[\ud800-\udfff]")

EncodingErrors = Literal["error", "skip", "replace"]


@dataclass
class Intake:
    """How to read, and what was met while reading: filled as documents are drawn."""

    encoding_errors: EncodingErrors = "error"
    max_document_bytes: int = 1 << 24
    max_line_bytes: int = 1 << 26
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    repaired: int = 0
    cut: int = 0
    files: int = 0

    def skip(self, reason: str, where: str) -> None:
        """Count a file or record that is left out; the first of each reason is kept as an example."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, where)


@dataclass(frozen=True)
class SourceFile:
    """A file to read; `label` is what documents call it; `named` = the person named it, so it may not be skipped silently."""

    path: Path
    label: str
    named: bool

    @property
    def kind(self) -> str:
        """Its extension without .gz and .zst."""
        return _extension(self.path)


def _extension(path: Path) -> str:
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return os.path.splitext(name)[1]  # noqa: PTH122 - a name, not a path


def find_files(source: Path, intake: Intake) -> list[SourceFile]:
    """The text files at `source` (a file or a folder, searched in depth), sorted by their path below it.

    Raises DataError: missing, unreadable, a loop of links, or a folder without any text file.
    """
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise DataError(f"{source}: {_why(error)}", fix="check the path") from None
    if stat.S_ISREG(mode):
        return [SourceFile(source, _label(source.name), named=True)]
    if not stat.S_ISDIR(mode):
        raise DataError(f"{source}: neither a file nor a folder", fix="write its text to a file first")
    before = sum(intake.skipped.values())
    found = list(_walk(source, source, intake, {}))
    if not found:
        skipped = sum(intake.skipped.values()) - before
        reasons = "; ".join(f"{count} {reason}" for reason, count in intake.skipped.most_common(4))
        what = f"none of its {skipped} files is text that can be read ({reasons})" if skipped else "an empty folder"
        raise DataError(f"{source}: {what}", fix=_WANTED)
    return found


def _why(error: OSError) -> str:
    return {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "no permission to read it",
        errno.ELOOP: "a symbolic link that leads to itself",
        errno.ENAMETOOLONG: "too long for a path",
    }.get(error.errno or 0, error.strerror or str(error))


def _walk(root: Path, folder: Path, intake: Intake, seen: dict[str, Path]) -> Iterator[SourceFile]:
    real = os.path.realpath(folder)
    if real in seen:
        intake.skip("folder reached twice through a link", _label(str(folder)))
        return
    seen[real] = folder
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: {_why(error)}", fix="change its permissions or leave it out") from None
    for name in names:
        path = folder / name
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ENOENT:
                intake.skip("link to nothing", _label(str(path)))
                continue
            raise DataError(f"{path}: {_why(error)}", fix="remove it from the folder") from None
        if name.startswith("."):
            intake.skip("hidden", _label(str(path)))
        elif path.is_dir():
            if name in _IGNORED_FOLDERS:
                intake.skip(f"folder {name}", _label(str(path)))
                continue
            _refuse_loop(path)
            yield from _walk(root, path, intake, seen)
        elif not path.is_file():
            intake.skip("not a regular file", _label(str(path)))
        elif _extension(path) not in KNOWN:
            intake.skip(f"unknown extension {_extension(path) or '(none)'}", _label(str(path)))
        else:
            yield SourceFile(path, _label(f"{root.resolve().name}/{path.relative_to(root).as_posix()}"), named=False)


def _label(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 are shown as U+FFFD, so that it can be written to JSON."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def _refuse_loop(path: Path) -> None:
    if path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(path)):
        raise DataError(f"{path}: a symbolic link to a folder that contains it (a loop)", fix="remove the link")


def read_file(file: SourceFile, intake: Intake) -> Iterator[Document]:
    """The documents of one file: one for a text file, one per line for .jsonl.

    Raises DataError naming file and line or byte: not text, not UTF-8, not JSON, corrupt, unreadable.
    """
    if file.kind in _NOT_TEXT and file.named:
        fix = "chats and instructions go to `phiforge finetune`; texts as .jsonl, one object a line" if file.kind == ".json" else _WANTED
        raise DataError(f"{file.path}: {file.kind} is not a text format that phiforge reads", fix=fix)
    intake.files += 1
    if file.kind == ".jsonl":
        yield from _read_jsonl(file, intake)
    else:
        yield from _read_text(file, intake)


def _read_text(file: SourceFile, intake: Intake) -> Iterator[Document]:
    part = 0
    for start, block in read_blocks(file.path, limit=intake.max_document_bytes):
        zero = block.find(b"\0")
        if zero >= 0:
            if start == 0 and not file.named:
                intake.skip("binary (contains zero bytes)", file.label)
                return
            utf16 = block[:2] in (b"\xff\xfe", b"\xfe\xff")
            what = "UTF-16 text" if utf16 else f"not text (a zero byte at position {start + zero:,})"
            raise DataError(f"{file.path}: {what}", fix="convert it: iconv -f UTF-16 -t UTF-8" if utf16 else _WANTED)
        text = _decode(block, start, file, intake)
        if text is None:
            return
        if part:
            intake.cut += 1
        yield Document.of(normalise_line_ends(text), file.label + (f"#{part}" if part else ""))
        part += 1
    if not part:
        intake.skip("empty", file.label)


def _decode(block: bytes, start: int, file: SourceFile, intake: Intake, line: int | None = None) -> str | None:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        if intake.encoding_errors == "replace":
            intake.repaired += 1
            return block.decode("utf-8", errors="replace")
        if intake.encoding_errors == "skip":
            intake.skip("not UTF-8", file.label)
            return None
        at = f", line {line}" if line else ""
        raise DataError(
            f"{file.path}{at}: not valid UTF-8 at byte {start + error.start:,} (0x{block[error.start]:02x})",
            fix="convert the file to UTF-8, or set encoding_errors=replace or encoding_errors=skip",
        ) from None


def _read_jsonl(file: SourceFile, intake: Intake) -> Iterator[Document]:
    start = 0
    for number, line in read_lines(file.path, limit=intake.max_line_bytes):
        body, first = line, start
        start += len(line) + 1
        if number == 1:
            body = line.removeprefix(b"\xef\xbb\xbf")
        if not body.strip():
            continue
        if b"\0" in body:
            if number == 1 and not file.named:
                intake.skip("binary (contains zero bytes)", file.label)
                return
            raise DataError(f"{file.path}, line {number}: not text (contains a zero byte)", fix=_WANTED)
        decoded = _decode(body, first, file, intake, number)
        if decoded is not None:
            yield Document.of(normalise_line_ends(_text_of(decoded, file, number, intake)), f"{file.label}:{number}")


def _text_of(line: str, file: SourceFile, number: int, intake: Intake) -> str:
    where = f"{file.path}, line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else "a number too long")
        raise DataError(f"{where}: not JSON ({what})", fix='one object a line: {"text": "..."}') from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a {type(record).__name__}, not an object", fix='one object a line: {"text": "..."}')
    text = next((record[name] for name in _TEXT_FIELDS if name in record), None)
    if not isinstance(text, str):
        chat = {"messages", "conversations", "instruction", "prompt"} & record.keys()
        fix = "this looks like chat data: use it with `phiforge finetune`" if chat else 'each object needs "text" (or "content")'
        keys = ", ".join(list(record)[:6]) or "no keys"
        raise DataError(f'{where}: no "text" of type string (has: {keys[:80]})', fix=fix)
    if not text.isascii() and _SURROGATE.search(text):
        if intake.encoding_errors == "error":
            fix = "repair it, or set encoding_errors=replace"
            raise DataError(f"{where}: the text holds half of a character (a lone surrogate)", fix=fix)
        intake.repaired += 1
        text = text.encode("utf-8", errors="replace").decode("utf-8")
    return text


def read_source(source: Path, intake: Intake) -> Iterator[Document]:
    """All documents at `source`, a file or a folder."""
    files = find_files(source, intake)
    got = False
    for file in files:
        for document in read_file(file, intake):
            got = True
            yield document
    if not got:
        reasons = "; ".join(f"{count} {reason}" for reason, count in intake.skipped.most_common(4)) or "no text in it"
        raise DataError(f"{source}: no document could be read ({reasons})", fix=_WANTED)
