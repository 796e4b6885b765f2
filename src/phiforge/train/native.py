"""The compiled element-wise kernels, where a C compiler is at hand; without one everything runs in torch, a little slower.

`kernels(x)` is None when x is not a bf16 tensor on the CPU, when there is no compiler, or when `PHIFORGE_NATIVE=0`.
"""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phiforge.core.compiler import Unavailable, load

SOURCE = Path(__file__).with_name("native.c")
SMALL = 1 << 15  # numbers below which a second thread costs more than it brings


class Kernels:
    """Calls into native.c. Tensors must be contiguous; rows are shared among torch's threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def run(self, name: str, rows: int, *arguments: Tensor | int | float, numbers: int, scratch: int = 0) -> None:
        """Call `name(arguments..., first, last)` for all rows. numbers: how many it touches. scratch: floats that each thread needs, passed
        in the place of the argument -1 (an int)."""
        function = getattr(self._library, name)
        threads = torch.get_num_threads() if numbers >= SMALL else 1
        step = -(-rows // threads)
        pieces = [(first, min(first + step, rows)) for first in range(0, rows, step)]
        if len(pieces) == 1:
            function(*_convert(arguments, scratch), ctypes.c_long(0), ctypes.c_long(rows))
            return
        calls = [(*_convert(arguments, scratch), ctypes.c_long(first), ctypes.c_long(last)) for first, last in pieces]
        for done in [_pool(threads).submit(function, *call) for call in calls]:
            done.result()


def _convert(arguments: tuple[Tensor | int | float, ...], scratch: int) -> list[Any]:
    out: list[Any] = []
    for value in arguments:
        if isinstance(value, Tensor):
            out.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, float):
            out.append(ctypes.c_float(value))
        elif scratch and value == -1:
            out.append((ctypes.c_float * scratch)())
        else:
            out.append(ctypes.c_long(value))
    return out


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)  # a call into C lets go of the interpreter's lock, so Python's threads do run at once


@functools.cache
def _loaded() -> Kernels | None:
    try:
        return Kernels(load(SOURCE))
    except Unavailable:
        return None


def kernels(x: Tensor) -> Kernels | None:
    """The kernels that can work on x, or None."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return None
    return _loaded()
