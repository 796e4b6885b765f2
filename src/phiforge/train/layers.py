"""The element-wise parts of a decoder layer, each with a hand-written gradient that makes few passes over memory.

On a CPU these are bound by memory, not arithmetic, and torch's automatic gradients of composed forms make many passes. The plain form
stands beside each; tests hold them together, forward and gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from phiforge.train.native import kernels

PIECE = 1 << 16  # numbers worked on at once: a few float32 temporaries of it stay in a core's second-level cache
LANES = 16  # native.c sums so many numbers at a time
_A, _B = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715


def reference_gelu(x: Tensor) -> Tensor:
    """The obvious form of `gelu`."""
    return torch.nn.functional.gelu(x, approximate="tanh")


def reference_swiglu(gate_up: Tensor) -> Tensor:
    """The obvious form of `swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The obvious form of `rms_norm`; the mean is taken in float32."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class _Gelu(torch.autograd.Function):
    """gelu(x), tanh form = x s(u), with s the logistic function and u = x (A + B x^2). The slope is kept in the place of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, slope = torch.empty_like(x), torch.empty_like(x)
        native = kernels(x)
        if native is not None:
            native.run("gelu_forward", x.numel(), x, out, slope, numbers=x.numel())
            ctx.save_for_backward(slope)
            return out
        flat, flat_out, flat_slope = x.view(-1), out.view(-1), slope.view(-1)
        for first in range(0, flat.numel(), PIECE):
            h = flat[first : first + PIECE].float()
            square = h * h
            s = torch.mul(square, _B).add_(_A).mul_(h).sigmoid_()
            value = h * s
            flat_out[first : first + PIECE] = value
            # d/dx = s + x s (1 - s) u' = s + value (1 - s) (A + 3 B x^2)
            square.mul_(3 * _B).add_(_A).mul_(value)
            flat_slope[first : first + PIECE] = s.addcmul_(square, 1 - s)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415), element by element. x must be contiguous."""
    return _Gelu.apply(x)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up)
        native = kernels(gate_up)
        if native is not None:
            out, width = torch.empty_like(gate), gate.shape[-1]
            native.run("swiglu_forward", out.numel() // width, gate_up, out, width, numbers=out.numel())
            return out
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        native = kernels(gate_up)
        if native is not None:
            width = gate.shape[-1]
            native.run("swiglu_backward", gate.numel() // width, gate_up, grads[0].contiguous(), grad, width, numbers=grad.numel())
            return grad
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(torch.nn.functional.silu(gate), grads[0], out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return grad


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202). gate_up (..., 2 M) holds both, one after the other; returns (..., M)."""
    return _SwiGlu.apply(gate_up)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.view(-1, x.shape[-1])  # (N, D)
        out, wide = torch.empty_like(rows), weight.float()
        scale = torch.empty(rows.shape[0], 1, dtype=torch.float32, device=x.device)
        ctx.native = kernels(x) if rows.shape[1] % LANES == 0 else None
        if ctx.native is not None:
            ctx.native.run("rms_forward", rows.shape[0], rows, wide, eps, out, scale, rows.shape[1], numbers=rows.numel())
            ctx.save_for_backward(rows, scale, weight)
            return out.view_as(x)
        normal = torch.empty_like(rows)
        step = max(1, PIECE // rows.shape[1])
        for first in range(0, rows.shape[0], step):
            piece = rows[first : first + step].to(torch.float32, copy=True)
            r = torch.linalg.vector_norm(piece, dim=-1, keepdim=True).square_().div_(rows.shape[1]).add_(eps).rsqrt_()
            scale[first : first + step] = r
            piece.mul_(r)
            normal[first : first + step] = piece
            out[first : first + step] = piece.mul_(wide)
        ctx.save_for_backward(normal, scale, weight)
        return out.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale, weight = ctx.saved_tensors
        grad_out = grads[0].reshape(-1, normal.shape[1])
        grad_x = torch.empty_like(normal)
        grad_weight = torch.zeros(normal.shape[1], dtype=torch.float32, device=normal.device)
        wide = weight.float()
        if ctx.native is not None:  # what was kept is x itself; the threads would add to one grad_weight, so one does all
            numbers = (normal, wide, scale, grad_out.contiguous(), grad_x, grad_weight, normal.shape[1])
            ctx.native.run("rms_backward", normal.shape[0], *numbers, numbers=0)
            return grad_x.view_as(grads[0]), grad_weight.to(weight.dtype), None
        step = max(1, PIECE // normal.shape[1])
        for first in range(0, normal.shape[0], step):
            n, g = normal[first : first + step].float(), grad_out[first : first + step].to(torch.float32, copy=True)
            along = g * n
            grad_weight += along.sum(0)
            # d/dx of x r w: r (g w - n mean(g w n))
            mean = (along @ wide).div_(normal.shape[1]).unsqueeze(1)
            grad_x[first : first + step] = g.mul_(wide).addcmul_(n, mean, value=-1).mul_(scale[first : first + step])
        return grad_x.view_as(grads[0]), grad_weight.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467). x (..., D), weight (D,)."""
    return _RmsNorm.apply(x, weight, eps)
