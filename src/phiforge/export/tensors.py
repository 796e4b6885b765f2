"""Tensors on disk, read a few rows at a time, without torch: one safetensors file or a sharded set.

The files are read with `pread` into one reused buffer and never mapped: a mapping's pages count as private memory of the
process that touched them, so mapping a 400 MB model would cost 400 MB on paper.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.core.errors import DataError

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8")}
MAX_HEADER = 100_000_000  # the limit of the safetensors format


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte in the file

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (everything behind the first dimension)."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * DTYPES[self.dtype].itemsize


class TensorFiles:
    """The tensors of a model folder. Use as a context manager; `names()`, `entry(name)`, `rows(name, start, stop)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._open: dict[Path, int] = {}
        for file in _files(folder):
            self.entries.update(_read_header(file))

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def rows(self, name: str, start: int, stop: int, buffer: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Rows start..stop as float32 (BF16 and F16 widened exactly, F64 narrowed). A 1-D tensor's rows are its values.

        The result may lie in `buffer`: use it before the next call.
        """
        entry = self.entries[name]
        raw = self._read(entry, start * entry.row_bytes, (stop - start) * entry.row_bytes, buffer)
        return to_float32(raw.view(DTYPES[entry.dtype]), entry.dtype).reshape(stop - start, *entry.shape[1:])

    def _read(self, entry: Entry, offset: int, size: int, buffer: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if entry.file not in self._open:
            self._open[entry.file] = os.open(entry.file, os.O_RDONLY)
        target = np.empty(size, np.uint8) if buffer is None or buffer.size < size else buffer[:size]
        done = 0
        while done < size:
            got = os.preadv(self._open[entry.file], [target.data[done:]], entry.start + offset + done)
            if not got:
                raise DataError(f"{entry.file}: ends early, {size - done:,} bytes are missing", fix="copy the file again")
            done += got
        return target


def to_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Widen stored values to float32: a bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def _files(folder: Path) -> Iterator[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        yield single
    elif index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        for name in names:
            if Path(name).name != name:
                raise DataError(f"{index}: the shard {name!r} is not a plain file name")
            yield folder / name
    else:
        raise DataError(f"{folder}: no model.safetensors there", fix="point at a folder written by save_pretrained")


def _read_header(file: Path) -> dict[str, Entry]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise DataError(f"{file}: not a safetensors file")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{file}: not a safetensors file: its header is not JSON") from None
    return {name: _entry(file, name, about, 8 + length, size) for name, about in header.items() if name != "__metadata__"}


def _entry(file: Path, name: str, about: dict[str, Any], base: int, size: int) -> Entry:
    if about["dtype"] not in DTYPES:
        raise DataError(f"{file}: {name} is stored as {about['dtype']}, readable are {', '.join(DTYPES)}")
    begin, end = about["data_offsets"]
    expected = int(np.prod(about["shape"], dtype=np.int64)) * DTYPES[about["dtype"]].itemsize
    if end - begin != expected or base + end > size:
        raise DataError(f"{file}: {name} does not fit in the file", fix="copy the file again")
    return Entry(file, about["dtype"], tuple(about["shape"]), base + begin)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model folder. DataError when it is missing or broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: a JSON object was expected")
    return data
