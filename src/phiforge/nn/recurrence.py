"""A memory of one matrix per row, carried through time: the scan behind Thyme, in a form for every machine.

    S   = S_(t-1) exp(log_decay_t)        each column (a dimension of the key) fades at its own rate
    u_t = beta_t (v_t - S k_t)            delta rule: write only what the key does not already recall
    u_t = v_t                             without beta: add
    S_t = S + u_t k_t^T                   read_t = S_t q_t

Delta rule: Widrow & Hoff 1960; as a linear attention Schlag et al. 2021 (arXiv 2102.11174); in chunks Yang et al. 2024 (arXiv 2406.06484);
with a decay for each key dimension Yang et al. 2023 (arXiv 2312.06635) and Yang et al. 2024 (arXiv 2412.06464).

B rows, T tokens, R queries a token, dk and dv widths of key and value. `loop` is the reference that every other form is held to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phiforge.nn import recurrence_gpu as gpu
from phiforge.nn import recurrence_native as native
from phiforge.nn.recurrence_chunk import chunk_scan

FORMS = ("auto", "loop", "chunk", "native", "triton")


@dataclass(frozen=True)
class Scanned:
    """What a scan leaves behind, float32 (float64 where keys and values were)."""

    read: Tensor | None  # (B, T, R, dv); None without queries
    states: Tensor | None  # (B, T, dv, dk), the state after each token; None unless asked for
    final: Tensor  # (B, dv, dk), the state after the last token


def scan(
    k: Tensor,
    v: Tensor,
    *,
    q: Tensor | None = None,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    states: bool = False,
    form: str = "auto",
    chunk: int = 16,
) -> Scanned:
    """Run the recurrence over a whole sequence; differentiable in every tensor but `reset`.

    k (B, T, dk); v (B, T, dv); q (B, T, R, dk). log_decay <= 0: (B, T, dk) a rate for each key dimension, (B, T, 1) one for all, None:
    nothing fades. beta (B, T) in (0, 1) for the delta rule, None to add. state (B, dv, dk), None: zeros. reset (B, T) bool: the state is
    zeroed before token t. Keys should have length at most 1 with beta, or the state may grow without bound.

    form: `loop` (the reference), `chunk` (torch, chunks of `chunk` tokens), `native` (C, on a CPU with a compiler), `triton` (CUDA); `auto`
    takes native, else triton, else chunk. Arithmetic is float32 whatever the inputs, autocast or not; float64 where k and v are (loop and
    chunk). Second derivatives: `loop` only. Raises ValueError where shapes don't fit, or a form that was asked for can't work here.
    """
    _check(k, v, q, log_decay, beta, state, reset, form, chunk)
    dtype = torch.float64 if k.dtype == v.dtype == torch.float64 else torch.float32
    with torch.autocast(k.device.type, enabled=False):
        k, v = k.to(dtype), v.to(dtype)
        q, log_decay, beta, state = (None if x is None else x.to(dtype) for x in (q, log_decay, beta, state))
        chosen = _choose(form, k, v)
        if chosen == "loop":
            return loop(k, v, q, log_decay, beta, state, reset, states)
        if chosen == "chunk":
            return Scanned(*chunk_scan(k, v, q, log_decay, beta, state, reset, states, chunk))
        run = _native if chosen == "native" else gpu.triton_scan
        return Scanned(*run(k, v, q, log_decay, beta, state, reset, states))


# a call into C can't be traced; under torch.compile the graph breaks here
_native = torch.compiler.disable(native.native_scan)


def _choose(form: str, k: Tensor, v: Tensor) -> str:
    for name, why_not in (("native", native.why_not), ("triton", gpu.why_not)):
        if form in (name, "auto"):
            reason = why_not(k, v)
            if reason is None:
                return name
            if form == name:
                raise ValueError(f"form={form!r}: {reason}")
    return "chunk" if form == "auto" else form


def _check(
    k: Tensor,
    v: Tensor,
    q: Tensor | None,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    form: str,
    chunk: int,
) -> None:
    if form not in FORMS:
        raise ValueError(f"form={form!r}: one of {', '.join(FORMS)} is expected")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least 1 is needed")
    if k.ndim != 3 or v.ndim != 3 or k.shape[:2] != v.shape[:2]:
        raise ValueError(f"k {tuple(k.shape)}, v {tuple(v.shape)}: (B, T, dk) and (B, T, dv) are expected")
    rows, length, dk = k.shape
    if length == 0:
        raise ValueError("T=0: a scan needs at least one token")
    expected: dict[str, tuple[Tensor | None, list[tuple[int, ...]]]] = {
        "q": (q, [(rows, length, q.shape[2] if q is not None and q.ndim == 4 else 1, dk)]),
        "log_decay": (log_decay, [(rows, length, dk), (rows, length, 1)]),
        "beta": (beta, [(rows, length)]),
        "state": (state, [(rows, v.shape[2], dk)]),
        "reset": (reset, [(rows, length)]),
    }
    for name, (given, shapes) in expected.items():
        if given is not None and tuple(given.shape) not in shapes:
            raise ValueError(f"{name} {tuple(given.shape)}: expected {' or '.join(map(str, shapes))}, to go with k {tuple(k.shape)}")
    if reset is not None and reset.dtype != torch.bool:
        raise ValueError(f"reset is {reset.dtype}: bool is expected")


def step(
    state: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor | None = None,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """One token: (read (B, R, dv) or None, the new state (B, dv, dk)), both of the state's dtype.

    state (B, dv, dk); k (B, dk); v (B, dv); q (B, R, dk); log_decay (B, dk), (B, 1) or None; beta (B,) or None. `inplace` writes over
    `state` (generation: nothing grows); not for training. As in `scan`, autocast is set aside.
    """
    if torch.is_autocast_enabled(state.device.type):
        with torch.autocast(state.device.type, enabled=False):
            return step(state, k, v, q, log_decay, beta, inplace=inplace)
    k, v = k.to(state.dtype), v.to(state.dtype)
    if log_decay is not None:
        decay = log_decay.to(state.dtype).exp().unsqueeze(1)
        state = state.mul_(decay) if inplace else state * decay
    written = v.unsqueeze(2)
    if beta is not None:
        written = torch.baddbmm(written, state, k.unsqueeze(2), alpha=-1) * beta.to(state.dtype)[:, None, None]
    update = state.baddbmm_ if inplace else state.baddbmm
    state = update(written, k.unsqueeze(1))
    return None if q is None else torch.bmm(q.to(state.dtype), state.mT), state


def loop(
    k: Tensor,
    v: Tensor,
    q: Tensor | None,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    states: bool,
) -> Scanned:
    """The reference: the equations as they stand, a token at a time, gradients by autograd."""
    current = v.new_zeros(k.shape[0], v.shape[2], k.shape[2]) if state is None else state
    reads, kept = [], []
    for t in range(k.shape[1]):
        if reset is not None:
            current = torch.where(reset[:, t, None, None], 0.0, current)
        read, current = step(
            current,
            k[:, t],
            v[:, t],
            None if q is None else q[:, t],
            None if log_decay is None else log_decay[:, t],
            None if beta is None else beta[:, t],
        )
        reads.append(read)
        kept.append(current)
    return Scanned(
        read=None if q is None else torch.stack([read for read in reads if read is not None], 1),
        states=torch.stack(kept, 1) if states else None,
        final=current,
    )
