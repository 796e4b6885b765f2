"""Rotary causal self-attention for training on short rows, with its own backward pass.

torch's CPU kernel for `scaled_dot_product_attention` is written for long sequences: at 128 to 512 tokens its backward pass alone takes
a quarter of a training step (bf16, heads of 32). Here scores and output are plain batched matrix products over blocks of queries, each
against the keys it may see; the probabilities are kept for the backward pass, some B*H*T*T/2 numbers, so this form is for T up to LONGEST.
`reference_attention` is the plain form; tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phiforge.train.native import kernels

LONGEST = 512  # beyond it the kept probabilities cost more than torch's kernel
BLOCK = 128  # queries at a time: later keys of the block's rows are never computed


@dataclass(frozen=True, kw_only=True)
class Attending:
    """Where a batch's tokens are and what each may see; made once a batch, used by every layer."""

    cos: Tensor  # (B or 1, T, d/2) float32
    sin: Tensor
    start: Tensor  # (B, T) int32: the first key that a query may see, where its document begins
    borders: bool  # whether any row holds more than one document
    mask: Tensor  # (B or 1, 1, T, T) additive, in the dtype of the scores: -inf where the key is later or of another document

    @classmethod
    def of(cls, position_ids: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype) -> Attending:
        """From position_ids (B, T), which restart where a document begins."""
        length = position_ids.shape[1]
        at = torch.arange(length, device=position_ids.device)
        begins = torch.nn.functional.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 0))
        start = torch.where(begins, at, 0).cummax(1).values  # (B, T)
        alike = not bool(begins.any()) and bool((position_ids[:1] == position_ids).all())
        if alike:  # no border in any row: one causal mask and one table serve all
            position_ids = position_ids[:1]
        first = start[:1] if alike else start
        seen = (at >= first.unsqueeze(-1)) & (at <= at.unsqueeze(-1))  # (B or 1, T, T)
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf")).unsqueeze(1)
        angles = position_ids.unsqueeze(-1).float() * inverse_frequencies.float()
        return cls(cos=angles.cos(), sin=angles.sin(), start=start.to(torch.int32), borders=bool(begins.any()), mask=mask)


