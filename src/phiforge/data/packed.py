"""A packed set of documents as it lies on disk, and fixed-length rows of it, found in O(1): row i is tokens[i*T : i*T + T + 1]
(with a stride s, tokens[i*s : i*s + T + 1])."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core.errors import DataError

IGNORED = -100  # torch's cross_entropy leaves these labels out


class Packed:
    """A packed set of documents, memory-mapped: opening it reads nothing but the counts.

    tokens (N,) uint16|uint32 · starts (D,) int64 · document_bytes (D,) int64
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self.n_tokens: int = facts["n_tokens"]
        self.n_bytes: int = facts["n_bytes"]
        self.n_documents: int = facts["n_documents"]
        self.key: str = facts["key"]
        self.tokens: np.ndarray = np.memmap(folder / "tokens.bin", dtype=facts["dtype"], mode="r", shape=(self.n_tokens,))
        self.starts: np.ndarray = np.load(folder / "starts.npy", mmap_mode="r")
        self.document_bytes: np.ndarray = np.load(folder / "bytes.npy", mmap_mode="r")

    @classmethod
    def open(cls, folder: Path | str) -> Packed:
        """Raises DataError when the folder is missing, incomplete, or not what its checksums say."""
        folder = Path(folder)
        try:
            facts = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
            for name, (size, crc) in facts["files"].items():
                if (folder / name).stat().st_size != size or checksum(folder / name) != crc:
                    raise DataError(f"{folder / name}: changed since it was written", fix="delete the folder; it is made again")
            return cls(folder, facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: no packed documents ({type(error).__name__})", fix="delete the folder; it is made again") from None


def checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            value = zlib.crc32(piece, value)
    return value


class Rows:
    """Rows of `context_length` = T tokens, each with the label that follows it.

    A row may hold several documents. `position_ids` restart at 0 where one begins, which is how transformers (attention_mask=None)
    knows that they must not see each other; a label that would cross a border is IGNORED. `offset` tokens are left out at the front. Row
    i begins at offset + i * stride; rows overlap where the stride is below T.
    """

    def __init__(self, packed: Packed, context_length: int, offset: int = 0, stride: int | None = None) -> None:
        if context_length < 1 or offset < 0 or (stride is not None and stride < 1):
            raise ValueError("context_length and stride must be at least 1 and offset at least 0")
        self.stride = stride or context_length
        self.packed, self.context_length, self.offset = packed, context_length, offset
        self._starts = np.asarray(packed.starts)
        self._count = max(0, (packed.n_tokens - offset - 1 - context_length) // self.stride + 1)
        if not self._count:
            raise DataError(
                f"{packed.n_tokens - offset:,} tokens don't fill one row of context_length {context_length} (+ 1)",
                fix=f"use more text, or context_length={max(1, packed.n_tokens - offset - 1)} or less",
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """input_ids, shift_labels, position_ids of row `index`, each (T,) int64."""
        if not -self._count <= index < self._count:
            raise IndexError(f"row {index} of {self._count}")
        return {name: values[0] for name, values in self.batch([index % self._count]).items()}

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The rows `indices` stacked: each (B, T) int64."""
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self._count):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {self._count}")
        length = self.context_length
        first = self.offset + rows * self.stride
        at = first[:, None] + np.arange(length + 1)  # (B, T+1)
        tokens = self.packed.tokens[at].astype(np.int64)
        begins = self._begins(first, length + 1)
        labels = np.where(begins[:, 1:], IGNORED, tokens[:, 1:])
        within = np.arange(length)
        restart = np.maximum.accumulate(np.where(begins[:, :-1], within, 0), axis=1)
        return {"input_ids": tokens[:, :-1], "shift_labels": labels, "position_ids": within - restart}

    def _begins(self, first: np.ndarray, width: int) -> np.ndarray:
        """(B, width) bool: where a document begins. Only the starts inside each row are looked at."""
        begins = np.zeros((len(first), width), dtype=bool)
        low, high = np.searchsorted(self._starts, first), np.searchsorted(self._starts, first + width)
        counts = high - low
        row = np.repeat(np.arange(len(first)), counts)
        # the index of each start: low[row], low[row] + 1, ... within its row
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        begins[row, self._starts[np.repeat(low, counts) + nth] - first[row]] = True
        return begins


def batch_by_loop(rows: Rows, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """What `Rows.batch` computes, token by token: the reference that it is tested against."""
    starts = {int(start) for start in rows.packed.starts}
    out: dict[str, list[list[int]]] = {"input_ids": [], "shift_labels": [], "position_ids": []}
    for index in indices:
        base = rows.offset + int(index) * rows.stride
        position, inputs, labels, positions = 0, [], [], []
        for at in range(base, base + rows.context_length):
            position = 0 if at in starts or at == base else position + 1
            follows = int(rows.packed.tokens[at + 1])
            inputs.append(int(rows.packed.tokens[at]))
            labels.append(IGNORED if at + 1 in starts else follows)
            positions.append(position)
        for name, values in zip(out, (inputs, labels, positions), strict=True):
            out[name].append(values)
    return {name: np.array(values, np.int64).reshape(-1, rows.context_length) for name, values in out.items()}
