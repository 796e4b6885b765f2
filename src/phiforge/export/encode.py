"""float32 rows -> the bytes of a GGUF tensor type.

Each type has a slow form in numpy, which says what the bytes are, and, where the installed llama.cpp exports it, ggml's own
function behind ctypes; tests hold the two bit-equal. Formats: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.core.hardware import cpu_count

BLOCK = 32  # weights that share one scale in Q8_0

Bytes = NDArray[np.uint8]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class TensorType:
    """A GGUF tensor type: its id in ggml, llama.cpp's id for a file mostly of it, and bytes per block of weights."""

    name: str
    ggml: int
    file_type: int
    block: int
    block_bytes: int

    @property
    def bits(self) -> float:
        """True bits per weight, scales included."""
        return 8 * self.block_bytes / self.block

    def size(self, weights: int) -> int:
        """Bytes that `weights` weights take."""
        return weights // self.block * self.block_bytes


F32 = TensorType("F32", 0, 0, 1, 4)
F16 = TensorType("F16", 1, 1, 1, 2)
BF16 = TensorType("BF16", 30, 32, 1, 2)
Q8_0 = TensorType("Q8_0", 8, 7, BLOCK, 34)
TYPES = {kind.name: kind for kind in (F32, F16, BF16, Q8_0)}


def encode(kind: TensorType, rows: Rows, out: Bytes) -> bool:
    """Write contiguous `rows` (float32, any shape) into `out` as `kind`; False where a value is not finite in that type.

    `out` must be exactly `kind.size(rows.size)` bytes; for Q8_0 a row must be whole blocks.
    """
    if kind is F32:
        out.view(np.float32)[:] = rows.reshape(-1)
        return bool(np.isfinite(rows).all())
    fast = _ggml().get(kind.name)
    if fast is None:
        out[:] = SLOW[kind.name](rows)
    else:
        fast(rows, out)
    if kind is Q8_0:
        # the largest magnitude of a finite block times 1/127 must itself fit in half precision
        return bool(np.isfinite(rows).all()) and _finite_halves(out.reshape(-1, 34)[:, :2].copy().view(np.uint16), 0x7C00)
    return _finite_halves(out.view(np.uint16), 0x7C00 if kind is F16 else 0x7F80)


def _finite_halves(bits: NDArray[np.uint16], exponent: int) -> bool:
    """No value has its exponent bits all set (infinity or NaN)."""
    return not bits.size or int((bits & np.uint16(exponent)).max()) < exponent


def slow_f16(rows: Rows) -> Bytes:
    """IEEE half precision, ties to even."""
    with np.errstate(over="ignore"):
        return rows.reshape(-1).astype("<f2").view(np.uint8)


def slow_bf16(rows: Rows) -> Bytes:
    """The upper half of a float32, ties to even; a NaN keeps its sign and stays one."""
    bits = rows.reshape(-1).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, (bits >> np.uint32(16)) | np.uint32(64), rounded).astype("<u2").view(np.uint8)


def slow_q8_0(rows: Rows) -> Bytes:
    """Blocks of 32: a half-precision scale d = max|x| / 127, then 32 signed bytes round(x / d), halves away from zero."""
    blocks = rows.reshape(-1, BLOCK)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        scaled = blocks * np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        magnitude = np.abs(scaled)
        whole = np.floor(magnitude)
        whole += (magnitude - whole) >= np.float32(0.5)
        out = np.empty((len(blocks), Q8_0.block_bytes), np.uint8)
        out[:, :2] = scale.astype("<f2").view(np.uint8)
        out[:, 2:] = np.copysign(whole, scaled).astype(np.int8).view(np.uint8)
    return out.reshape(-1)


SLOW: dict[str, Callable[[Rows], Bytes]] = {"F16": slow_f16, "BF16": slow_bf16, "Q8_0": slow_q8_0}


def decode(kind: TensorType, data: Bytes) -> Rows:
    """The values that `data` stands for, as float32 (flat): what llama.cpp computes with."""
    if kind is F32:
        return data.view("<f4")
    if kind is F16:
        return data.view("<f2").astype(np.float32)
    if kind is BF16:
        return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    blocks = data.reshape(-1, kind.block_bytes)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return (scale * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(-1)


@functools.cache
def _ggml() -> dict[str, Callable[[Rows, Bytes], Any]]:
    """ggml's converters, where the installed xllamacpp exports them (an undocumented courtesy, hence the slow forms)."""
    try:
        import xllamacpp.xllamacpp as binary

        library = ctypes.CDLL(binary.__file__)
    except (ImportError, OSError):
        return {}
    found: dict[str, Callable[[Rows, Bytes], Any]] = {}
    for name, symbol in (("F16", "ggml_cpu_fp32_to_fp16"), ("BF16", "ggml_cpu_fp32_to_bf16"), ("Q8_0", "quantize_row_q8_0_ref")):
        function = getattr(library, symbol, None)
        if function is None:
            continue
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        if _agrees(name, function):
            found[name] = _bind(function)
    return found


def _bind(function: Any) -> Callable[[Rows, Bytes], Any]:
    """Rows in two halves on two threads (the call lets go of the interpreter), whole blocks each; small ones in one piece."""

    def convert(rows: Rows, out: Bytes) -> None:
        half = rows.size // 2 // BLOCK * BLOCK
        if rows.size < _WORTH_A_THREAD or cpu_count() == 1:
            function(rows.ctypes.data, out.ctypes.data, rows.size)
            return
        second = _pool().submit(function, rows.ctypes.data + 4 * half, out.ctypes.data + half * out.size // rows.size, rows.size - half)
        function(rows.ctypes.data, out.ctypes.data, half)
        second.result()

    return convert


_WORTH_A_THREAD = 1 << 18  # weights; a quarter of a millisecond and more


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="gguf-encode")


def _agrees(name: str, function: Any) -> bool:
    """A converter is used only after it gave the slow form's bytes on a sample of every magnitude."""
    sample = np.concatenate([np.ldexp(np.linspace(-1, 1, 64), e) for e in range(-30, 16)] + [np.zeros(64)]).astype(np.float32)
    out = np.zeros(TYPES[name].size(sample.size), np.uint8)
    _bind(function)(sample, out)
    return bool((out == SLOW[name](sample)).all())
