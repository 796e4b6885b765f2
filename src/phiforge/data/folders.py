"""The files of a folder that can be read, in an order that depends on names alone. Folders laid out as the hub does give one split."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from phiforge.core.errors import DataError
from phiforge.data.formats.compressed import Damaged
from phiforge.data.formats.layout import Layout, layout_of
from phiforge.data.reading import COMPRESSED, why
from phiforge.data.unit import Intake, SourceFile

TEXT = (".txt", ".text", ".md", ".rst", ".py")
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
WEB = (".html", ".htm", ".warc", ".wet")
KNOWN = (*TEXT, *RECORDS, *WEB)
WANTED = "phiforge reads .txt .md .rst .py .html .jsonl .json .csv .tsv .parquet .arrow .warc, and .gz .zst .xz .bz2 of them"
_IGNORED_FOLDERS = ("__pycache__", "node_modules")
_FOLDER = "folder"
_UNLOCKED = "change its permissions or leave it out"


def extension(path: Path | PurePosixPath) -> str:
    """Its extension without those of compression, in small letters."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return os.path.splitext(name)[1]  # noqa: PTH122 - a name, not a path


def as_text(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 are shown as U+FFFD, so that it can be written to JSON."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def find_files(source: Path, intake: Intake) -> list[SourceFile]:
    """The files at `source` (a file or a folder, searched in depth) that can be read, sorted by their path below it.

    In a folder, what can't be read is counted in `intake`. Raises DataError: missing, unreadable, or a folder without anything to read.
    """
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise Damaged(f"{source}: {why(error)}", reason=why(error), fix="check the path") from None
    if stat.S_ISREG(mode):
        return [SourceFile(source, as_text(source.name), named=True, kind=extension(source))]
    if not stat.S_ISDIR(mode):
        raise DataError(f"{source}: neither a file nor a folder", fix="write its text to a file first")
    before = sum(intake.skipped.values())
    try:
        found = list(_walk(source, intake))
    except OSError as error:
        raise DataError(f"{source}: {why(error)}", fix=_UNLOCKED) from None
    if not found:
        skipped = sum(intake.skipped.values()) - before
        what = f"none of its {skipped} files is text that can be read ({intake.reasons()})" if skipped else "an empty folder"
        raise DataError(f"{source}: {what}", fix=WANTED)
    return found


def _walk(root: Path, intake: Intake) -> Iterator[SourceFile]:
    """In depth, without recursion: a folder may be nested deeper than Python's stack."""
    layout = layout_of(root)
    name = as_text(root.resolve().name)
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path != root:
            file = _file(path, root, name, layout, intake)
            if isinstance(file, SourceFile):
                yield file
            if file != _FOLDER:
                continue
        try:
            found = path.stat()
            if (found.st_dev, found.st_ino) in seen:
                intake.skip("folder reached twice through a link", as_text(str(path)))
                continue
            seen.add((found.st_dev, found.st_ino))
            below = sorted(entry.name for entry in os.scandir(path))
        except OSError as error:
            if path == root:
                raise
            intake.skip(f"folder: {why(error)}", as_text(str(path)))
            continue
        waiting.extend(path / entry for entry in reversed(below))


def _file(path: Path, root: Path, name: str, layout: Layout, intake: Intake) -> SourceFile | str | None:
    """The file at `path`; _FOLDER: a folder to look into; None: something that is left out and counted."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        intake.skip("link to nothing" if path.is_symlink() and isinstance(error, FileNotFoundError) else why(error), as_text(str(path)))
        return None
    reason = _left_out(path, mode, layout, path.relative_to(root).as_posix())
    if reason:
        intake.skip(reason, as_text(str(path)))
        return None
    if stat.S_ISDIR(mode):
        return _FOLDER
    return SourceFile(path, as_text(f"{name}/{path.relative_to(root).as_posix()}"), named=False, kind=extension(path))


def _left_out(path: Path, mode: int, layout: Layout, below: str) -> str | None:
    """Why something in a folder is not read."""
    if path.name.startswith("."):
        return "hidden"
    if stat.S_ISDIR(mode):
        if path.name in _IGNORED_FOLDERS:
            return f"folder {path.name}"
        loop = path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(path))
        return "link to a folder that contains it (a loop)" if loop else None
    if not stat.S_ISREG(mode):
        return "not a regular file"
    if extension(path) not in KNOWN:
        return f"unknown extension {extension(path) or '(none)'}"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    return layout.left_out(below)
