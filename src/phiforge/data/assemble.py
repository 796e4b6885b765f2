"""Parts become the result: one file of documents a side, and one memory-mapped row of tokens where a tokenizer was given.

Files of zstandard frames and files of tokens are put one behind the other as they are: nothing is read as text again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from phiforge.data.parts import append_file
from phiforge.data.second import Piece

_FIRST_SOURCES = 20


@dataclass
class Side:
    """What one side came to."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, piece: Piece) -> None:
        """Count what a part gave."""
        self.documents += len(piece.digests)
        self.characters += int(piece.columns["characters"].sum())
        self.bytes += int(piece.columns["bytes"].sum())
        self.tokens += int(piece.columns["tokens"].sum())
        self.digest.update(piece.digests.tobytes())

    def report(self, first_sources: list[str]) -> dict[str, Any]:
        """For data.json. sha256: of the sha256 of each text, in order."""
        counts = {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}
        return {**counts, "sha256": self.digest.hexdigest(), "first_sources": first_sources}


def join_documents(path: Path, files: Iterable[Path]) -> None:
    """One file of the frames of all."""
    with path.open("wb") as stream:
        for file in files:
            append_file(file, stream)
        if not stream.tell():  # a file without a frame would read as one that was cut short
            stream.write(zstandard.ZstdCompressor(write_checksum=True).compress(b""))


def join_tokens(folder: Path, pieces: Iterable[Piece], dtype: np.dtype[Any]) -> dict[str, Any]:
    """tokens.bin, starts.npy and bytes.npy of a side; its counts."""
    lengths, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    with (folder / "tokens.bin").open("wb") as stream:
        for piece in pieces:
            if piece.tokens is not None:
                append_file(piece.tokens, stream)
                lengths.append(piece.columns["tokens"])
                sizes.append(piece.columns["bytes"])
    ends, size = np.cumsum(np.concatenate(lengths)), np.concatenate(sizes)
    np.save(folder / "starts.npy", np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]]))
    np.save(folder / "bytes.npy", size)
    return {
        "n_tokens": int(ends[-1]) if len(ends) else 0,
        "n_bytes": int(size.sum()),
        "n_documents": len(ends),
        "dtype": dtype.name,
    }
