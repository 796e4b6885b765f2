"""starcoder2 and llama layouts, fast in plain torch: fused weights, a preallocated cache, few operations a token.

What is done once, when the weights are prepared: q, k and v become one matrix (gate and up as well), transposed so that the product reads
it in order; the rows of q and k are reordered so that RoPE's pairs lie side by side and the rotation is one complex product (attention
scores don't change when q and k are permuted alike); 1/sqrt(head_dim) goes into q. Per token there is no mask, no position tensor and no
growing copy. Rows are padded on the left and all share one position: RoPE scores depend on distances alone, so padding shifts nothing.
`models/...forward` is the reference (`reference.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiforge.generate.decoder import pad_left
from phiforge.generate.sampling import sample

STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # kinds whose frequencies don't depend on the length


@dataclass(frozen=True, kw_only=True)
class StockShape:
    """The sizes and the few choices in which starcoder2 and llama differ."""

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    epsilon: float
    context_length: int


@dataclass
class Layer:
    """One layer's weights, (inputs, outputs); a bias or second norm parameter that the layout lacks is None."""

    norm1: Tensor
    norm1_bias: Tensor | None
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    norm2: Tensor
    norm2_bias: Tensor | None
    up: Tensor  # llama: gate and up side by side
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


def stock_shape(model: nn.Module) -> StockShape | None:
    """The shape of a model that the fast paths can run; None for everything else (it then takes the reference path)."""
    whole: Any = model
    config: Any = getattr(model, "config", None)
    if type(model).__name__ not in ("Starcoder2ForCausalLM", "LlamaForCausalLM") or not type(model).__module__.startswith("transformers."):
        return None
    starcoder = config.model_type == "starcoder2"
    window = getattr(config, "sliding_window", None)
    rope = config.rope_parameters or {}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    activation = "gelu_pytorch_tanh" if starcoder else "silu"
    plain = (
        config.hidden_act == activation
        and rope.get("rope_type", "default") in STATIC_ROPE
        and (window is None or window >= config.max_position_embeddings)
        and head_dim % 2 == 0
        and all(type(part) in (nn.Linear, nn.Embedding) for part in (whole.lm_head, whole.model.embed_tokens))
        and all(type(part) is nn.Linear for name, part in model.named_modules() if name.endswith(("_proj", "c_fc")))  # adapters: reference
    )
    if not plain:
        return None
    return StockShape(
        family=config.model_type,
        vocab_size=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=head_dim,
        mlp=config.intermediate_size,
        epsilon=config.norm_epsilon if starcoder else config.rms_norm_eps,
        context_length=config.max_position_embeddings,
    )


