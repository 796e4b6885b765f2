"""The GGUF writer: two passes, a few megabytes of memory, no torch.

The first pass reads only headers: it plans where every tensor will lie and what it will take, so that a disk that is too
small or a model that does not fit the layout is refused before a byte is written. The second streams the tensors through one
small buffer; a second thread writes and hashes, so that conversion and disk overlap. The file appears under its name when
it is whole. Container: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import hashlib
import queue
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from phiforge.core.atomic import atomic_file
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.hardware import preflight_disk
from phiforge.export import encode
from phiforge.export.encode import TensorType
from phiforge.export.layouts import Layout, Rule, is_tied, layout_of, rope_rows
from phiforge.export.tensors import TensorFiles, read_json
from phiforge.export.vocabulary import Vocabulary, read_vocabulary

ALIGNMENT = 32
CHUNK = 4 << 20  # bytes of float32 rows converted at a time
BUFFERS = 4  # chunks in flight between conversion and disk

Value = str | bool | int | float | list[str] | list[int]


@dataclass(frozen=True)
class Planned:
    """One tensor of the file to be written; `shape` is (rows, columns) as ggml's matrices lie, or (values,)."""

    name: str
    source: str
    rule: Rule
    shape: tuple[int, ...]
    kind: TensorType
    offset: int  # from the start of the data section

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes without padding."""
        return self.kind.size(self.weights)


@dataclass(frozen=True)
class Plan:
    """What will be written."""

    layout: Layout
    config: dict[str, Any]
    vocabulary: Vocabulary
    metadata: dict[str, Value]
    tensors: tuple[Planned, ...]
    header: bytes
    kept_wider: tuple[str, ...]  # tensors whose rows are no whole blocks of the wanted type

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(_aligned(tensor.nbytes) for tensor in self.tensors)


@dataclass(frozen=True)
class Written:
    """What was written: true sizes, not nominal ones."""

    path: Path
    sha256: str
    nbytes: int
    parameters: int
    bits_per_weight: float
    plan: Plan = field(repr=False)

    def line(self) -> str:
        """The result in one line."""
        return f"{self.path.name}: {self.nbytes / 1e6:,.1f} MB, {self.parameters:,} weights, {self.bits_per_weight:.2f} bits per weight"


def write_gguf(model_dir: Path, path: Path, outtype: str = "F16", *, name: str | None = None) -> Written:
    """Write the model folder `model_dir` (save_pretrained: safetensors, config.json, tokenizer.json) to `path`.

    `outtype` is F32, F16, BF16 or Q8_0 (8.5 bits a weight). Raises ConfigError for a model that llama.cpp can't run as trained,
    DataError for missing, unexpected, misshapen or non-finite tensors, PreflightError when the disk is too small.
    """
    with TensorFiles(model_dir) as files:
        plan = plan_gguf(model_dir, files, outtype, name=name)
        preflight_disk(path.parent, plan.total_bytes)
        with atomic_file(path) as temporary, temporary.open("wb", buffering=0) as stream:
            digest = _stream(plan, files, stream)
    weights = sum(tensor.weights for tensor in plan.tensors)
    bits = 8 * sum(tensor.nbytes for tensor in plan.tensors) / weights
    return Written(path, digest, plan.total_bytes, weights, bits, plan)


# ---- first pass: the plan ------------------------------------------------------------------------------------------------


def plan_gguf(model_dir: Path, files: TensorFiles, outtype: str, *, name: str | None = None) -> Plan:
    """Where everything will lie; reads headers only."""
    wanted = encode.TYPES.get(outtype.upper())
    if wanted is None:
        raise ConfigError(f"outtype {outtype!r} is not written", fix=f"one of {', '.join(encode.TYPES)}")
    config = read_json(model_dir / "config.json")
    layout = layout_of(config)
    tensors = _plan_tensors(layout, config, files, wanted)
    vocabulary = read_vocabulary(model_dir, layout.dims(config)["V"])
    metadata = build_metadata(layout, config, vocabulary, wanted, name or model_dir.resolve().parent.name)
    kept = tuple(t.name for t in tensors if len(t.shape) == 2 and t.kind is not wanted and not t.rule.keep_f32)
    return Plan(layout, config, vocabulary, metadata, tensors, _header(metadata, tensors), kept)


def _plan_tensors(layout: Layout, config: Mapping[str, Any], files: TensorFiles, wanted: TensorType) -> tuple[Planned, ...]:
    dims, tied = layout.dims(config), is_tied(layout, config)
    found = _strip_prefix(layout, files)
    planned: list[Planned] = []
    offset = 0
    for rule, index in _expand(layout, dims["L"]):
        source = found.pop(rule.source.format(i=index), None)
        if rule.target == "output.weight":
            if tied:  # some writers store the head although it is the embedding
                continue
            if source is None:
                raise DataError(f"{files.folder}: lm_head.weight is missing and the head is not tied")
        if source is None:
            if rule.required:
                raise DataError(f"{files.folder}: the tensor {rule.source.format(i=index)} is missing")
            continue
        _check_shape(files, source, rule, dims)
        shape = files.entries[source].shape
        target_shape = shape[::-1] if rule.how == "transpose" else shape
        kind = _kind(rule, target_shape, wanted)
        planned.append(Planned(rule.target.format(i=index), source, rule, target_shape, kind, offset))
        offset += _aligned(planned[-1].nbytes)
    unknown = [name for name in found.values() if not name.endswith(layout.ignored or ("\0",))]
    if unknown:
        raise DataError(f"{files.folder}: {unknown[0]} has no place in llama.cpp's {layout.name} ({len(unknown)} such tensors)")
    return tuple(planned)


def _expand(layout: Layout, layers: int) -> Iterator[tuple[Rule, int]]:
    """Every rule once, or once a layer; layers in order, so that the file is read in the order in which it is run."""
    per_layer = [rule for rule in layout.tensors if "{i}" in rule.source]
    head = [rule for rule in layout.tensors if "{i}" not in rule.source]
    yield from ((rule, 0) for rule in head)
    yield from ((rule, index) for index in range(layers) for rule in per_layer)


def _strip_prefix(layout: Layout, files: TensorFiles) -> dict[str, str]:
    return {name.removeprefix(layout.prefix): name for name in files.entries}


def _check_shape(files: TensorFiles, source: str, rule: Rule, dims: Mapping[str, int]) -> None:
    shape, expected = files.entries[source].shape, tuple(dims[letter] for letter in rule.shape)
    if shape != expected:
        raise DataError(f"{files.folder}: {source} has shape {shape}, config.json says {expected}")


def _kind(rule: Rule, shape: tuple[int, ...], wanted: TensorType) -> TensorType:
    if len(shape) == 1 or rule.keep_f32:
        return encode.F32
    return wanted if shape[-1] % wanted.block == 0 else encode.F16  # as llama.cpp's own converter: rows must be whole blocks


def build_metadata(layout: Layout, config: Mapping[str, Any], vocabulary: Vocabulary, wanted: TensorType, name: str) -> dict[str, Value]:
    """Every key of the file, in order."""
    metadata: dict[str, Value] = {
        "general.architecture": layout.name,
        "general.type": "model",
        "general.name": name,
        "general.file_type": wanted.file_type,
        "general.quantization_version": 2,
        "general.alignment": ALIGNMENT,
    }
    metadata |= {f"{layout.name}.{key}": value for key, value in layout.metadata(config).items()}
    metadata |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.add_bos_token": vocabulary.add_bos,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "eot": vocabulary.eot_id, "padding": vocabulary.pad_id}
    metadata |= {f"tokenizer.ggml.{key}_token_id": value for key, value in ids.items() if value is not None}
    if vocabulary.chat_template is not None:
        metadata["tokenizer.chat_template"] = vocabulary.chat_template
    return metadata


# ---- the container -------------------------------------------------------------------------------------------------------


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    """Type id and bytes of a metadata value. Integers are unsigned 32-bit but in arrays, where llama.cpp expects signed."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], int):
        return struct.pack("<IIQ", 9, 5, len(value)) + np.asarray(value, "<i4").tobytes()
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(str(item)) for item in value)


