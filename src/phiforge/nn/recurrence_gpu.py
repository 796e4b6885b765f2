"""The scan as Triton kernels, for CUDA: one program a row of the batch, the state in registers, backward by hand as in `recurrence.c`.

Not yet run on a card: tests/parity/test_recurrence_gpu.py compares it with the loop in Triton's interpreter, and on the card where there is
one. So nothing is known of its speed: tokens go one after another, and with few rows `form="chunk"` may be faster. Triton comes with
torch's CUDA wheels; it is imported on first use.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_WIDTH = 128  # of key and value: the state and its gradient are held in registers
SPAN = 16  # tokens between two kept states; backward makes those inside a span again


def why_not(k: Tensor, v: Tensor) -> str | None:
    """Why this form can't take these keys and values, in one line; None when it can."""
    if k.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the Triton form works on CUDA, not on {k.device.type}"
    if k.dtype != torch.float32:
        return f"the Triton form works in float32, not in {k.dtype}"
    if max(k.shape[2], v.shape[2]) > MOST_WIDTH:
        return f"the Triton form takes widths up to {MOST_WIDTH}, not {max(k.shape[2], v.shape[2])}"
    return None if _present() else "the package triton is not installed"


@functools.cache
def _present() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_scan(
    k: Tensor,
    v: Tensor,
    q: Tensor | None,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    states: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """(read, states, final) of the scan; arguments as `recurrence.scan` has them, float32 on one CUDA device."""
    read, kept, final = _Scan.apply(k, v, q, log_decay, beta, state, reset, states)
    return read, kept, final


def _tile(width: int) -> int:
    return max(2, 1 << (width - 1).bit_length())


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        v: Tensor,
        q: Tensor | None,
        log_decay: Tensor | None,
        beta: Tensor | None,
        state: Tensor | None,
        reset: Tensor | None,
        states: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        from phiforge.nn.recurrence_triton import forward_kernel

        ctx.set_materialize_grads(False)
        rows, length, dk = k.shape
        dv = v.shape[2]
        given = [k, v, q, None if log_decay is None else log_decay.exp(), beta, state, None if reset is None else reset.to(torch.int8)]
        given = [None if x is None else x.contiguous() for x in given]
        read = None if q is None else k.new_empty(rows, length, q.shape[2], dv)
        kept = k.new_empty(rows, length, dv, dk) if states else None
        final = k.new_empty(rows, dv, dk)
        borders = k.new_empty(rows, -(-length // SPAN), dv, dk)
        error = torch.empty_like(v, memory_format=torch.contiguous_format)
        ctx.settings = _settings(k, v, q, log_decay)
        forward_kernel[(rows,)](*_pointers([*given, read, kept, final, borders, error], k), length, **_flags(given, kept), **ctx.settings)
        ctx.present = [x is not None for x in given]
        ctx.save_for_backward(*(x for x in given if x is not None), borders, error)
        return read, kept, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_read: Tensor | None, d_states: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        from phiforge.nn.recurrence_triton import backward_kernel

        *saved, borders, error = ctx.saved_tensors
        saved = iter(saved)
        given = [next(saved) if there else None for there in ctx.present]
        k: Any = given[0]
        rows, length, dk = k.shape
        outer = [None if x is None else x.contiguous() for x in (d_read, d_states, d_final)]
        made = [None if x is None else torch.empty_like(x) for x in given[:6]]
        if d_read is None:
            made[2] = None
        scratch = k.new_empty(rows, SPAN + 1, error.shape[2], dk)
        backward_kernel[(rows,)](
            *_pointers([*given, borders, error, scratch, *outer, *made], k), length, **_flags(given, d_states),
            HAS_D_READ=d_read is not None, HAS_D_FINAL=d_final is not None, **ctx.settings,
        )  # fmt: skip
        return (*made, None, None)


def _settings(k: Tensor, v: Tensor, q: Tensor | None, log_decay: Tensor | None) -> dict[str, int]:
    dk, dv = k.shape[2], v.shape[2]
    tile = _tile(dk) * _tile(dv)
    return {
        "R": 0 if q is None else q.shape[2], "DK": dk, "DV": dv, "BK": _tile(dk), "BV": _tile(dv), "SPAN": SPAN,
        "RATES": 0 if log_decay is None else log_decay.shape[2], "num_warps": 1 if tile <= 1024 else 4 if tile <= 4096 else 8,
    }  # fmt: skip


def _flags(given: list[Tensor | None], states: Tensor | None) -> dict[str, bool]:
    _, _, _, _, beta, initial, reset = given
    return {
        "HAS_BETA": beta is not None, "HAS_INITIAL": initial is not None, "HAS_RESET": reset is not None, "HAS_STATES": states is not None,
    }  # fmt: skip


def _pointers(tensors: list[Tensor | None], anything: Tensor) -> list[Tensor]:
    """What is absent is never touched by the kernel; it still wants a pointer."""
    return [anything if x is None else x for x in tensors]
