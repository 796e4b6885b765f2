"""True counts, from tensors: parameters, bytes, and the category that later stages ask for."""

from __future__ import annotations

from typing import Literal

import torch

from phiforge.core.config import Config

SizeCategory = Literal["tiny", "small", "medium", "large"]
# Upper limits of a category, in parameters; above the last it is large.
CATEGORIES: tuple[tuple[int, SizeCategory], ...] = ((50_000_000, "tiny"), (500_000_000, "small"), (2_000_000_000, "medium"))


class ModelSize(Config):
    """What a model truly holds."""

    params: int
    size_mb: float
    size_category: SizeCategory


def size_category(params: int) -> SizeCategory:
    """tiny below 50M, small below 500M, medium below 2B, else large."""
    return next((name for limit, name in CATEGORIES if params < limit), "large")


def count_parameters(model: torch.nn.Module) -> int:
    """Numbers held in parameters; a shared one (tied head) counts once."""
    return sum(p.numel() for p in model.parameters())


def get_model_size(model: torch.nn.Module) -> ModelSize:
    """Parameters, megabytes (10^6 bytes) as held in memory, and category."""
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    params = count_parameters(model)
    return ModelSize(params=params, size_mb=held / 1e6, size_category=size_category(params))
