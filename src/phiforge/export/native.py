"""llama.cpp's C functions behind ctypes: all logits of a text at once, and its own token ids.

The server of xllamacpp answers only for tokens that it generates; a parity check wants every position. The shared library
beside it exports llama.cpp's C interface, whose parameter structs change between versions, so nothing is taken on trust:
fields are found by the defaults that llama.cpp itself fills in, and what the context was really made with is read back from its
log (cache type, flash attention). Where any of that does not fit, `NativeUnavailable` says so and the caller asks the server.
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.core.errors import PhiforgeError

GGML_F32 = 0
FLASH_OFF = 0
_BLOB = 1024  # larger than any version of the parameter structs


class NativeUnavailable(Exception):
    """This build of llama.cpp does not export what is needed, or exports something else under the name."""


class _Params(ctypes.Structure):
    """A parameter struct of unknown fields. It is the last argument and passed in memory, so a larger one is harmless."""

    _fields_ = (("raw", ctypes.c_uint8 * _BLOB),)


class _Batch(ctypes.Structure):
    """llama_batch of llama.h."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_log: list[str] = []


@_LOG_CALLBACK
def _keep(level: int, text: bytes, data: Any) -> None:
    """Takes llama.cpp's messages instead of the terminal; the last few hundred are kept for errors and for reading back."""
    _log.append(text.decode("utf-8", errors="replace"))
    del _log[:-2000]


