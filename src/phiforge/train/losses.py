"""The loss of next-token prediction: head and cross-entropy in one, a chunk of positions at a time.

The logits of all positions are the largest tensor of a small model's step (B*T*V; at 2,048 positions and 32k tokens 268 MB in float32, held
two or three times). Here a chunk of them lives at once, and their gradient is formed in the forward pass, where they still are in cache
(the idea of Wijmans et al. 2024, arXiv 2411.09009, and of Liger Kernel, arXiv 2410.10989). `reference_loss` is the plain form; tests hold
the two together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phiforge.train.native import kernels

IGNORE = -100
CHUNK_NUMBERS = 1 << 21  # logits held at once: 8 MB in float32, which stays in a last-level cache


def reference_loss(hidden: Tensor, weight: Tensor, labels: Tensor, items: Tensor | float) -> Tensor:
    """Summed cross-entropy of the positions whose label is not -100, divided by `items`: the obvious form.

    hidden (N, D), weight (V, D), labels (N,). Returns a float32 scalar.
    """
    logits = (hidden @ weight.T).float()  # (N, V)
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / items


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, items: Tensor | float, chunk: int) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight: Tensor | None = None
        scale = 1.0 / float(items)
        for first in range(0, hidden.shape[0], chunk):
            h, y = hidden[first : first + chunk], labels[first : first + chunk]
            losses, grad = _cross_entropy(h @ weight.T, y)  # (C,), (C, V)
            total += losses.sum()
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[first : first + chunk])
            if wants_weight:
                piece = grad.T @ h  # (V, D)
                # Summed in float32: a bf16 sum over many chunks would lose the small ones.
                grad_weight = piece.float() if grad_weight is None else grad_weight.add_(piece)
        if grad_hidden is not None:
            grad_hidden *= scale
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(scale).to(weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        factor = grads[0]
        if float(factor) != 1.0:
            hidden, weight = (None if g is None else g * factor.to(g.dtype) for g in (hidden, weight))
        return hidden, weight, None, None, None


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each row (C,) in float32, and its gradient (C, V) in the dtype of the logits, whose memory it may take."""
    native = kernels(logits)
    if native is not None:
        losses = torch.empty(len(labels), dtype=torch.float32)
        width = logits.shape[1]
        arguments = (logits, labels.contiguous(), losses, -1, width)
        native.run("cross_entropy", len(labels), *arguments, numbers=logits.numel(), scratch=width)
        return losses, logits
    kept = labels != IGNORE
    target = labels.clamp(min=0).unsqueeze(1)  # (C, 1)
    p = torch.softmax(logits.float(), 1)
    chosen = p.gather(1, target).squeeze(1)
    if bool((chosen < 1e-30).any()):  # near the end of float32's range the logarithm of a probability is no longer exact
        losses = torch.nn.functional.cross_entropy(logits.float(), target.squeeze(1), reduction="none")
    else:
        losses = chosen.log_().neg_()
    p.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=p.dtype))
    if not bool(kept.all()):
        losses, p = torch.where(kept, losses, 0.0), p.mul_(kept.unsqueeze(1))
    return losses, p.to(logits.dtype)


def chunked_loss(hidden: Tensor, weight: Tensor, labels: Tensor, items: Tensor | float, *, chunk: int | None = None) -> Tensor:
    """`reference_loss` without ever holding the logits of all positions.

    hidden (N, D) and weight (V, D) of one dtype, labels (N,), items > 0. chunk: positions at a time; derived from V when not given.
    Returns a float32 scalar. Differentiable once, in hidden and weight.
    """
    chunk = chunk or max(16, CHUNK_NUMBERS // weight.shape[0])
    return _ChunkedLoss.apply(hidden, weight, labels, items, chunk)
