"""Decoders whose MLP widths fall from layer to layer: upstream's classes with one more list in their config.

Importing this file registers both with transformers' Auto classes, so that a saved model loads again. llama.cpp's layouts have one width
for all layers, so these run in phiforge and transformers alone.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.starcoder2.modeling_starcoder2 import Starcoder2MLP


class TaperedStarcoder2Config(Starcoder2Config):
    """Starcoder2Config with `intermediate_sizes`, one for each layer; intermediate_size is the first of them."""

    model_type = "phiforge_tapered_starcoder2"
    intermediate_sizes: list[int] | None = None


class TaperedLlamaConfig(LlamaConfig):
    """LlamaConfig with `intermediate_sizes`, one for each layer; intermediate_size is the first of them."""

    model_type = "phiforge_tapered_llama"
    intermediate_sizes: list[int] | None = None


def _taper(model: Any, mlp: Any) -> None:
    """Give each layer an MLP of its own width; those whose width is right already stay."""
    config = model.config
    widths = config.intermediate_sizes or []
    if len(widths) != config.num_hidden_layers:
        raise ValueError(f"intermediate_sizes has {len(widths)} widths for {config.num_hidden_layers} layers")
    for layer, width in zip(model.model.layers, widths, strict=True):
        if width != config.intermediate_size:
            own = copy.copy(config)
            own.intermediate_size = width
            layer.mlp = mlp(own)
    model.post_init()


class TaperedStarcoder2ForCausalLM(Starcoder2ForCausalLM):
    """Starcoder2ForCausalLM with tapered MLPs."""

    config_class = TaperedStarcoder2Config

    def __init__(self, config: TaperedStarcoder2Config) -> None:
        super().__init__(config)
        _taper(self, Starcoder2MLP)


class TaperedLlamaForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM with tapered MLPs."""

    config_class = TaperedLlamaConfig

    def __init__(self, config: TaperedLlamaConfig) -> None:
        super().__init__(config)
        _taper(self, LlamaMLP)


CLASSES: dict[type[PretrainedConfig], Any] = {
    TaperedStarcoder2Config: TaperedStarcoder2ForCausalLM,
    TaperedLlamaConfig: TaperedLlamaForCausalLM,
}
# model_type -> the family whose layout it tapers
FAMILIES = {TaperedStarcoder2Config.model_type: "starcoder2", TaperedLlamaConfig.model_type: "llama"}

for _config, _class in CLASSES.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, _class, exist_ok=True)
