"""From a name to an optimizer: a table. A further optimizer is a row here and a row in its contract suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from phiforge.core.config import nearest
from phiforge.core.errors import ConfigError
from phiforge.optim.groups import decay_groups
from phiforge.optim.muon import MuonAdamW, muon_groups


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What every optimizer is told. Names as transformers spells them."""

    learning_rate: float
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    muon_learning_rate: float | None = None


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) in torch's fused form: one pass over the parameters a step."""
    return torch.optim.AdamW(
        decay_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def muon(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Muon on hidden matrices at `muon_learning_rate` (none = the same rate), AdamW on the rest: `optim/muon.py`."""
    return MuonAdamW(
        muon_groups(model, settings.weight_decay, settings.muon_learning_rate),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimizerSettings], torch.optim.Optimizer]] = {"adamw": adamw, "muon": muon}
ALIASES = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"}


def build(name: str, model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer called `name` over the trainable parameters of `model`. Raises ConfigError for an unknown name."""
    factory = OPTIMIZERS.get(ALIASES.get(name, name))
    if factory is None:
        raise ConfigError(f"optim={name!r} is not an optimizer; {nearest(name, [*OPTIMIZERS, *ALIASES])}")
    return factory(model, settings)
