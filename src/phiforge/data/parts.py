"""A part: what one worker made of one piece of the input, on disk, whole or not there at all.

KEY.train.zst, KEY.validation.zst    documents that came through, one JSON object a line, in zstandard frames of about a megabyte
KEY.train.tok, KEY.validation.tok    their tokens, [bos] ids... [eos] each, where a tokenizer was given
KEY.dropped.zst                      what was left out, with its reason, where it is to be saved
KEY.rows                             MinHash rows of the documents that came through, where near duplicates are looked for
KEY.npz                              the index: one row for every document that was read, kept or not
KEY.json                             the facts; written last, so a part with facts is complete

Which side a document lies on is settled later, for the corpus as a whole. The worker sorts by its best guess; where the guess was
right, as it is in a large corpus, the files become the result as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from phiforge.core.atomic import writing
from phiforge.core.errors import DataError
from phiforge.data.cleaning import Cleaned

SIDES = ("train", "validation")
LEVEL = 1  # of compression: 3 is a tenth smaller and takes half as long again
_FRAME = 1 << 20
_SUFFIXES = (".train.zst", ".validation.zst", ".train.tok", ".validation.tok", ".dropped.zst", ".rows", ".npz", ".json")
_COLUMNS = ("reason", "guess", "raw", "begins", "stripped", "characters", "bytes", "tokens", "pieces")
_ESCAPED = bytes(range(0x20))


def json_line(id: str, encoded: bytes, source: str, **more: str) -> bytes:
    """`json.dumps({"id", "text", "source"}, ensure_ascii=False)` and a line feed, of UTF-8 bytes, in half the time."""
    body = encoded.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    if len(body.translate(None, _ESCAPED)) != len(body):  # tabs and rarer control characters
        body = json.dumps(encoded.decode("utf-8"), ensure_ascii=False).encode("utf-8")[1:-1]
    tail = json.dumps({"source": source, **more}, ensure_ascii=False).encode("utf-8")
    return b'{"id": "%s", "text": "%s", %s\n' % (id.encode(), body, tail[1:])


class Lines:
    """Appends lines to a file of zstandard frames; `frames`: (position in the file, number of its first line) of each frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: list[tuple[int, int]] = []
        self.count = self.size = 0
        self._held: list[bytes] = []
        self._bytes = 0
        self._file: BinaryIO = path.open("wb")
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)

    def write(self, line: bytes) -> None:
        """Append a line that ends with its line feed."""
        self._held.append(line)
        self._bytes += len(line)
        self.count += 1
        if self._bytes >= _FRAME:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self.frames.append((self.size, self.count - len(self._held)))
            self.size += self._file.write(self._compressor.compress(b"".join(self._held)))
            self._held, self._bytes = [], 0

    def close(self) -> None:
        """Write what is held; the file is closed even where the disk refuses it."""
        try:
            self._flush()
        finally:
            self._file.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Close without writing what is held: a full disk would refuse it again."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_frames(path: Path, frames: Sequence[tuple[int, int]] | np.ndarray) -> Iterator[bytes]:
    """The lines of a file of frames, without their line feeds. Raises DataError for a damaged file."""
    decompressor = zstandard.ZstdDecompressor()
    try:
        with path.open("rb") as stream:
            ends = [int(begin) for begin, _ in frames[1:]]
            for end in [*ends, path.stat().st_size]:
                data = stream.read(end - stream.tell())
                if data:
                    yield from decompressor.decompress(data).split(b"\n")[:-1]
    except (OSError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: a damaged part ({error})", fix="remove the run with `phiforge runs rm`, and start again") from None


class Part:
    """A finished part, for reading."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.facts: dict[str, Any] = json.loads(self.path(".json").read_text(encoding="utf-8"))

    @classmethod
    def find(cls, folder: Path, key: str) -> Part | None:
        """The part, or None where it isn't there or its files are not as they were written."""
        try:
            part = cls(folder, key)
            sound = all(part.path(suffix).stat().st_size == size for suffix, size in part.facts["files"].items())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return part if sound else None

    def path(self, suffix: str) -> Path:
        """One of its files."""
        return self.folder / (self.key + suffix)

    def column(self, name: str) -> np.ndarray:
        """A column of the index."""
        with np.load(self.path(".npz")) as index:
            return index[name]

    def columns(self, *names: str) -> list[np.ndarray]:
        """Several of them."""
        with np.load(self.path(".npz")) as index:
            return [index[name] for name in names]

    def lines(self, side: str) -> Iterator[bytes]:
        """The lines that were sorted to a side ("dropped": those left out), in the order in which they were read."""
        return read_frames(self.path(f".{side}.zst"), self.column(f"frames_{side}"))

    def all_lines(self) -> Iterator[bytes]:
        """The lines of both sides in the order in which they were read."""
        guess = self.column("guess")
        sides = [self.lines(side) for side in SIDES]
        for side in guess[self.column("reason") == 0]:
            yield next(sides[side])

    def line(self, row: int) -> dict[str, Any]:
        """The document of one row that came through."""
        reason, guess = self.columns("reason", "guess")
        side = SIDES[guess[row]]
        nth = int(((reason[:row] == 0) & (guess[:row] == guess[row])).sum())
        frames = self.column(f"frames_{side}")
        at = int(np.searchsorted(frames[:, 1], nth, side="right")) - 1
        with self.path(f".{side}.zst").open("rb") as stream:
            stream.seek(int(frames[at, 0]))
            data = stream.read(int(frames[at + 1, 0] - frames[at, 0])) if at + 1 < len(frames) else stream.read()
        return json.loads(zstandard.ZstdDecompressor().decompress(data).split(b"\n")[nth - int(frames[at, 1])])

    @property
    def documents(self) -> int:
        """How many documents were read."""
        return int(self.facts["documents"])


def token_type(vocab_size: int) -> np.dtype[Any]:
    """What an id is stored as."""
    return np.dtype("uint16" if vocab_size <= 1 << 16 else "uint32")


class PartWriter:
    """Writes one part under temporary names; `finish` gives them their own, `drop` takes them away."""

    def __init__(self, folder: Path, key: str, *, save_dropped: bool, tokens: np.dtype[Any] | None, signatures: bool) -> None:
        self.folder, self.key = folder, key
        self._made: list[str] = []
        self._lines = {side: Lines(self._new(f".{side}.zst")) for side in SIDES}
        self._dropped = Lines(self._new(".dropped.zst")) if save_dropped else None
        self._tokens = {side: self._new(f".{side}.tok").open("wb") for side in SIDES} if tokens is not None else {}
        self._type = tokens
        self._rows = self._new(".rows").open("wb") if signatures else None
        self._streams = (*self._tokens.values(), *([self._rows] if self._rows else []))
        self._columns = {name: array("q") for name in _COLUMNS}
        self._digests, self._keys = bytearray(), bytearray()
        self.reasons: list[str] = [""]  # the number of a reason; 0: came through

    def _new(self, suffix: str) -> Path:
        self._made.append(suffix)
        return self.folder / f".{self.key}-{os.getpid()}{suffix}"

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self._columns["reason"])

    def _row(self, digest: bytes, key: bytes, **numbers: int) -> None:
        self._digests += digest
        self._keys += key
        for name, column in self._columns.items():
            column.append(numbers.get(name, 0))

    def add(self, cleaned: Cleaned, digest: bytes, *, guess: int, pieces: int, ids: np.ndarray | None, row: np.ndarray | None) -> None:
        """A document that came through. digest: sha256 of its text; pieces: chunks that it would be cut into."""
        encoded, bare = cleaned.encoded, cleaned.text.strip()
        key = digest if len(bare) == len(cleaned.text) else hashlib.sha256(bare.encode("utf-8")).digest()
        self._lines[SIDES[guess]].write(json_line(digest[:8].hex(), encoded, cleaned.source))
        tokens = 0
        if ids is not None and self._type is not None:
            self._tokens[SIDES[guess]].write(ids.astype(self._type).tobytes())
            tokens = len(ids)
        if row is not None and self._rows is not None:
            self._rows.write(row.tobytes())
        sizes = {"raw": cleaned.raw_bytes, "characters": len(cleaned.text), "bytes": len(encoded), "tokens": tokens}
        self._row(digest, key[:8], **sizes, guess=guess, stripped=cleaned.stripped, pieces=pieces, begins=cleaned.begins)

    def leave_out(self, cleaned: Cleaned, id: str) -> None:
        """A document that is left out here."""
        if cleaned.reason not in self.reasons:
            self.reasons.append(cleaned.reason)
        if self._dropped is not None:
            self._dropped.write(json_line(id, cleaned.encoded, cleaned.source, reason=cleaned.reason))
        reason = self.reasons.index(cleaned.reason)
        self._row(bytes(32), bytes(8), reason=reason, raw=cleaned.raw_bytes, stripped=cleaned.stripped, begins=cleaned.begins)

    def finish(self, facts: dict[str, Any], flags: np.ndarray) -> None:
        """Make it durable: every file is fsynced and renamed, the facts last."""
        arrays: dict[str, np.ndarray] = {name: np.frombuffer(values, np.int64) for name, values in self._columns.items()}
        arrays |= {name: arrays[name].astype(np.uint8) for name in ("guess", "stripped", "begins")}
        arrays["reason"] = arrays["reason"].astype(np.uint16)  # a language each, for example
        arrays["digest"] = np.frombuffer(self._digests, np.uint8).reshape(-1, 32)
        arrays["key"] = np.frombuffer(self._keys, ">u8").astype(np.uint64)
        arrays["flags"] = flags
        for name, lines in [*self._lines.items(), *([("dropped", self._dropped)] if self._dropped else [])]:
            lines.close()
            arrays[f"frames_{name}"] = np.array(lines.frames, np.int64).reshape(-1, 2)
        for stream in self._streams:
            stream.close()
        with self._new(".npz").open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        sizes = {suffix: self._temporary(suffix).stat().st_size for suffix in self._made}
        whole = {**facts, "documents": self.count, "reasons": self.reasons, "files": sizes}
        self._new(".json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
        for suffix in self._made:
            durable(self._temporary(suffix), self.folder / (self.key + suffix))
        sync_folder(self.folder)

    def _temporary(self, suffix: str) -> Path:
        return self.folder / f".{self.key}-{os.getpid()}{suffix}"

    def drop(self) -> None:
        """Take away what is left of it."""
        for lines in (*self._lines.values(), *([self._dropped] if self._dropped else [])):
            lines.abandon()
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.close()
        for suffix in self._made:
            self._temporary(suffix).unlink(missing_ok=True)


def durable(temporary: Path, path: Path) -> None:
    """Flush a file to the disk and give it its name."""
    with writing(path):
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_file(path: Path, stream: BinaryIO, crc: int = 0) -> int:
    """Append a file's bytes to an open one; the running checksum."""
    with path.open("rb") as source:
        while piece := source.read(1 << 22):
            stream.write(piece)
            crc = zlib.crc32(piece, crc)
    return crc
