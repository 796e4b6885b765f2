"""Documents packed into one memory-mapped row of tokens, kept in a content-addressed cache.

    tokens.bin     uint16 or uint32, [bos] ids... [eos] of each document, one after the other
    starts.npy     int64, where each document begins
    bytes.npy      int64, UTF-8 bytes of each document's text
    packed.json    counts, checksums, what it was made from

The cache key is made of the documents' bytes, the tokenizer, the template and this code's version, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phiforge.core.atomic import atomic_dir, writing
from phiforge.core.console import warn
from phiforge.core.errors import DataError, PreflightError
from phiforge.core.hardware import preflight_disk
from phiforge.data.document import Document
from phiforge.data.packed import Packed, checksum
from phiforge.data.packed import Rows as Rows
from phiforge.data.tokenizer import Tokenizer

VERSION = 1  # raise it when the same documents would be packed differently
_BATCH_CHARACTERS = 4 << 20


def cache_root() -> Path:
    """`$PHIFORGE_CACHE`, or `~/.cache/phiforge`."""
    chosen = os.environ.get("PHIFORGE_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "phiforge"


def pack(documents: Iterable[Document], tokenizer: Tokenizer, cache_dir: Path | None = None, *, template: str = "") -> Packed:
    """Pack `documents`, or find them packed already under the same content.

    `documents` is read twice (once for the key, once for the tokens), so it is a list or a DocumentFile, not an iterator; it is never
    held in memory. Two processes may do this at once: each writes under its own name, the first to finish is kept.
    Raises DataError (no documents), PreflightError (disk).
    """
    if iter(documents) is documents:
        raise TypeError("pack reads the documents twice: give a list or a DocumentFile, not an iterator")
    key, n_bytes = content_key(documents, tokenizer, template)
    if not n_bytes:
        raise DataError("there is no text to pack", fix="give at least one document that is not empty")
    return cached(key, cache_dir, 4 * n_bytes, lambda folder: write_packed(folder, documents, tokenizer))


def content_key(documents: Iterable[Document], tokenizer: Tokenizer, template: str) -> tuple[str, int]:
    """(cache key, UTF-8 bytes of all texts)."""
    digest = _key([], tokenizer, template)
    n_bytes = 0
    for document in documents:
        text = document.text.encode("utf-8")
        n_bytes += len(text)
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()[:32], n_bytes


def cached(key: str, cache_dir: Path | None, need: int, write: Callable[[Path], dict[str, Any]]) -> Packed:
    """The packed folder called `key`; `write(folder) -> facts` makes it where it is missing or damaged."""
    root = (cache_dir or cache_root()) / "packed"
    place = root / key
    if place.is_dir():
        try:
            return Packed.open(place)
        except DataError as error:
            warn(f"the cache was damaged and is made again ({error.what})")
            _set_aside(place)
    try:
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            preflight_disk(root, need)
            _make(place, write)
    except PreflightError as error:
        raise PreflightError(error.what, fix="free some space, or set PHIFORGE_CACHE to another folder") from None
    return Packed.open(place)


def _make(place: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    temporary = _aside(place)
    temporary.mkdir()
    try:
        _fill(temporary, place.name, write)
        _sync(temporary)
        try:
            temporary.rename(place)
        except OSError:  # another process was first: its folder holds the same bytes
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, key: str, write: Callable[[Path], dict[str, Any]]) -> None:
    facts = {**write(folder), "key": key, "version": VERSION}
    names = sorted(path.name for path in folder.iterdir())
    facts["files"] = {name: [(folder / name).stat().st_size, checksum(folder / name)] for name in names}
    (folder / "packed.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def save_packed(place: Path, key: str, write: Callable[[Path], dict[str, Any]]) -> None:
    """Make the folder `place`, or make it anew: `write(folder) -> facts` fills it."""
    with atomic_dir(place) as folder:
        _fill(folder, key, write)


def split_key(sha256: str, tokenizer: Tokenizer, template: str = "") -> str:
    """The key of one side of a data run, packed: from the sha256 in its report, so that no text need be read to know it."""
    return _key(["side", sha256], tokenizer, template).hexdigest()[:32]


def _key(first: list[Any], tokenizer: Tokenizer, template: str) -> Any:
    parts = [VERSION, tokenizer.fingerprint, tokenizer.bos_id, tokenizer.eos_id, template, *first]
    return hashlib.sha256(json.dumps(parts).encode())


def _aside(place: Path) -> Path:
    return place.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _sweep(root: Path) -> None:
    """Remove what processes that were killed left behind more than a day ago."""
    for path in root.glob(".partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path, ignore_errors=True)


def _set_aside(place: Path) -> None:
    """Move a damaged folder away in one step, then remove it: another process may be about to do the same."""
    aside = _aside(place)
    try:
        place.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


class ShardWriter:
    """Appends documents of ids to the files of a shard."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.folder, self.dtype = folder, np.dtype("uint16" if vocab_size <= 1 << 16 else "uint32")
        self.starts, self.bytes = array("q"), array("q")
        self.n_tokens = 0
        self._tokens: BinaryIO = (folder / "tokens.bin").open("wb")

    def write(self, ids: np.ndarray, n_bytes: int) -> None:
        """Append one document of `ids` (T,)."""
        self.starts.append(self.n_tokens)
        self.bytes.append(n_bytes)
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self.n_tokens += len(ids)

    def finish(self) -> dict[str, Any]:
        """Close the files; the counts."""
        self._tokens.close()
        np.save(self.folder / "starts.npy", np.frombuffer(self.starts, np.int64))
        np.save(self.folder / "bytes.npy", np.frombuffer(self.bytes, np.int64))
        return {
            "n_tokens": self.n_tokens,
            "n_bytes": sum(self.bytes),
            "n_documents": len(self.starts),
            "dtype": self.dtype.name,
        }


def write_packed(folder: Path, documents: Iterable[Document], tokenizer: Tokenizer) -> dict[str, Any]:
    """The files of a shard, on as many threads as there are cores; its counts."""
    shard = ShardWriter(folder, tokenizer.vocab_size)
    bos, eos = np.array([tokenizer.bos_id], np.uint32), np.array([tokenizer.eos_id], np.uint32)
    for batch in _batches(documents):
        texts = [document.text for document in batch]
        for text, ids in zip(texts, tokenizer.raw_batch(texts), strict=True):
            shard.write(np.concatenate([bos, ids, eos]), len(text.encode("utf-8")))
    return shard.finish()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents of about 4 million characters together; empty documents are left out."""
    batch: list[Document] = []
    size = 0
    for document in itertools.filterfalse(lambda d: not d.text, documents):
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
