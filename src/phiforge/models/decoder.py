"""Decoders: from a settled shape to a transformers config and model. Layouts are exactly upstream's, or tapered (tapered.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from phiforge.core.seeds import derive
from phiforge.models import tapered
from phiforge.models.sizes import DecoderShape
from phiforge.models.thyme import modeling as _thyme  # noqa: F401  registers its classes, so that `load` knows them

CLASSES: dict[type[PretrainedConfig], Any] = {
    Starcoder2Config: Starcoder2ForCausalLM,
    LlamaConfig: LlamaForCausalLM,
    GPT2Config: GPT2LMHeadModel,
} | tapered.CLASSES


def to_config(shape: DecoderShape, special_ids: dict[str, int] | None = None) -> PretrainedConfig:
    """The config of a shape. `special_ids`: pad_token_id, bos_token_id, eos_token_id."""
    ids: dict[str, Any] = dict(special_ids or dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")))
    if shape.family == "gpt2":
        return _gpt2_config(shape, ids)
    common: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context_length,
        "initializer_range": shape.initializer_range,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tie_head,
        "attention_dropout": shape.dropout,
        **ids,
    }
    widths: dict[str, Any] = {"intermediate_sizes": list(shape.mlp_widths)} if shape.mlp_widths else {}
    if shape.family == "llama":
        llama: Any = tapered.TaperedLlamaConfig if widths else LlamaConfig
        return llama(rms_norm_eps=1e-5, head_dim=shape.head_width, **common, **widths)
    starcoder2: Any = tapered.TaperedStarcoder2Config if widths else Starcoder2Config
    return starcoder2(
        norm_epsilon=1e-5,
        use_bias=True,
        sliding_window=None,
        hidden_act="gelu_pytorch_tanh",
        residual_dropout=shape.dropout,
        embedding_dropout=shape.dropout,
        **common,
        **widths,
    )


def _gpt2_config(shape: DecoderShape, ids: dict[str, Any]) -> GPT2Config:
    return GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context_length,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        n_inner=shape.mlp_width,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=shape.tie_head,
        **ids,
    )


def build(shape: DecoderShape, *, seed: int, special_ids: dict[str, int] | None = None) -> PreTrainedModel:
    """A new model in float32 on the CPU; its weights depend on `seed` alone, not on what was drawn before."""
    config = to_config(shape, special_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initialisation"))
        config._attn_implementation = "sdpa"
        model: PreTrainedModel = CLASSES[type(config)](config)
    if shape.zero_init_residual:
        _zero_residual_writers(model)
    return model


def load(folder: Path) -> PreTrainedModel:
    """A saved model in float32 on the CPU, from safetensors in `folder` alone. Raises OSError or ValueError where it can't be read."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    return model


def _zero_residual_writers(model: PreTrainedModel) -> None:
    """Zero the projections that add to the residual stream: at the start each layer is the identity."""
    for name, parameter in model.named_parameters():
        if name.endswith((".o_proj.weight", ".down_proj.weight", ".c_proj.weight")):
            torch.nn.init.zeros_(parameter)


def shape_of(config: PretrainedConfig) -> DecoderShape:
    """The shape behind a config of ours or of a stock family, so that counts come from one place."""
    kind: Any = config.model_type
    family: Any = tapered.FAMILIES.get(kind, kind)
    if family not in ("starcoder2", "llama", "gpt2"):
        raise ValueError(f"{kind} is not one of the stock decoder families")
    gpt2 = family == "gpt2"
    return DecoderShape(
        family=family,
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads if gpt2 else config.num_key_value_heads,
        head_width=config.hidden_size // config.num_attention_heads,
        mlp_width=(config.n_inner or 4 * config.n_embd) if gpt2 else config.intermediate_size,
        tie_head=config.tie_word_embeddings,
        dropout=config.attn_pdrop if gpt2 else config.attention_dropout,
        rope_theta=10_000.0 if gpt2 else config.rope_parameters["rope_theta"],
        initializer_range=config.initializer_range,
        zero_init_residual=False,
        mlp_widths=tuple(config.intermediate_sizes) if kind in tapered.FAMILIES else None,
    )
