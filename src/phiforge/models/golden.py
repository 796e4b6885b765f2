"""generate_phi_model: a decoder of golden proportions, under the name that the seed document gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from phiforge.core.config import build
from phiforge.golden.api import PHITrainingConfig
from phiforge.models.decoder import build as build_model
from phiforge.models.sizes import DecoderSpec, resolve


def generate_phi_model(
    phi_config: PHITrainingConfig | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    special_ids: dict[str, int] | None = None,
    **shape: Any,
) -> PreTrainedModel:
    """A new model of golden shape, float32 on the CPU.

    phi_config: a PHITrainingConfig, whose base_dropout the model starts with (the document's call), or settings of DecoderSpec.
    shape: more of those (size="10M", vocab_size=4096, family="llama", mlp_taper=True, ...). Without a size it is as large as GPT-2 small,
    with its vocabulary and context, as the document's experiment has it. Raises ConfigError.
    """
    settings: dict[str, Any] = {"shape": "golden"}
    if isinstance(phi_config, PHITrainingConfig):
        settings["dropout"] = phi_config.base_dropout
    elif phi_config is not None:
        settings |= phi_config
    settings |= shape
    if not settings.keys() & {"size", "width", "depth"}:
        settings["size"] = "gpt2-small"
    spec = build(DecoderSpec, settings, where="generate_phi_model")
    return build_model(resolve(spec), seed=seed, special_ids=special_ids)
