"""Nothing half-written: every file and folder gets a temporary name, is fsynced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phiforge.core.errors import PreflightError

_TEMPORARY = ".partial-"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`, on failure removed."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are fsynced and it takes the place of `path`."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(path):
            temporary.mkdir(parents=True)
            yield temporary
            for item in sorted(temporary.rglob("*")):
                _fsync(item)
            _fsync(temporary)
            _take_place(temporary, path)
            _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`. A folder can't be renamed over a filled one, so the old one steps aside first."""
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f"{_TEMPORARY}{os.getpid()}-old-{path.name}")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the ways in which a disk refuses (full, read-only, no permission) into one line."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "no permission to write there",
            errno.EROFS: "the file system is read-only",
        }
        if error.errno not in reason:
            raise
        fix = (
            "free some space or choose another folder with --out"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose another folder with --out"
        )
        raise PreflightError(f"{path}: {reason[error.errno]}", fix=fix) from None


def clear_partials(folder: Path) -> int:
    """Remove what an earlier, killed process left half-written in `folder` (not below it). Returns how many."""
    leftovers = list(folder.glob(f"{_TEMPORARY}*")) if folder.is_dir() else []
    for item in leftovers:
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink(missing_ok=True)
    return len(leftovers)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON to `path` atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
