# mypy: disable-error-code="no-untyped-def"
"""The two kernels of recurrence_gpu.py. Imports triton at the top: only recurrence_gpu.py, on first use, imports this file.

One program a row. Tiles are BV x BK, powers of two; what lies outside DV x DK is loaded as 0 and stays 0.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _decay(decay, token, j, DK: tl.constexpr, RATES: tl.constexpr):
    """The token's decay of each column (BK,): 1 without any."""
    if RATES == 0:
        return j * 0.0 + 1.0
    elif RATES == DK:
        return tl.load(decay + token * DK + j, j < DK, 0.0)
    else:
        return j * 0.0 + tl.load(decay + token)


@triton.jit
def forward_kernel(
    k, v, q, decay, beta, initial, reset, read, states, final, borders, error, length,
    HAS_BETA: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, HAS_STATES: tl.constexpr,
    R: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, SPAN: tl.constexpr, RATES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, BV), tl.arange(0, BK)
    at = i[:, None] * DK + j[None, :]
    inside = (i[:, None] < DV) & (j[None, :] < DK)
    state = tl.zeros((BV, BK), tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + row * DV * DK + at, inside, 0.0)
    spans = (length + SPAN - 1) // SPAN
    for t in range(length):
        token = row * length + t
        if t % SPAN == 0:
            tl.store(borders + (row * spans + t // SPAN) * DV * DK + at, state, inside)
        if HAS_RESET:
            state = tl.where(tl.load(reset + token) != 0, 0.0, state)
        key = tl.load(k + token * DK + j, j < DK, 0.0)
        written = tl.load(v + token * DV + i, i < DV, 0.0)
        state = state * _decay(decay, token, j, DK, RATES)[None, :]
        if HAS_BETA:
            written = written - tl.sum(state * key[None, :], 1)
            tl.store(error + token * DV + i, written, i < DV)
            written = written * tl.load(beta + token)
        state = state + written[:, None] * key[None, :]
        for r in tl.static_range(R):
            query = tl.load(q + (token * R + r) * DK + j, j < DK, 0.0)
            tl.store(read + (token * R + r) * DV + i, tl.sum(state * query[None, :], 1), i < DV)
        if HAS_STATES:
            tl.store(states + token * DV * DK + at, state, inside)
    tl.store(final + row * DV * DK + at, state, inside)


@triton.jit
def backward_kernel(
    k, v, q, decay, beta, initial, reset, borders, error, scratch, d_read, d_states, d_final,
    d_k, d_v, d_q, d_decay, d_beta, d_initial, length,
    HAS_BETA: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_RESET: tl.constexpr, HAS_STATES: tl.constexpr,
    HAS_D_READ: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    R: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, SPAN: tl.constexpr, RATES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, BV), tl.arange(0, BK)
    at = i[:, None] * DK + j[None, :]
    inside = (i[:, None] < DV) & (j[None, :] < DK)
    grad = tl.zeros((BV, BK), tl.float32)
    if HAS_D_FINAL:
        grad = tl.load(d_final + row * DV * DK + at, inside, 0.0)
    spans = (length + SPAN - 1) // SPAN
    room = scratch + row * (SPAN + 1) * DV * DK
    for back in range(spans):
        span = spans - 1 - back
        first = span * SPAN
        count = tl.minimum(SPAN, length - first)
        state = tl.load(borders + (row * spans + span) * DV * DK + at, inside, 0.0)
        tl.debug_barrier()  # the last span's states have been read by all threads
        for t in range(count):  # the states of the span, once more; room[t]: before token t
            token = row * length + first + t
            tl.store(room + t * DV * DK + at, state, inside)
            key = tl.load(k + token * DK + j, j < DK, 0.0)
            if HAS_BETA:
                written = tl.load(error + token * DV + i, i < DV, 0.0) * tl.load(beta + token)
            else:
                written = tl.load(v + token * DV + i, i < DV, 0.0)
            if HAS_RESET:
                state = tl.where(tl.load(reset + token) != 0, 0.0, state)
            state = state * _decay(decay, token, j, DK, RATES)[None, :] + written[:, None] * key[None, :]
        tl.debug_barrier()
        for ago in range(count):
            t = count - 1 - ago
            token = row * length + first + t
            old = tl.load(room + t * DV * DK + at, inside, 0.0)
            if HAS_RESET:
                old = tl.where(tl.load(reset + token) != 0, 0.0, old)
            fade = _decay(decay, token, j, DK, RATES)
            key = tl.load(k + token * DK + j, j < DK, 0.0)
            if HAS_BETA:
                rate = tl.load(beta + token)
                missed = tl.load(error + token * DV + i, i < DV, 0.0)
                written = missed * rate
            else:
                written = tl.load(v + token * DV + i, i < DV, 0.0)
            if HAS_STATES:
                grad = grad + tl.load(d_states + token * DV * DK + at, inside, 0.0)
            if HAS_D_READ:
                now = old * fade[None, :] + written[:, None] * key[None, :]
                for r in tl.static_range(R):
                    want = tl.load(d_read + (token * R + r) * DV + i, i < DV, 0.0)
                    query = tl.load(q + (token * R + r) * DK + j, j < DK, 0.0)
                    tl.store(d_q + (token * R + r) * DK + j, tl.sum(now * want[:, None], 0), j < DK)
                    grad = grad + want[:, None] * query[None, :]
            d_written = tl.sum(grad * key[None, :], 1)
            d_key = tl.sum(grad * written[:, None], 0)
            if HAS_BETA:
                tl.store(d_beta + token, tl.sum(d_written * missed, 0))
                d_written = d_written * rate
                d_key = d_key - fade * tl.sum(old * d_written[:, None], 0)
                grad = grad - d_written[:, None] * key[None, :]
            tl.store(d_v + token * DV + i, d_written, i < DV)
            tl.store(d_k + token * DK + j, d_key, j < DK)
            if RATES > 0:
                d_log = fade * tl.sum(grad * old, 0)
                if RATES == DK:
                    tl.store(d_decay + token * DK + j, d_log, j < DK)
                else:
                    tl.store(d_decay + token, tl.sum(d_log, 0))
            grad = grad * fade[None, :]
            if HAS_RESET:
                grad = tl.where(tl.load(reset + token) != 0, 0.0, grad)
    if HAS_INITIAL:
        tl.store(d_initial + row * DV * DK + at, grad, inside)
