"""Stock decoders: from a settled shape to a transformers config and model. The layouts are exactly upstream's."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, Starcoder2Config, Starcoder2ForCausalLM

from phiforge.core.seeds import derive
from phiforge.models.sizes import DecoderShape


def to_config(shape: DecoderShape, special_ids: dict[str, int] | None = None) -> PretrainedConfig:
    """The stock config of a shape. `special_ids`: pad_token_id, bos_token_id, eos_token_id."""
    ids: dict[str, Any] = dict(special_ids or dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")))
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
    if shape.family == "llama":
        return LlamaConfig(rms_norm_eps=1e-5, head_dim=shape.head_width, **common)
    return Starcoder2Config(
        norm_epsilon=1e-5,
        use_bias=True,
        sliding_window=None,
        hidden_act="gelu_pytorch_tanh",
        residual_dropout=shape.dropout,
        embedding_dropout=shape.dropout,
        **common,
    )


def build(shape: DecoderShape, *, seed: int, special_ids: dict[str, int] | None = None) -> PreTrainedModel:
    """A new model in float32 on the CPU; its weights depend on `seed` alone, not on what was drawn before."""
    config = to_config(shape, special_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initialisation"))
        config._attn_implementation = "sdpa"
        family: Any = LlamaForCausalLM if shape.family == "llama" else Starcoder2ForCausalLM
        model: PreTrainedModel = family(config)
    if shape.zero_init_residual:
        _zero_residual_writers(model)
    return model


def _zero_residual_writers(model: PreTrainedModel) -> None:
    """Zero the projections that add to the residual stream: at the start each layer is the identity."""
    for name, parameter in model.named_parameters():
        if name.endswith((".o_proj.weight", ".down_proj.weight", ".c_proj.weight")):
            torch.nn.init.zeros_(parameter)


def shape_of(config: PretrainedConfig) -> DecoderShape:
    """The shape behind a stock starcoder2 or llama config, so that counts come from one place."""
    family: Any = config.model_type
    if family not in ("starcoder2", "llama"):
        raise ValueError(f"{family} is not one of the stock decoder families")
    return DecoderShape(
        family=family,
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=config.hidden_size // config.num_attention_heads,
        mlp_width=config.intermediate_size,
        tie_head=config.tie_word_embeddings,
        dropout=config.attention_dropout,
        rope_theta=config.rope_parameters["rope_theta"],
        initializer_range=config.initializer_range,
        zero_init_residual=False,
    )
