"""The scan in C (`recurrence.c`), for a CPU with a compiler: forward and a hand-derived backward, rows shared among torch's threads."""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phiforge.core.compiler import Unavailable, load

SOURCE = Path(__file__).with_name("recurrence.c")
MOST_WIDTH = 256  # of key and value, as in the C file
SPAN = 16  # tokens between two kept states; measured at 4, 8, 16, 32: within 10 %
SMALL = 1 << 19  # state entries times tokens below which a second thread costs more than it brings

_LONGS = ("length", "queries", "dv", "dk", "span", "scalar")
_POINTERS = (
    "k", "v", "q", "decay", "beta", "initial", "reset", "error", "borders", "read", "states", "final",
    "d_read", "d_states", "d_final", "d_k", "d_v", "d_q", "d_decay", "d_beta", "d_initial",
)  # fmt: skip


class _Call(ctypes.Structure):
    """`scan_call` of the C file, field by field."""

    _fields_ = [*((name, ctypes.c_long) for name in _LONGS), *((name, ctypes.c_void_p) for name in _POINTERS)]


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled library, or why there is none."""
    try:
        return load(SOURCE)
    except Unavailable as error:
        return str(error)


def why_not(k: Tensor, v: Tensor) -> str | None:
    """Why this form can't take these keys and values, in one line; None when it can."""
    if k.device.type != "cpu":
        return f"the native form works on the CPU, not on {k.device.type}"
    if k.dtype != torch.float32:
        return f"the native form works in float32, not in {k.dtype}"
    if max(k.shape[2], v.shape[2]) > MOST_WIDTH:
        return f"the native form takes widths up to {MOST_WIDTH}, not {max(k.shape[2], v.shape[2])}"
    made = library()
    return made if isinstance(made, str) else None


def native_scan(
    k: Tensor,
    v: Tensor,
    q: Tensor | None,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    states: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """(read, states, final) of the scan; arguments as `recurrence.scan` has them, float32 on the CPU."""
    read, kept, final = _Scan.apply(k, v, q, log_decay, beta, state, reset, states)
    return read, kept, final


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
        ctx.set_materialize_grads(False)
        rows, length, dk = k.shape
        dv = v.shape[2]
        decay = None if log_decay is None else log_decay.exp()
        given = {"k": k, "v": v, "q": q, "decay": decay, "beta": beta, "initial": state, "reset": reset}
        inputs = {name: x.contiguous() for name, x in given.items() if x is not None}
        made = {"final": k.new_empty(rows, dv, dk)}
        if q is not None:
            made["read"] = k.new_empty(rows, length, q.shape[2], dv)
        if states:
            made["states"] = k.new_empty(rows, length, dv, dk)
        kept = {}
        if any(ctx.needs_input_grad):
            kept["borders"] = k.new_empty(rows, -(-length // SPAN), dv, -(-dk // 8) * 8)
            if beta is not None:
                kept["error"] = torch.empty_like(inputs["v"])
        _run(inputs | made | kept, backward=False)
        ctx.names = [*inputs, *kept]
        ctx.save_for_backward(*inputs.values(), *kept.values())
        return made.get("read"), made.get("states"), made["final"]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_read: Tensor | None, d_states: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        known = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        outer = {"d_read": d_read, "d_states": d_states, "d_final": d_final}
        outer = {name: x.contiguous() for name, x in outer.items() if x is not None}
        wanted = {"d_k": "k", "d_v": "v", "d_decay": "decay", "d_beta": "beta"} | ({"d_q": "q"} if d_read is not None else {})
        made = {name: torch.empty_like(known[of]) for name, of in wanted.items() if of in known}
        if "initial" in known and ctx.needs_input_grad[5]:
            made["d_initial"] = torch.empty_like(known["initial"])
        _run(known | outer | made, backward=True)
        return (*(made.get(name) for name in ("d_k", "d_v", "d_q", "d_decay", "d_beta", "d_initial")), None, None)


def _run(tensors: dict[str, Tensor], *, backward: bool) -> None:
    made = library()
    assert not isinstance(made, str), made
    k, v = tensors["k"], tensors["v"]
    rows, length, dk = k.shape
    call = _Call(length=length, queries=tensors["q"].shape[2] if "q" in tensors else 0, dv=v.shape[2], dk=dk, span=SPAN)
    call.scalar = int("decay" in tensors and tensors["decay"].shape[2] == 1)
    for name, tensor in tensors.items():
        setattr(call, name, tensor.data_ptr())
    work = rows * length * dk * v.shape[2]
    threads = min(rows, torch.get_num_threads()) if work >= SMALL else 1
    step = -(-rows // threads)
    pieces = [(first, min(first + step, rows)) for first in range(0, rows, step)]
    arguments = [(ctypes.byref(call), int(backward), ctypes.c_long(first), ctypes.c_long(last)) for first, last in pieces]
    if len(arguments) == 1:
        failed = made.scan_run(*arguments[0])
    else:
        running = [_pool(threads).submit(made.scan_run, *each) for each in arguments]
        failed = max(done.result() for done in running)  # all of them are waited for
    if failed:
        raise MemoryError(f"no memory for the scan's working space (widths {dk} and {v.shape[2]})")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)  # a call into C lets go of the interpreter's lock, so Python's threads do run at once