def side_by_side(*parts: tuple[nn.Linear, Tensor | None, float], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Several linear maps of one input as one: weight (inputs, outputs) and bias. Each part: the map, an order for its rows, a scale."""
    weights, biases = [], []
    for linear, order, scale in parts:
        weight, bias = linear.weight.detach() * scale, None if linear.bias is None else linear.bias.detach() * scale
        weights.append(weight if order is None else weight[order])
        biases.append(bias if bias is None or order is None else bias[order])
    merged = None if biases[0] is None else torch.cat([bias for bias in biases if bias is not None]).to(dtype)
    return torch.cat(weights).t().to(dtype).contiguous(), merged


def pairs_together(heads: int, head_dim: int) -> Tensor:
    """Row order that puts RoPE's partners i and i + head_dim/2 of every head next to each other."""
    one = torch.arange(head_dim).view(2, head_dim // 2).t().reshape(-1)
    return (torch.arange(heads)[:, None] * head_dim + one).reshape(-1)


def prepare_layer(block: Any, shape: StockShape, dtype: torch.dtype, *, paired: bool = True) -> Layer:
    """One layer of a transformers model in the form described above; `paired` puts RoPE's partners side by side."""
    attention, mlp = block.self_attn, block.mlp
    first, second = block.input_layernorm, block.post_attention_layernorm
    device = attention.q_proj.weight.device
    q_order = pairs_together(shape.heads, shape.head_dim).to(device) if paired else None
    k_order = pairs_together(shape.kv_heads, shape.head_dim).to(device) if paired else None
    qkv, qkv_bias = side_by_side(
        (attention.q_proj, q_order, shape.head_dim**-0.5), (attention.k_proj, k_order, 1.0), (attention.v_proj, None, 1.0), dtype=dtype
    )
    ups = [mlp.c_fc] if shape.family == "starcoder2" else [mlp.gate_proj, mlp.up_proj]
    up, up_bias = side_by_side(*((linear, None, 1.0) for linear in ups), dtype=dtype)
    out, out_bias = side_by_side((attention.o_proj, None, 1.0), dtype=dtype)
    down, down_bias = side_by_side((mlp.c_proj if shape.family == "starcoder2" else mlp.down_proj, None, 1.0), dtype=dtype)

    def norm(part: Any, name: str) -> Any:
        value = getattr(part, name, None)
        return None if value is None else value.detach().to(dtype, copy=True)

    return Layer(
        norm1=norm(first, "weight"), norm1_bias=norm(first, "bias"), qkv=qkv, qkv_bias=qkv_bias, out=out, out_bias=out_bias,
        norm2=norm(second, "weight"), norm2_bias=norm(second, "bias"), up=up, up_bias=up_bias, down=down, down_bias=down_bias,
    )  # fmt: skip


class StockDecoder:
    """The fast path in plain torch; `dtype` float32 by default, bfloat16 on request."""

    name = "stock"
    ragged = True
    choose = staticmethod(sample)

    def __init__(self, model: nn.Module, shape: StockShape, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.shape, self.dtype = model, shape, dtype
        self.vocab_size = shape.vocab_size
        self.context_length: int | None = shape.context_length
        self.device = next(model.parameters()).device
        self.root = torch.tensor(shape.epsilon**0.5, device=self.device)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Prepare the model's weights as they are now."""
        model: Any = self.model
        self.layers = [prepare_layer(block, self.shape, self.dtype) for block in model.model.layers[: self.shape.layers]]
        self.embedding = model.model.embed_tokens.weight.detach().to(self.dtype, copy=True)
        self.head, self.head_bias = side_by_side((model.lm_head, None, 1.0), dtype=self.dtype)
        final = model.model.norm
        self.norm = final.weight.detach().to(self.dtype, copy=True)
        self.norm_bias = final.bias.detach().to(self.dtype, copy=True) if self.shape.family == "starcoder2" else None
        self.rotation = rope_table(model, self.shape.context_length)

    def normalize(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """LayerNorm (starcoder2) or RMSNorm (llama)."""
        if self.shape.family == "starcoder2":
            return F.layer_norm(hidden, (self.shape.width,), weight, bias, self.shape.epsilon)
        if hidden.dtype != torch.float32:
            return F.rms_norm(hidden, (self.shape.width,), weight, self.shape.epsilon)
        # sqrt(|x|^2 / D + eps) from operations on (B, 1): torch's own rms_norm is six on a CPU
        length = torch.linalg.vector_norm(hidden, 2, -1, True).div_(self.shape.width**0.5).hypot_(self.root)
        return torch.div(hidden, length).mul_(weight)

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[StockSession, Tensor]:
        """See `Decoder.start`."""
        rows, pads = pad_left(prompts)
        session = StockSession(self, pads, len(rows[0]) + room)
        return session, session.read(torch.tensor(rows, device=self.device))


def rope_table(model: Any, length: int) -> Tensor:
    """RoPE's rotations exp(i * position * frequency), complex (positions, head_dim / 2), times the layout's own scale."""
    rotary = model.model.rotary_emb
    angles = torch.arange(length, dtype=torch.float32, device=rotary.inv_freq.device)[:, None] * rotary.inv_freq.float()
    return torch.polar(torch.full_like(angles, float(rotary.attention_scaling)), angles)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


class StockSession:
    """A batch with its cache: keys and values (layers, B, kv heads, capacity, head_dim)."""

    def __init__(self, decoder: StockDecoder, pads: list[int], capacity: int) -> None:
        shape = decoder.shape
        self.decoder, self.length, self.capacity = decoder, 0, capacity
        size = (shape.layers, len(pads), shape.kv_heads, capacity, shape.head_dim)
        # Padded places are read (and masked), so they must be finite: zeros, never uninitialised memory.
        self.keys = torch.zeros(size, dtype=decoder.dtype, device=decoder.device)
        self.values = torch.zeros(size, dtype=decoder.dtype, device=decoder.device)
        self.pads = torch.tensor(pads, device=decoder.device)
        self.padded = any(pads)
        self._build_mask()

    def _build_mask(self) -> None:
        """Additive mask (B, 1, capacity): -inf on a row's padding; none when no row has any."""
        places = torch.arange(self.capacity, device=self.pads.device)
        hidden = (places < self.pads[:, None])[:, None]
        self.mask = torch.zeros_like(hidden, dtype=self.decoder.dtype).masked_fill_(hidden, -torch.inf) if self.padded else None

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values, self.pads = self.keys[:, rows], self.values[:, rows], self.pads[rows]
        self.padded = bool(self.pads.any())
        self._build_mask()

    def step(self, tokens: Tensor) -> Tensor:
        return self.read(tokens[:, None])

    def read(self, ids: Tensor) -> Tensor:
        """Append ids (B, N) to every row; the logits (B, V) after the last."""
        decoder, (rows, count) = self.decoder, ids.shape
        begin, end = self.length, self.length + ids.shape[1]
        rotation = decoder.rotation[begin:end].unsqueeze(1)  # (N, 1, head_dim / 2)
        mask = self._window(begin, end) if count > 1 or self.mask is None else self.mask[:, :, :end]
        hidden = F.embedding(ids.reshape(-1), decoder.embedding)  # (B N, D)
        for index, layer in enumerate(decoder.layers):
            last = index == len(decoder.layers) - 1 and count > 1
            hidden = self._layer(hidden, layer, index, rows, rotation, mask, last)
        self.length = end
        hidden = decoder.normalize(hidden, decoder.norm, decoder.norm_bias)
        return _linear(hidden, decoder.head, decoder.head_bias).float()

    def _window(self, begin: int, end: int) -> Tensor | None:
        """Additive mask (B or 1, N, T) for several new places at once: causal, and a row's padding hidden."""
        if end - begin == 1:
            return None
        places = torch.arange(end, device=self.pads.device)
        hidden = (places[None, :] > places[begin:, None])[None]
        if self.padded:
            hidden = hidden | (places < self.pads[:, None])[:, None]
            hidden = hidden & (places[None, :] != places[begin:, None])  # a padding place sees itself: no row of -inf alone, no NaN
        return torch.zeros(hidden.shape, dtype=self.decoder.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def _layer(self, hidden: Tensor, layer: Layer, index: int, rows: int, rotation: Tensor, mask: Tensor | None, last: bool) -> Tensor:
        """One layer over (B N, D); in the last one only the newest place of each row goes on, (B, D)."""
        shape, decoder = self.decoder.shape, self.decoder
        heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.head_dim
        count = hidden.shape[0] // rows
        end = self.length + count
        normed = decoder.normalize(hidden, layer.norm1, layer.norm1_bias)
        qkv = _linear(normed, layer.qkv, layer.qkv_bias).view(rows, count, heads + 2 * kv_heads, dim)
        turned = rotate(qkv[:, :, : heads + kv_heads], rotation)
        self.keys[index, :, :, self.length : end] = turned[:, :, heads:].transpose(1, 2)
        self.values[index, :, :, self.length : end] = qkv[:, :, heads + kv_heads :].transpose(1, 2)
        query = turned[:, :, :heads]
        if last:
            hidden, query, count = hidden.view(rows, count, -1)[:, -1], query[:, -1:], 1
            mask = None if mask is None else mask[:, -1:]
        attended = attend(query, self.keys[index, :, :, :end], self.values[index, :, :, :end], mask)
        hidden = hidden + _linear(attended.reshape(rows * count, heads * dim), layer.out, layer.out_bias)
        normed = decoder.normalize(hidden, layer.norm2, layer.norm2_bias)
        inner = _linear(normed, layer.up, layer.up_bias)
        if shape.family == "starcoder2":
            inner = F.gelu(inner, approximate="tanh")
        else:
            inner = F.silu(inner[:, : shape.mlp]).mul_(inner[:, shape.mlp :])
        return hidden + _linear(inner, layer.down, layer.down_bias)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """RoPE on (B, N, heads, head_dim) whose pairs lie side by side, by rotation (N, 1, head_dim / 2), as one complex product."""
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of query (B, N, heads, d), already scaled, over keys and values (B, kv heads, T, d): (B, N, heads, d).

    Several query heads share a key head: they lie next to each other, so the group is the row dimension of one small product.
    """
    rows, count, heads, dim = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    flat = query.view(rows, count, kv_heads, group, dim).permute(0, 2, 3, 1, 4).reshape(rows * kv_heads, group * count, dim)
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # (B kv, T, d): a view, the cache is contiguous up to T
    scores = torch.bmm(flat, keys.transpose(1, 2))  # (B kv, group N, T)
    if mask is not None:
        scores.view(rows, kv_heads * group, count, -1).add_(mask[:, None])
    attended = torch.bmm(scores.softmax(-1), values)
    return attended.view(rows, kv_heads, group, count, dim).permute(0, 3, 1, 2, 4).reshape(rows, count, heads, dim)
