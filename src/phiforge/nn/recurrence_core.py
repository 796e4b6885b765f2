"""What chunks of a scan have in common once the decays inside them are known: the UT transform, the carry, the reads; backward by hand.

Autograd would do the same products, and as much again in filling, slicing and adding up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Core(torch.autograd.Function):
    """From each chunk's own numbers to reads and states. G = chunks * B, chunks slowest; n = (1 with beta: the keys' row first) + R.

    found (G, n, t, s): how much row t finds of what is written at s, the decay between them included, 0 for s > t;
    faded (G, n, C, dk): keys, then queries, with the decay since the chunk's start; into (G, C, dk): keys with the decay to its end;
    whole (G or 1, 1, dk): the decay of the whole chunk; v (G, C, dv); beta (G, C) or None; initial (B, dv, dk).
    Gives read (G, R C, dv), written (G, C, dv), the state before each chunk (G, dv, dk), the last state (B, dv, dk).
    """

    @staticmethod
    def forward(
        ctx: Any, found: Tensor, faded: Tensor, into: Tensor, whole: Tensor, v: Tensor, beta: Tensor | None, initial: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dv, first = v.shape[2], 0 if beta is None else 1
        kept: tuple[Tensor, ...] = ()
        if beta is None:
            states = _carry(whole.expand(len(v), 1, -1), v.mT @ into, initial)
            written = v
        else:
            mixing = found[:, 0] * beta.unsqueeze(2)
            eye = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
            # forward substitution (it reads what is below the diagonal alone); a series of powers is as fast and loses digits
            inverse = torch.linalg.solve_triangular(mixing, eye.expand_as(mixing), upper=False, unitriangular=True)
            solved, both = inverse * beta.unsqueeze(1), torch.cat([v, faded[:, 0]], 2)
            new = solved @ both  # (G, C, dv + dk): T V, T K'
            moved = new.mT @ into
            a = moved[:, dv:].neg()
            a.diagonal(dim1=1, dim2=2).add_(whole.squeeze(1))
            states = _carry(a, moved[:, :dv], initial)
            written = torch.baddbmm(new[..., :dv], new[..., dv:], states[:-1].flatten(0, 1).mT, alpha=-1)
            kept = (inverse, solved, both, new, a, beta)
        before = states[:-1].flatten(0, 1)
        read = torch.bmm(found[:, first:].flatten(1, 2), written)
        read.baddbmm_(faded[:, first:].flatten(1, 2), before.mT)
        ctx.save_for_backward(found, faded, into, whole, states, written, *kept)
        return read, written.view_as(written) if beta is None else written, before.clone(), states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_read: Tensor, d_written: Tensor, d_before: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        found, faded, into, whole, states, written, *kept = ctx.saved_tensors
        before, first, dv = states[:-1].flatten(0, 1), 1 if kept else 0, written.shape[2]
        d_found, d_faded = torch.empty_like(found), torch.empty_like(faded)
        d_found[:, first:] = torch.bmm(d_read, written.mT).view_as(found[:, first:])
        d_faded[:, first:] = torch.bmm(d_read, before).view_as(faded[:, first:])
        d_written = torch.baddbmm(d_written, found[:, first:].flatten(1, 2).mT, d_read)
        d_before = torch.baddbmm(d_before, d_read.mT, faded[:, first:].flatten(1, 2))
        if not kept:
            after, d_initial = _carry_back(whole.expand(len(into), 1, -1), d_before, d_final)
            d_whole = (before * after).sum(1, keepdim=True)
            d_v, d_into = torch.baddbmm(d_written, into, after.mT), written @ after
            return d_found, d_faded, d_into, _like(d_whole, whole), d_v, None, d_initial
        inverse, solved, both, new, a, beta = kept
        d_before.baddbmm_(d_written.mT, new[..., dv:], alpha=-1)
        after, d_initial = _carry_back(a, d_before, d_final)
        d_a = before.mT @ after
        d_whole = d_a.diagonal(dim1=1, dim2=2).unsqueeze(1)
        d_moved = torch.cat([after, -d_a], 1)
        d_into = new @ d_moved
        d_new = torch.cat([d_written, torch.bmm(d_written, before).neg_()], 2).baddbmm_(into, d_moved.mT)
        d_solved, d_both = d_new @ both.mT, solved.mT @ d_new
        d_faded[:, 0] = d_both[..., dv:]
        d_beta = (d_solved * inverse).sum(1)
        d_mixing = (inverse.mT @ (d_solved * beta.unsqueeze(1)) @ inverse.mT).tril_(-1).neg_()
        d_beta += (d_mixing * found[:, 0]).sum(2)
        torch.mul(d_mixing, beta.unsqueeze(2), out=d_found[:, 0])
        return d_found, d_faded, d_into, _like(d_whole, whole), d_both[..., :dv], d_beta, d_initial


def _like(grad: Tensor, of: Tensor) -> Tensor:
    return grad if len(of) == len(grad) else grad.sum(0, keepdim=True)


def _carry(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """S_(n+1) = S_n A_n + B_n: all states (N + 1, B, dv, dk) from A (N B, dk, dk), or (N B, 1, dk) where it is diagonal."""
    a, b = a.unflatten(0, (-1, len(initial))), b.unflatten(0, (-1, len(initial)))
    states = b.new_empty(len(b) + 1, *initial.shape)
    states[0] = initial
    step, kept = torch.addcmul if a.shape[2] == 1 else torch.baddbmm, states.unbind(0)
    for n, (an, bn) in enumerate(zip(a.unbind(0), b.unbind(0), strict=True)):
        step(bn, kept[n], an, out=kept[n + 1])
    return states


def _carry_back(a: Tensor, outer: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of B (N B, dv, dk) and of the first state, given those of all states but the last (N B, dv, dk) and of the last."""
    a, outer = a.unflatten(0, (-1, len(last))), outer.unflatten(0, (-1, len(last)))
    grads = outer.new_empty(len(outer) + 1, *last.shape)
    grads[-1] = last
    diagonal = a.shape[2] == 1
    step, kept = torch.addcmul if diagonal else torch.baddbmm, grads.unbind(0)
    turned, more = (a if diagonal else a.mT).unbind(0), outer.unbind(0)
    for n in range(len(more) - 1, -1, -1):
        step(more[n], kept[n + 1], turned[n], out=kept[n])
    return grads[1:].flatten(0, 1), grads[0]