@functools.cache
def library() -> ctypes.CDLL:
    """The shared library inside xllamacpp, with signatures declared. Raises NativeUnavailable."""
    try:
        import xllamacpp.xllamacpp as binary

        lib = ctypes.CDLL(binary.__file__)
        pointer, i32 = ctypes.c_void_p, ctypes.c_int32
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "llama_log_set": (None, [_LOG_CALLBACK, pointer]),
            "llama_backend_init": (None, []),
            "llama_model_default_params": (_Params, []),
            "llama_context_default_params": (_Params, []),
            "llama_model_load_from_file": (pointer, [ctypes.c_char_p, _Params]),
            "llama_model_free": (None, [pointer]),
            "llama_model_get_vocab": (pointer, [pointer]),
            "llama_model_n_ctx_train": (i32, [pointer]),
            "llama_model_meta_val_str": (i32, [pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
            "llama_vocab_n_tokens": (i32, [pointer]),
            "llama_tokenize": (i32, [pointer, ctypes.c_char_p, i32, ctypes.POINTER(i32), i32, ctypes.c_bool, ctypes.c_bool]),
            "llama_init_from_model": (pointer, [pointer, _Params]),
            "llama_free": (None, [pointer]),
            "llama_n_ctx": (ctypes.c_uint32, [pointer]),
            "llama_get_memory": (pointer, [pointer]),
            "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
            "llama_batch_init": (_Batch, [i32, i32, i32]),
            "llama_batch_free": (None, [_Batch]),
            "llama_decode": (i32, [pointer, _Batch]),
            "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [pointer, i32]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError) as error:
        raise NativeUnavailable(f"xllamacpp does not export llama.cpp's C interface ({error})") from None
    silence()
    lib.llama_backend_init()
    return lib


def silence() -> None:
    """Send llama.cpp's messages here instead of to the terminal (whoever set a callback before loses it)."""
    try:
        import xllamacpp.xllamacpp as binary

        lib = ctypes.CDLL(binary.__file__)
        for name in ("llama_log_set", "ggml_log_set"):
            getattr(lib, name)(_keep, None)
    except (ImportError, OSError, AttributeError):
        return


def recent_log() -> str:
    """What llama.cpp has said lately."""
    return "".join(_log)


@dataclass(frozen=True)
class _Fields:
    """Byte offsets in llama_context_params."""

    n_threads: int
    flash: int
    type_k: int


def find_fields(defaults: bytes) -> _Fields:
    """Offsets of the fields that matter, found by their defaults. Raises NativeUnavailable when the pattern isn't there.

    The struct opens with n_ctx 512, n_batch 2048, n_ubatch 512, n_seq_max 1; later come n_threads 4, n_threads_batch 4, the context
    type, then rope scaling, pooling, attention, flash attention (all -1), then floats, then two pointers and type_k, type_v (F16 = 1).
    """
    words = struct.unpack_from("<64i", defaults)
    if words[:4] != (512, 2048, 512, 1):
        raise NativeUnavailable("llama_context_params begins with unknown fields")
    run = next((i for i in range(4, 24) if words[i : i + 4] == (-1, -1, -1, -1)), None)
    if run is None:
        raise NativeUnavailable("llama_context_params: the attention fields were not found")
    threads = next((i for i in range(run - 1, 4, -1) if words[i - 1 : i + 1] == (4, 4)), None)
    types = next((i for i in range(run + 10, 40, 1) if words[i : i + 2] == (1, 1) and words[i - 4 : i] == (0, 0, 0, 0)), None)
    if threads is None or types is None:
        raise NativeUnavailable("llama_context_params: the thread or cache fields were not found")
    return _Fields(n_threads=4 * (threads - 1), flash=4 * (run + 3), type_k=4 * types)


class NativeModel:
    """A GGUF file in llama.cpp with a full-precision cache and flash attention off. Use as a context manager."""

    def __init__(self, path: Path, *, window: int = 512, threads: int = 1) -> None:
        self._lib = library()
        self._model = self._context = None
        self._batch: _Batch | None = None
        _log.clear()
        silence()
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), self._lib.llama_model_default_params())
        if not self._model:
            raise PhiforgeError(f"llama.cpp can't load {path}: {_last_error()}")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.vocab_size = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self.context_length = int(self._lib.llama_model_n_ctx_train(self._model))
        self.window = min(window, self.context_length)
        try:
            self._make_context(threads)
        except NativeUnavailable:
            self.close()
            raise

    def _make_context(self, threads: int) -> None:
        params = self._lib.llama_context_default_params()
        fields = find_fields(bytes(params.raw))
        for offset, value in (
            *((offset, self.window) for offset in (0, 4, 8)),
            (fields.n_threads, threads),
            (fields.n_threads + 4, threads),
            (fields.flash, FLASH_OFF),
            (fields.type_k, GGML_F32),
            (fields.type_k + 4, GGML_F32),
        ):
            struct.pack_into("<i", params.raw, offset, value)
        mark = len(_log)
        silence()
        self._context = self._lib.llama_init_from_model(self._model, params)
        said = "".join(_log[min(mark, len(_log)) :]) if len(_log) < 2000 else recent_log()
        if not self._context:
            raise NativeUnavailable(f"llama.cpp made no context: {_last_error()}")
        flash = re.search(r"flash_attn\s*=\s*(\w+)", said)
        if flash is None or flash.group(1) not in ("disabled", "0") or "K (f32)" not in said or "V (f32)" not in said:
            raise NativeUnavailable("llama.cpp did not take the cache type or flash attention setting")
        self._batch = self._lib.llama_batch_init(self.window, 0, 1)
        if self._batch.embd or not (self._batch.token and self._batch.pos and self._batch.seq_id and self._batch.logits):
            raise NativeUnavailable("llama_batch has another form")

    def __enter__(self) -> NativeModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free everything."""
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._batch = self._context = self._model = None

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids as llama.cpp makes them."""
        data = text.encode("utf-8")
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, add_special, parse_special)
        if count < 0:
            raise PhiforgeError(f"llama.cpp needs {-count:,} tokens for {len(data):,} bytes of text")
        return ids[:count]

    def metadata(self, key: str) -> str | None:
        """A scalar value of the file's metadata as llama.cpp read it."""
        buffer = ctypes.create_string_buffer(1 << 16)
        length = self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", errors="replace")

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits at every position of one fresh sequence: (T,) ids -> (T, V)."""
        if not 0 < len(ids) <= self.window:
            raise ValueError(f"{len(ids)} tokens do not fit a window of {self.window}")
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._decode(ids, 0)
        return np.stack([self._row(index) for index in range(len(ids))])

    def greedy(self, prompt: Sequence[int], new: int, follow: Sequence[int] = ()) -> list[int]:
        """The likeliest next token, `new` times, one token at a time through the cache.

        With `follow`, those ids are fed instead of what the model chose, so that one tie does not end the comparison.
        """
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._decode(prompt, 0)
        last = len(prompt) - 1
        chosen: list[int] = []
        for step in range(new):
            chosen.append(int(self._row(last).argmax()))
            if step + 1 < new:
                self._decode([follow[step] if step < len(follow) else chosen[-1]], len(prompt) + step)
                last = 0
        return chosen

    def _decode(self, ids: Sequence[int], start: int) -> None:
        batch = self._batch
        assert batch is not None
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index] = int(token), start + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = 1
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise PhiforgeError(f"llama.cpp could not evaluate {len(ids)} tokens (code {code}): {_last_error()}")

    def _row(self, index: int) -> NDArray[np.float32]:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise PhiforgeError(f"llama.cpp gave no logits at position {index}")
        return np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy()


def _last_error() -> str:
    """The first of llama.cpp's recent messages that speaks of a failure, in one line."""
    lines = [
        line.strip() for line in recent_log().splitlines() if re.search(r"error|fail|invalid|unknown|missing|unable", line, re.IGNORECASE)
    ]
    return lines[0] if lines else "it gave no reason"