def reference_attention(
    qkv: Tensor, attending: Attending, heads: int, kv_heads: int, dropout: float = 0.0, *, kernel: bool = False
) -> Tensor:
    """The obvious form. qkv (B, T, (H + 2 K) d) -> (B, T, H d). kernel: torch's fused one for all but the rotation."""
    batch, length, _ = qkv.shape
    parts = qkv.view(batch, length, heads + 2 * kv_heads, -1)
    q, k, v = parts.split([heads, kv_heads, kv_heads], dim=2)
    cos, sin = attending.cos.to(qkv.dtype).unsqueeze(2), attending.sin.to(qkv.dtype).unsqueeze(2)  # (B, T, 1, d/2)

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    q, k, v = (x.transpose(1, 2) for x in (rotate(q), rotate(k), v))  # (B, H, T, d)
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    if kernel:
        mask = attending.mask if attending.borders else None  # the kernel has a faster way for plain causal
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, is_causal=mask is None)
    else:
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + attending.mask).softmax(-1)
        out = torch.nn.functional.dropout(weights, dropout) @ v
    return out.transpose(1, 2).reshape(batch, length, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Rotate the pairs (x[i], x[i + d/2]) of x (B, H, T, d), contiguous, by angles with cos and sin (B or 1, T, d/2), and scale."""
    table_cos = (torch.cat([cos, cos], -1) * scale).to(x.dtype).unsqueeze(1)
    table_sin = (torch.cat([-sin, sin], -1) * scale).to(x.dtype).unsqueeze(1)
    half = x.shape[-1] // 2
    turned = torch.cat([x[..., half:], x[..., :half]], -1)
    return torch.mul(x, table_cos).addcmul_(turned, table_sin)


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, attending: Attending, heads: int, kv_heads: int, dropout: float) -> Tensor:
        batch, length, _ = qkv.shape
        parts = qkv.view(batch, length, heads + 2 * kv_heads, -1)  # (B, T, H + 2K, d)
        width = parts.shape[-1]
        native = kernels(qkv)
        # The scale goes into the query's rotation: one pass less over the scores.
        if native is not None and qkv.is_contiguous():
            q = qkv.new_empty(batch, heads, length, width)
            k, v = (qkv.new_empty(batch, kv_heads, length, width) for _ in range(2))
            a, sizes = attending, (int(len(attending.cos) > 1), length, heads, kv_heads, width)
            native.run("rotary_split", batch * length, qkv, a.cos, a.sin, width**-0.5, q, k, v, *sizes, numbers=qkv.numel())
        else:
            q, k, v = (part.transpose(1, 2).contiguous() for part in parts.split([heads, kv_heads, kv_heads], dim=2))
            q = _rotate(q, attending.cos, attending.sin, width**-0.5)
            k = _rotate(k, attending.cos, attending.sin, 1.0)
        q, k, v = q.flatten(0, 1), _spread(k, heads), _spread(v, heads)  # (B H, T, d)
        out = qkv.new_empty(batch, length, heads, width)
        probabilities: list[Tensor] = []
        kept: list[Tensor] = []
        for first in range(0, length, BLOCK):
            last = min(first + BLOCK, length)
            scores = torch.bmm(q[:, first:last], k[:, :last].transpose(1, 2))  # (B H, t, s)
            if native is not None:
                sizes = (heads, last - first, last, length, first)
                rows = batch * heads * (last - first)
                native.run("softmax_forward", rows, scores, attending.start, -1, *sizes, numbers=scores.numel(), scratch=last)
                p = scores
            else:
                scores = scores.view(batch, heads, last - first, last).add_(attending.mask[:, :, first:last, :last])
                p = torch.softmax(scores, -1).flatten(0, 1)
            probabilities.append(p)
            if dropout:
                kept.append((torch.rand_like(p) >= dropout).to(p.dtype).div_(1 - dropout))
                p = p * kept[-1]
            o = torch.bmm(p, v[:, :last])
            out[:, first:last].copy_(o.view(batch, heads, last - first, width).transpose(1, 2))
        ctx.save_for_backward(q, k, v, *probabilities, *kept)
        ctx.attending, ctx.sizes = attending, (batch, heads, kv_heads, length, width)
        return out.view(batch, length, heads * width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        batch, heads, kv_heads, length, width = ctx.sizes
        attending = ctx.attending
        q, k, v, *rest = ctx.saved_tensors
        native = kernels(q)
        blocks = range(0, length, BLOCK)
        probabilities, kept = rest[: len(blocks)], rest[len(blocks) :]
        grad_out = grads[0].view(batch, length, heads, width).transpose(1, 2).reshape(batch * heads, length, width)
        grad_q = torch.empty_like(q)
        # The last block of queries sees all keys: its products start the sums, the others are added.
        grad_k: Tensor | None = None
        grad_v: Tensor | None = None
        for index in reversed(range(len(blocks))):
            first = blocks[index]
            last = min(first + BLOCK, length)
            p, g = probabilities[index], grad_out[:, first:last]
            used = p * kept[index] if kept else p
            grad_s = torch.bmm(g, v[:, :last].transpose(1, 2))
            if kept:
                grad_s *= kept[index]
            if native is not None:
                sizes = (heads, last - first, last, length, first)
                rows = batch * heads * (last - first)
                native.run("softmax_backward", rows, p, grad_s, attending.start, *sizes, numbers=p.numel())
            else:
                grad_s = torch._softmax_backward_data(grad_s, p, -1, p.dtype)
            torch.bmm(grad_s, k[:, :last], out=grad_q[:, first:last])
            if grad_k is None or grad_v is None:
                grad_v = torch.bmm(used.transpose(1, 2), g)
                grad_k = torch.bmm(grad_s.transpose(1, 2), q[:, first:last])
            else:
                grad_v[:, :last].baddbmm_(used.transpose(1, 2), g)
                grad_k[:, :last].baddbmm_(grad_s.transpose(1, 2), q[:, first:last])
        assert grad_k is not None and grad_v is not None
        dq, dk, dv = grad_q.view(batch, heads, length, width), _gather(grad_k, batch, kv_heads), _gather(grad_v, batch, kv_heads)
        grad = q.new_empty(batch, length, heads + 2 * kv_heads, width)
        # A rotation's gradient is the rotation back.
        if native is not None:
            a, sizes = attending, (int(len(attending.cos) > 1), length, heads, kv_heads, width)
            native.run("rotary_join", batch * length, dq, dk, dv, a.cos, a.sin, width**-0.5, grad, *sizes, numbers=grad.numel())
        else:
            dq = _rotate(dq, attending.cos, -attending.sin, width**-0.5)
            dk = _rotate(dk, attending.cos, -attending.sin, 1.0)
            torch.cat([dq, dk, dv], 1, out=grad.transpose(1, 2))
        return grad.view(batch, length, -1), None, None, None, None


def _spread(x: Tensor, heads: int) -> Tensor:
    """(B, K, T, d) -> (B H, T, d): each key/value head serves H / K query heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1).flatten(0, 1) if heads != x.shape[1] else x.flatten(0, 1)


def _gather(x: Tensor, batch: int, kv_heads: int) -> Tensor:
    """(B H, T, d) -> (B, K, T, d), summed over the query heads that a key/value head served."""
    per_head = x.view(batch, kv_heads, -1, *x.shape[1:])
    return per_head.squeeze(2) if per_head.shape[2] == 1 else per_head.sum(2)


def rotary_attention(qkv: Tensor, attending: Attending, heads: int, kv_heads: int, dropout: float = 0.0) -> Tensor:
    """`reference_attention` by blocks of queries, with dropout of the probabilities and a hand-written gradient, in qkv alone.

    On a GPU, and beyond LONGEST, torch's fused kernel does it.
    """
    if qkv.shape[1] > LONGEST or qkv.device.type != "cpu":
        return reference_attention(qkv, attending, heads, kv_heads, dropout, kernel=True)
    return _RotaryAttention.apply(qkv, attending, heads, kv_heads, dropout)
