"""The forward pass that training runs: a stock decoder's layers in fewer, larger operations, ended by the chunked loss.

It takes the place of `model.forward` while it is installed, so that everything around it (Trainer, DDP, accumulation) stays as it is.
The model's own forward is the reference: tests hold loss and every gradient together, for each layout.

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

from phiforge.models import tapered
from phiforge.train.attention import Attending, reference_attention, rotary_attention
from phiforge.train.layers import gelu, reference_gelu, reference_rms_norm, reference_swiglu, rms_norm, swiglu
from phiforge.train.losses import chunked_loss, reference_loss
from phiforge.train.thyme_forward import ThymeForward, is_thyme

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


def _family(config: Any) -> Any:
    """The layout's name; a tapered one differs from its family in widths alone, and those come with the weights."""
    kind = getattr(config, "model_type", None)
    return tapered.FAMILIES.get(str(kind), kind)


def supports(model: nn.Module) -> bool:
    """Whether the fast forward pass knows the model's layout, exactly as our decoders build it."""
    if is_thyme(model):
        return True
    config, family = getattr(model, "config", None), _family(getattr(model, "config", None))
    if getattr(model, "peft_config", None):  # adapters: their layers add what this pass would leave out
        return False
    if config is None or (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default":
        return False
    if family == "starcoder2":
        return bool(config.use_bias and config.sliding_window is None and config.hidden_act == "gelu_pytorch_tanh")
    if family == "gpt2":
        plain = config.scale_attn_weights and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
        return bool(plain and config.activation_function in ("gelu_new", "gelu_pytorch_tanh") and config.n_embd // config.n_head % 2 == 0)
    return family == "llama" and not config.attention_bias and not config.mlp_bias and config.hidden_act == "silu"


def forward_for(model: Any, *, precision: str, compiled: bool = False) -> TrainingForward | ThymeForward:
    """The fast forward pass of a model that `supports` accepts."""
    return (ThymeForward if is_thyme(model) else TrainingForward)(model, precision=precision, compiled=compiled)


class TrainingForward:
    """Callable as `model(input_ids, shift_labels, position_ids, num_items_in_batch)` -> {"loss": scalar}.

    model: a starcoder2, llama or gpt2 causal LM of transformers that `supports` accepts. Without `shift_labels` its own forward runs.
    """

    def __init__(self, model: Any, *, precision: str, compiled: bool = False, operations: Operations | None = None) -> None:
        self.model, self.dtype = model, DTYPES[precision]
        self.operations = operations or (PLAIN if compiled else FAST)
        self.original = model.forward
        self.gpt2 = _family(model.config) == "gpt2"
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
        attending = Attending.of(position_ids, self._frequencies(), self.dtype)
        places = position_ids if self.gpt2 else None
        return {"loss": self._loss(input_ids, attending, labels, items, places)}

    def _frequencies(self) -> Tensor:
        """Of the rotation, (d/2,). GPT-2 learns its positions instead: all zero turns nothing."""
        if not self.gpt2:
            return self.model.model.rotary_emb.inv_freq
        config = self.model.config
        return torch.zeros(config.n_embd // config.n_head // 2, device=self.model.device)

    def loss(self, input_ids: Tensor, attending: Attending, labels: Tensor, items: Tensor | float, places: Tensor | None = None) -> Tensor:
        """Summed loss of a batch divided by `items`. input_ids, labels, places (B, T); places: position_ids, where they are learned."""
        weights = {name: parameter.to(self.dtype) for name, parameter in self.model.named_parameters()}
        embedding = weights["transformer.wte.weight" if self.gpt2 else "model.embed_tokens.weight"]
        x = F.embedding(input_ids, embedding)
        if places is not None:
            x = x + F.embedding(places, weights["transformer.wpe.weight"])
        hidden = self._layers(x, attending, weights)
        return self.operations.loss(hidden.flatten(0, 1), weights.get("lm_head.weight", embedding), labels.flatten(), items)

    def _layers(self, x: Tensor, attending: Attending, weights: dict[str, Tensor]) -> Tensor:
        """Embeddings (B, T, D) -> normalised hidden states (B, T, D)."""
        config, training = self.model.config, self.model.training
        family = _family(config)
        block, stack, last = _BLOCKS[family]
        if family != "llama":
            x = F.dropout(x, config.embd_pdrop if self.gpt2 else config.embedding_dropout, training)
        for index in range(config.num_hidden_layers):
            x = block(x, _Names(weights, f"{stack}.{index}"), config, attending, training, self.operations)
        return _norm(x, _Names(weights, last), config, self.operations)


class _Names:
    """Weights below a prefix, by their short names."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[f"{self.prefix}.{name}"]

    def below(self, name: str) -> _Names:
        return _Names(self.weights, f"{self.prefix}.{name}")


def _norm(x: Tensor, names: _Names, config: Any, ops: Operations) -> Tensor:
    family = _family(config)
    if family == "llama":
        return ops.rms_norm(x, names["weight"], config.rms_norm_eps)
    epsilon = config.layer_norm_epsilon if family == "gpt2" else config.norm_epsilon
    return F.layer_norm(x, (x.shape[-1],), names["weight"], names["bias"], epsilon)


def _attend(qkv: Tensor, attending: Attending, config: Any, training: bool, ops: Operations) -> Tensor:
    """(B, T, (H + 2 K) d) -> (B, T, H d)."""
    dropout = config.attention_dropout if training else 0.0
    return ops.attention(qkv, attending, config.num_attention_heads, config.num_key_value_heads, dropout)


def _starcoder2(x: Tensor, layer: _Names, config: Any, attending: Attending, training: bool, ops: Operations) -> Tensor:
    """LayerNorm, attention, LayerNorm, GELU MLP; biases everywhere; dropout where transformers has it."""
    heads, mlp = layer.below("self_attn"), layer.below("mlp")
    h = _norm(x, layer.below("input_layernorm"), config, ops)
    weight, bias = (torch.cat([heads[f"{part}_proj.{kind}"] for part in "qkv"]) for kind in ("weight", "bias"))
    h = _attend(F.linear(h, weight, bias), attending, config, training, ops)
    x = x + F.dropout(F.linear(h, heads["o_proj.weight"], heads["o_proj.bias"]), config.residual_dropout, training)
    h = _norm(x, layer.below("post_attention_layernorm"), config, ops)
    h = F.linear(ops.gelu(F.linear(h, mlp["c_fc.weight"], mlp["c_fc.bias"])), mlp["c_proj.weight"], mlp["c_proj.bias"])
    return x + F.dropout(h, config.residual_dropout, training)


def _llama(x: Tensor, layer: _Names, config: Any, attending: Attending, training: bool, ops: Operations) -> Tensor:
    """RMSNorm, attention, RMSNorm, SwiGLU; no biases."""
    heads, mlp = layer.below("self_attn"), layer.below("mlp")
    h = _norm(x, layer.below("input_layernorm"), config, ops)
    h = _attend(F.linear(h, torch.cat([heads[f"{part}_proj.weight"] for part in "qkv"])), attending, config, training, ops)
    x = x + F.linear(h, heads["o_proj.weight"])
    h = _norm(x, layer.below("post_attention_layernorm"), config, ops)
    h = ops.swiglu(F.linear(h, torch.cat([mlp["gate_proj.weight"], mlp["up_proj.weight"]])))
    return x + F.linear(h, mlp["down_proj.weight"])


def _gpt2(x: Tensor, layer: _Names, config: Any, attending: Attending, training: bool, ops: Operations) -> Tensor:
    """As starcoder2, with q, k and v in one matrix and every matrix stored transposed."""
    heads, mlp = layer.below("attn"), layer.below("mlp")

    def linear(x: Tensor, names: _Names, name: str) -> Tensor:
        return F.linear(x, names[f"{name}.weight"].t(), names[f"{name}.bias"])

    h = linear(_norm(x, layer.below("ln_1"), config, ops), heads, "c_attn")
    h = ops.attention(h, attending, config.n_head, config.n_head, config.attn_pdrop if training else 0.0)
    x = x + F.dropout(linear(h, heads, "c_proj"), config.resid_pdrop, training)
    h = ops.gelu(linear(_norm(x, layer.below("ln_2"), config, ops), mlp, "c_fc"))
    return x + F.dropout(linear(h, mlp, "c_proj"), config.resid_pdrop, training)


# family -> one layer, where the layers are, the norm behind them
_BLOCKS: dict[str, tuple[Callable[..., Tensor], str, str]] = {
    "starcoder2": (_starcoder2, "model.layers", "model.norm"),
    "llama": (_llama, "model.layers", "model.norm"),
    "gpt2": (_gpt2, "transformer.h", "transformer.ln_f"),
}
