"""The forward pass that training runs: a stock decoder's layers in fewer, larger operations, ended by the chunked loss.

It takes the place of `model.forward` while it is installed, so that everything around it (Trainer, DDP, accumulation) stays as it is.
The model's own forward is the reference: tests hold loss and every gradient together, for both layouts.

Weights stay float32 parameters. In bf16 each is cast once per forward pass and the cast's gradient comes back to the float32 parameter, so
activations, residual stream and matrix products are bf16 while masters, accumulated gradients and optimizer are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phiforge.train.attention import Attending, reference_attention, rotary_attention
from phiforge.train.layers import gelu, reference_gelu, reference_rms_norm, reference_swiglu, rms_norm, swiglu
from phiforge.train.losses import chunked_loss, reference_loss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What the layers are made of besides matrix products."""

    attention: Callable[..., Tensor]
    gelu: Callable[[Tensor], Tensor]
    swiglu: Callable[[Tensor], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor, Tensor | float], Tensor]


FAST = Operations(attention=rotary_attention, gelu=gelu, swiglu=swiglu, rms_norm=rms_norm, loss=chunked_loss)
# The references, and what torch.compile is given: it fuses plain forms by itself and cannot see into ours.
PLAIN = Operations(
    attention=reference_attention, gelu=reference_gelu, swiglu=reference_swiglu, rms_norm=reference_rms_norm, loss=reference_loss
)


def supports(model: nn.Module) -> bool:
    """Whether the fast forward pass knows the model's layout, exactly as our decoders build it."""
    config = getattr(model, "config", None)
    family = getattr(config, "model_type", None)
    if config is None or (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default":
        return False
    if family == "starcoder2":
        return bool(config.use_bias and config.sliding_window is None and config.hidden_act == "gelu_pytorch_tanh")
    return family == "llama" and not config.attention_bias and not config.mlp_bias and config.hidden_act == "silu"


class TrainingForward:
    """Callable as `model(input_ids, shift_labels, position_ids, num_items_in_batch)` -> {"loss": scalar}.

    model: a starcoder2 or llama causal LM of transformers that `supports` accepts. Without `shift_labels` the model's own forward runs.
    """

    def __init__(self, model: Any, *, precision: str, compiled: bool = False, operations: Operations | None = None) -> None:
        self.model, self.dtype = model, DTYPES[precision]
        self.operations = operations or (PLAIN if compiled else FAST)
        self.original = model.forward
        self._loss = torch.compile(self.loss, dynamic=False) if compiled else self.loss

    def install(self) -> None:
        """Put this in the place of the model's forward."""
        self.model.forward = self

    def remove(self) -> None:
        """Give the model its own forward back."""
        if self.model.__dict__.get("forward") is self:
            del self.model.__dict__["forward"]

    def __call__(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        if input_ids is None or "shift_labels" not in inputs:
            return self.original(input_ids=input_ids, **inputs)
        labels, items = inputs["shift_labels"], inputs.get("num_items_in_batch")
        if items is None:
            items = (labels != -100).sum().clamp(min=1)
        position_ids = inputs.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        attending = Attending.of(position_ids, self.model.model.rotary_emb.inv_freq, self.dtype)
        return {"loss": self._loss(input_ids, attending, labels, items)}

    def loss(self, input_ids: Tensor, attending: Attending, labels: Tensor, items: Tensor | float) -> Tensor:
        """Summed loss of a batch divided by `items`. input_ids, labels (B, T)."""
        weights = {name: parameter.to(self.dtype) for name, parameter in self.model.named_parameters()}
        embedding = weights["model.embed_tokens.weight"]
        hidden = self._layers(F.embedding(input_ids, embedding), attending, weights)
        return self.operations.loss(hidden.flatten(0, 1), weights.get("lm_head.weight", embedding), labels.flatten(), items)

    def _layers(self, x: Tensor, attending: Attending, weights: dict[str, Tensor]) -> Tensor:
        """Embeddings (B, T, D) -> normalised hidden states (B, T, D)."""
        config, training = self.model.config, self.model.training
        block = _starcoder2 if config.model_type == "starcoder2" else _llama
        if config.model_type == "starcoder2":
            x = F.dropout(x, config.embedding_dropout, training)
        for index in range(config.num_hidden_layers):
            x = block(x, _Layer(weights, index), config, attending, training, self.operations)
        return _norm(x, _Names(weights, "model.norm"), config, self.operations)


class _Names:
    """Weights below a prefix, by their short names."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[f"{self.prefix}.{name}"]

    def below(self, name: str) -> _Names:
        return _Names(self.weights, f"{self.prefix}.{name}")


class _Layer(_Names):
    def __init__(self, weights: dict[str, Tensor], index: int) -> None:
        super().__init__(weights, f"model.layers.{index}")


def _norm(x: Tensor, names: _Names, config: Any, ops: Operations) -> Tensor:
    if config.model_type == "starcoder2":
        return F.layer_norm(x, (x.shape[-1],), names["weight"], names["bias"], config.norm_epsilon)
    return ops.rms_norm(x, names["weight"], config.rms_norm_eps)


def _attend(qkv: Tensor, attending: Attending, config: Any, training: bool, ops: Operations) -> Tensor:
    """(B, T, (H + 2 K) d) -> (B, T, H d)."""
    dropout = config.attention_dropout if training else 0.0
    return ops.attention(qkv, attending, config.num_attention_heads, config.num_key_value_heads, dropout)


def _starcoder2(x: Tensor, layer: _Layer, config: Any, attending: Attending, training: bool, ops: Operations) -> Tensor:
    """LayerNorm, attention, LayerNorm, GELU MLP; biases everywhere; dropout where transformers has it."""
    heads, mlp = layer.below("self_attn"), layer.below("mlp")
    h = _norm(x, layer.below("input_layernorm"), config, ops)
    weight, bias = (torch.cat([heads[f"{part}_proj.{kind}"] for part in "qkv"]) for kind in ("weight", "bias"))
    h = _attend(F.linear(h, weight, bias), attending, config, training, ops)
    x = x + F.dropout(F.linear(h, heads["o_proj.weight"], heads["o_proj.bias"]), config.residual_dropout, training)
    h = _norm(x, layer.below("post_attention_layernorm"), config, ops)
    h = F.linear(ops.gelu(F.linear(h, mlp["c_fc.weight"], mlp["c_fc.bias"])), mlp["c_proj.weight"], mlp["c_proj.bias"])
    return x + F.dropout(h, config.residual_dropout, training)


def _llama(x: Tensor, layer: _Layer, config: Any, attending: Attending, training: bool, ops: Operations) -> Tensor:
    """RMSNorm, attention, RMSNorm, SwiGLU; no biases."""
    heads, mlp = layer.below("self_attn"), layer.below("mlp")
    h = _norm(x, layer.below("input_layernorm"), config, ops)
    h = _attend(F.linear(h, torch.cat([heads[f"{part}_proj.weight"] for part in "qkv"])), attending, config, training, ops)
    x = x + F.linear(h, heads["o_proj.weight"])
    h = _norm(x, layer.below("post_attention_layernorm"), config, ops)
    h = ops.swiglu(F.linear(h, torch.cat([mlp["gate_proj.weight"], mlp["up_proj.weight"]])))
    return x + F.linear(h, mlp["down_proj.weight"])
