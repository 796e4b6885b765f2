"""Rotary causal self-attention for training on short rows, with its own backward pass.

torch's CPU kernel for `scaled_dot_product_attention` is written for long sequences: at 128 to 512 tokens its backward pass alone takes a
quarter of a training step (bf16, heads of 32; the figures are in docs/methods.md). Here rotation, scores, softmax and output are plain batched
matrix products over blocks of queries, each against the keys it may see; the probabilities are kept for the backward pass, B*H*T*T/2 numbers,
so this form is for T up to LONGEST. `reference_attention` is the plain form; tests hold the two together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 512  # beyond it the kept probabilities cost more than torch's kernel
BLOCK = 128  # queries at a time: later keys of the block's rows are never computed


def rotary_tables(position_ids: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (B, T, 1, d/2) of each position's angles, computed in float32."""
    angles = position_ids.unsqueeze(-1).float() * inverse_frequencies.float()  # (B, T, d/2)
    return angles.cos().to(dtype).unsqueeze(2), angles.sin().to(dtype).unsqueeze(2)


def document_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor | None:
    """(B, 1, T, T) additive mask that also keeps documents apart, or None where no row holds a border (plain causal is cheaper)."""
    begins = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not bool(begins.any()):
        return None
    document = torch.nn.functional.pad(begins.cumsum(1), (1, 0))  # (B, T)
    length = position_ids.shape[1]
    seen = (document.unsqueeze(2) == document.unsqueeze(1)).tril()
    return torch.zeros(len(document), length, length, dtype=dtype).masked_fill_(~seen, float("-inf")).unsqueeze(1)


def causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """(1, 1, T, T) additive mask: -inf where the key is later than the query."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)[None, None]


def reference_attention(qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The obvious form. qkv (B, T, (H + 2 K) d) -> (B, T, H d); cos, sin (B or 1, T, 1, d/2); mask (B or 1, 1, T, T)."""
    batch, length, _ = qkv.shape
    parts = qkv.view(batch, length, heads + 2 * kv_heads, -1)
    q, k, v = parts.split([heads, kv_heads, kv_heads], dim=2)

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    q, k, v = (x.transpose(1, 2) for x in (rotate(q), rotate(k), v))  # (B, H, T, d)
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate the pairs (x[i], x[i + d/2]) of x (B, T, H, d) by the angles, into out (B, T, H, d)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, heads: int, kv_heads: int, dropout: float) -> Tensor:
        batch, length, _ = qkv.shape
        parts = qkv.view(batch, length, heads + 2 * kv_heads, -1)  # (B, T, H + 2K, d)
        width = parts.shape[-1]
        scale = width**-0.5
        q = qkv.new_empty(batch, heads, length, width)
        k, v = (qkv.new_empty(batch, kv_heads, length, width) for _ in range(2))
        # The scale goes into the query's rotation: one pass less over the scores.
        _rotate(parts[:, :, :heads], cos * scale, sin * scale, q.transpose(1, 2))
        _rotate(parts[:, :, heads : heads + kv_heads], cos, sin, k.transpose(1, 2))
        v.transpose(1, 2).copy_(parts[:, :, heads + kv_heads :])
        q, k, v = q.flatten(0, 1), _spread(k, heads), _spread(v, heads)  # (B H, T, d)
        out = qkv.new_empty(batch, length, heads, width)
        probabilities: list[Tensor] = []
        kept: list[Tensor] = []
        for first in range(0, length, BLOCK):
            last = min(first + BLOCK, length)
            scores = torch.bmm(q[:, first:last], k[:, :last].transpose(1, 2)).view(batch, heads, last - first, last)
            scores += mask[:, :, first:last, :last]
            p = torch.softmax(scores, -1).flatten(0, 1)  # (B H, t, s)
            probabilities.append(p)
            if dropout:
                kept.append((torch.rand_like(p) >= dropout).to(p.dtype).div_(1 - dropout))
                p = p * kept[-1]
            o = torch.bmm(p, v[:, :last])
            out[:, first:last].copy_(o.view(batch, heads, last - first, width).transpose(1, 2))
        ctx.save_for_backward(q, k, v, cos, sin, *probabilities, *kept)
        ctx.sizes = (batch, heads, kv_heads, length, width)
        return out.view(batch, length, heads * width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        batch, heads, kv_heads, length, width = ctx.sizes
        q, k, v, cos, sin, *rest = ctx.saved_tensors
        blocks = range(0, length, BLOCK)
        probabilities, kept = rest[: len(blocks)], rest[len(blocks) :]
        scale = width**-0.5
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
            grad_p = torch.bmm(g, v[:, :last].transpose(1, 2))
            if kept:
                grad_p *= kept[index]
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            torch.bmm(grad_s, k[:, :last], out=grad_q[:, first:last])
            if grad_k is None or grad_v is None:
                grad_v = torch.bmm(used.transpose(1, 2), g)
                grad_k = torch.bmm(grad_s.transpose(1, 2), q[:, first:last])
            else:
                grad_v[:, :last].baddbmm_(used.transpose(1, 2), g)
                grad_k[:, :last].baddbmm_(grad_s.transpose(1, 2), q[:, first:last])
        assert grad_k is not None and grad_v is not None
        grad = q.new_empty(batch, length, heads + 2 * kv_heads, width)
        # A rotation's gradient is the rotation back.
        _rotate(grad_q.view(batch, heads, length, width).transpose(1, 2), cos * scale, -sin * scale, grad[:, :, :heads])
        _rotate(_gather(grad_k, batch, kv_heads).transpose(1, 2), cos, -sin, grad[:, :, heads : heads + kv_heads])
        grad[:, :, heads + kv_heads :] = _gather(grad_v, batch, kv_heads).transpose(1, 2)
        return grad.view(batch, length, -1), None, None, None, None, None, None


def _spread(x: Tensor, heads: int) -> Tensor:
    """(B, K, T, d) -> (B H, T, d): each key/value head serves H / K query heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1).flatten(0, 1) if heads != x.shape[1] else x.flatten(0, 1)


def _gather(x: Tensor, batch: int, kv_heads: int) -> Tensor:
    """(B H, T, d) -> (B, K, T, d), summed over the query heads that a key/value head served."""
    per_head = x.view(batch, kv_heads, -1, *x.shape[1:])
    return per_head.squeeze(2) if per_head.shape[2] == 1 else per_head.sum(2)


def rotary_attention(qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, heads: int, kv_heads: int, dropout: float = 0.0) -> Tensor:
    """`reference_attention` with dropout of the probabilities, by blocks of queries and with a hand-written gradient (with respect to qkv alone)."""
    return _RotaryAttention.apply(qkv, cos, sin, mask, heads, kv_heads, dropout)
