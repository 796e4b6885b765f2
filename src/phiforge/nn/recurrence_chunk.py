"""The scan in chunks of C tokens, plain torch: what a machine without a compiler uses, and any device torch knows.

Inside a chunk that starts from the state S_0, with fade(s, t) = exp(sum of log_decay over s < r <= t):

    u_t = beta_t (v_t - S_0 (fade(start, t) * k_t) - sum_{s < t} u_s  k_t . (fade(s, t) * k_s))
        => U = T V - (T K') S_0^T     T = (I + diag(beta) M)^-1 diag(beta), the UT transform (arXiv 2406.06484)
    S_C = S_0 A + B                   A = diag(fade(start, end)) - (T K')^T K"      B = (T V)^T K"

A and B of all chunks are found at once; what goes chunk by chunk is one small product, S A + B (recurrence_core.py). Then reads and states
of all chunks at once.

Every exponent is a sum of log-decays over the tokens between two others, formed as such, never a difference of two running sums: nothing
is above 1, nothing overflows, and one extreme decay spoils no other. With a decay for each key dimension, a pair (s, t) is split at the
border of the largest power of two between them, fade(s, t) = fade(s, border) fade(border, t), so that log2 C matrix products do for all
pairs. A reset sets the pairs that it separates to 0 by a mask.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import pad

from phiforge.nn.recurrence_core import Core

_LEAST = -1e30  # stands for a log-decay of minus infinity, which times 0 would be NaN


def chunk_scan(
    k: Tensor,
    v: Tensor,
    q: Tensor | None,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    states: bool,
    chunk: int = 16,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """(read, states, final); arguments as `recurrence.scan` has them, of one float type."""
    rows, length, dk = k.shape
    dv, size = v.shape[2], min(chunk, length)
    count = -(-length // size)
    # (B, T, ...) -> (G, C, ...), G = chunks * B; tokens added at the end write nothing and fade nothing
    k, v = _cut(k, count, size), _cut(v, count, size)
    q, log_decay, beta, reset = (None if x is None else _cut(x, count, size) for x in (q, log_decay, beta, reset))
    wanted = [] if beta is None else [k.unsqueeze(1)]
    if q is not None:
        wanted.append(q.transpose(1, 2))
    asking = torch.cat(wanted, 1) if wanted else k.new_zeros(k.shape[0], 0, size, dk)  # (G, keys then queries, C, dk)
    start, end, found = _fades(k, asking, log_decay, reset)
    faded = asking if start is None else asking * start.unsqueeze(1)
    whole = k.new_ones(1, 1, dk) if start is None else start[:, -1:].expand(-1, 1, dk)
    into = k if end is None else k * end
    initial = v.new_zeros(rows, dv, dk) if state is None else state
    read, written, before, final = Core.apply(found, faded, into, whole, v, beta, initial)
    kept = None
    if q is not None:
        read = _join(read.unflatten(1, (q.shape[2], size)).transpose(1, 2), rows, length)
    if states:
        kept = _join(_states(before, k, written, log_decay, reset), rows, length)
    return (None if q is None else read), kept, final


def _cut(x: Tensor, count: int, size: int) -> Tensor:
    missing = count * size - x.shape[1]
    if missing:
        x = pad(x, [0, 0] * (x.ndim - 2) + [0, missing])
    return x.unflatten(1, (count, size)).transpose(0, 1).flatten(0, 1)


def _join(x: Tensor, rows: int, length: int) -> Tensor:
    return x.unflatten(0, (-1, rows)).transpose(0, 1).flatten(1, 2)[:, :length]


@functools.lru_cache(maxsize=32)
def _spans(size: int, one: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which tokens' log-decays add up, rows of 0 and 1 (n, C): from the start to t (C rows), from s to the end (C), and then
    one decay for all dimensions: from s to t (C C, t slowest); else: of each level, from or to its border (levels C).
    Beside it the pairs (t, s) that these are for: (1, C, C) or (levels, C, C); the last level is t = s.
    """
    token = torch.arange(size, device=device)
    t, s = token[:, None], token[None, :]
    until, after = s <= t, s > t
    if one:
        between = until[:, None, :] & after[None, :, :]
        return torch.cat([until, after, between.flatten(0, 1)]).to(dtype), until[None].to(dtype)
    spans, pairs = [until, after], []
    half = 1
    while half < size:
        border = t // (2 * half) * (2 * half) + half  # of the token's own block: the first token of its second half
        second = t >= border
        spans.append(torch.where(second, (s >= border) & until, after & (s < border)))
        pairs.append((t // (2 * half) == s // (2 * half)) & second & ~second.T)
        half *= 2
    spans.append(torch.zeros_like(until))
    pairs.append(t == s)
    return torch.cat(spans).to(dtype), torch.stack(pairs).to(dtype)


def _fades(k: Tensor, asking: Tensor, log_decay: Tensor | None, reset: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """What is left at t of the state before the chunk and at the end of what is written at s, (G, C, d) each, None: all; and how much each
    of `asking` (G, n, t, dk) finds of what was written at s: (G, n, t, s)."""
    size, start, end = k.shape[1], None, None
    one = log_decay is None or log_decay.shape[2] == 1
    spans, pairs = _spans(size, one, k.dtype, k.device)
    if log_decay is None:
        found = (asking.flatten(1, 2) @ k.mT).view(*asking.shape[:3], size) * pairs
    elif one:
        fades = (log_decay.squeeze(2).clamp(min=_LEAST) @ spans.T).exp()
        start, end = fades[:, :size, None], fades[:, size : 2 * size, None]
        between = fades[:, 2 * size :].view(-1, 1, size, size) * pairs
        found = (asking.flatten(1, 2) @ k.mT).view(*asking.shape[:3], size) * between
    else:
        fades = (spans @ log_decay.clamp(min=_LEAST)).exp().unflatten(1, (-1, size))
        start, end, level = fades[:, 0], fades[:, 1], fades[:, 2:]  # (G, levels, C, dk)
        left = (asking.unsqueeze(1) * level.unsqueeze(2)).flatten(2, 3)
        found = left @ (k.unsqueeze(1) * level).mT
        found = (found.unflatten(2, (-1, size)) * pairs.unsqueeze(1)).sum(1)
    if reset is not None:
        piece = reset.cumsum(1)
        held, last = (piece == 0).unsqueeze(2).to(k.dtype), (piece == piece[:, -1:]).unsqueeze(2).to(k.dtype)
        start, end = held if start is None else start * held, last if end is None else end * last
        found = found * (piece.unsqueeze(2) == piece.unsqueeze(1)).unsqueeze(1)
    return start, end, found


def _states(before: Tensor, k: Tensor, written: Tensor, log_decay: Tensor | None, reset: Tensor | None) -> Tensor:
    """The state after each token (G, C, dv, dk): what is written is known by now, so all chunks go through their tokens together."""
    kept, current = [], before
    for t in range(k.shape[1]):
        if log_decay is not None:
            current = current * log_decay[:, t, None].exp()
        if reset is not None:
            current = current.masked_fill(reset[:, t, None, None], 0.0)
        current = torch.baddbmm(current, written[:, t, :, None], k[:, t, None])
        kept.append(current)
    return torch.stack(kept, 1)