def _header(metadata: Mapping[str, Value], tensors: tuple[Planned, ...]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [_text(key) + _value(value) for key, value in metadata.items()]
    for tensor in tensors:  # ggml counts dimensions from the fastest
        dims = tensor.shape[::-1]
        parts.append(_text(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.kind.ggml, tensor.offset))
    header = b"".join(parts)
    return header.ljust(_aligned(len(header)), b"\0")


# ---- second pass: the stream ---------------------------------------------------------------------------------------------


def _stream(plan: Plan, files: TensorFiles, stream: IO[bytes]) -> str:
    """Write header and tensors; returns the sha256 of what was written."""
    sink = _Sink(stream)
    try:
        sink.put(np.frombuffer(plan.header, np.uint8))
        scratch = np.empty(CHUNK, np.uint8)
        for tensor in plan.tensors:
            for rows in read_rows(files, tensor, plan.layout.dims(plan.config), scratch):
                room = sink.room(tensor.kind.size(rows.size))
                out = room[: tensor.kind.size(rows.size)]
                if not encode.encode(tensor.kind, rows, out):
                    raise DataError(
                        f"{files.folder}: {tensor.source} holds a value that {tensor.kind.name} can't",
                        fix="NaN or infinity: train again from an earlier checkpoint; too large for F16: outtype=bf16 or f32",
                    )
                sink.put(out, room)
            sink.put(np.zeros(_aligned(tensor.nbytes) - tensor.nbytes, np.uint8))
    finally:
        sink.finish()
    return sink.result()


def read_rows(
    files: TensorFiles, tensor: Planned, dims: Mapping[str, int], scratch: NDArray[np.uint8] | None = None
) -> Iterator[NDArray[np.float32]]:
    """The tensor as float32 in the order of the file, some rows at a time; a piece may be overwritten by the next."""
    if tensor.rule.how == "transpose":  # rows of the result are columns of the source: the whole matrix is needed
        whole = files.rows(tensor.source, 0, files.entries[tensor.source].shape[0])
        step = max(1, CHUNK // (4 * tensor.shape[1]))
        for start in range(0, tensor.shape[0], step):
            yield np.ascontiguousarray(whole.T[start : start + step])
        return
    width = int(np.prod(tensor.shape[1:], dtype=np.int64))
    step = max(1, CHUNK // (4 * width))
    order = None
    if tensor.rule.how in ("rope_q", "rope_k"):
        heads = dims["H"] if tensor.rule.how == "rope_q" else dims["G"]
        order, size = rope_rows(heads, tensor.shape[0]), tensor.shape[0] // heads
        step = max(size, step // size * size)  # whole heads
    for start in range(0, tensor.shape[0], step):
        stop = min(start + step, tensor.shape[0])
        rows = files.rows(tensor.source, start, stop, scratch)
        yield rows if order is None else rows[np.asarray(order(start, stop)) - start]


class _Sink:
    """A thread that writes and hashes, and the buffers that travel between it and the converter."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._filled: queue.Queue[tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None] = queue.Queue(maxsize=BUFFERS)
        self._free: queue.Queue[NDArray[np.uint8]] = queue.Queue()
        for _ in range(BUFFERS):
            self._free.put(np.empty(0, np.uint8))  # grown to the first chunk that needs it
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gguf-writer", daemon=True)
        self._thread.start()

    def room(self, size: int) -> NDArray[np.uint8]:
        """A buffer of at least `size` bytes that the thread no longer needs; give it back with `put`."""
        room = self._free.get()
        return room if room.size >= size else np.empty(size, np.uint8)

    def put(self, data: NDArray[np.uint8], room: NDArray[np.uint8] | None = None) -> None:
        """Hand `data` over, and the `room` in which it lies; raises what the thread met."""
        if self._error is not None:
            raise self._error
        self._filled.put((data, room))

    def finish(self) -> None:
        """Wait until everything is written."""
        if self._thread.is_alive():
            self._filled.put(None)
            self._thread.join()

    def result(self) -> str:
        """The sha256 of everything written; raises what the thread met."""
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def _run(self) -> None:
        while (item := self._filled.get()) is not None:
            data, room = item
            if self._error is None:
                try:
                    self._write(data)
                except BaseException as error:  # carried to the thread that converts
                    self._error = error
            if room is not None:
                self._free.put(room)

    def _write(self, data: NDArray[np.uint8]) -> None:
        view = data.data
        self._hash.update(view)
        while view:
            view = view[self._stream.write(view) :]
