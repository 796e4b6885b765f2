"""Dropout and weight decay of what is being trained: set in every live place, and read back from there.

Dropout lives in modules (nn.Dropout, also LoRA's), in plain attributes that attention layers hand to their kernels (Llama, Starcoder2),
and in the config, which some forwards ask each time (GPT-Neo's, our own fast one). All three are set together. Weight decay lives in
the optimizer's groups; a group that was made without (gains, biases) never gets any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers.trainer_callback import TrainerCallback

from phiforge.core.errors import ConfigError
from phiforge.golden.timetable import Timetable
from phiforge.optim.groups import decayed_names

# attention_dropout, resid_dropout, dropout, hidden_dropout_prob, attn_pdrop, ...; not layerdrop, which drops whole layers.
_NAME = re.compile(r"(?:^|_)dropout(?:_p|_prob|_rate)?$|_pdrop$")
_OF_HEADS = re.compile(r"classifier|summary")  # dropout before heads that a language model does not have


@dataclass(frozen=True, slots=True)
class Place:
    """One number that a forward pass reads."""

    name: str
    owner: Any
    attribute: str

    @property
    def value(self) -> float:
        return float(getattr(self.owner, self.attribute))

    def set(self, p: float) -> None:
        setattr(self.owner, self.attribute, p)


class Dropouts:
    """Every place of a model that holds a dropout probability, found once.

    A LoRA layer made with dropout 0 holds an nn.Identity, which can't be set: it is replaced by an nn.Dropout of 0, the same function.
    """

    def __init__(self, model: nn.Module) -> None:
        _wake_lora(model)
        self.places = [*_in_modules(model), *_in_config(model)]
        self.live = [place for place in self.places if not place.name.startswith("config.")]

    def read(self) -> dict[str, float]:
        """Name of the place -> probability now."""
        return {place.name: place.value for place in self.places}

    @property
    def own(self) -> float:
        """The largest probability of a live place; 0 where there is none."""
        return max((place.value for place in self.live), default=0.0)

    def setter(self, *, everywhere: bool) -> Callable[[float], None]:
        """A function that sets the model's dropout to p.

        everywhere: each place gets p. Else a place keeps its share of the largest: a model with residual dropout 0.1 and attention
        dropout 0 still has none in attention afterwards. Where all are 0 there are no shares, and each place gets p.
        """
        base = self.own
        shares = [1.0 if everywhere or not base else place.value / base for place in self.places]

        def assign(p: float) -> None:
            for place, share in zip(self.places, shares, strict=True):
                place.set(p * share)

        return assign


def set_dropout(model: nn.Module, p: float) -> int:
    """Set every dropout of `model` (modules, attention, LoRA, config) to `p`; returns how many live places that were.

    Raises ConfigError for p outside [0, 1), and where p > 0 and the model has no dropout anywhere.
    """
    if not 0 <= p < 1:
        raise ConfigError(f"dropout={p} must be at least 0 and below 1")
    found = Dropouts(model)
    if p and not found.live:
        raise no_dropout(model)
    found.setter(everywhere=True)(p)
    return len(found.live)


def read_dropout(model: nn.Module) -> dict[str, float]:
    """Every live place of `model` -> its dropout probability, as the next forward pass will use it."""
    return {place.name: place.value for place in Dropouts(model).live}


def no_dropout(model: nn.Module) -> ConfigError:
    """What to say where dropout is asked of a model that has none."""
    return ConfigError(
        f"dropout is asked of {type(model).__name__}, and it has no dropout layer",
        fix="leave the dropout settings out, or use another model",
    )


def _in_modules(model: nn.Module) -> Iterator[Place]:
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, _DropoutNd):
            yield Place(f"{prefix}p", module, "p")
            continue
        for attribute, value in vars(module).items():
            if isinstance(value, float | int) and not isinstance(value, bool) and _NAME.search(attribute):
                yield Place(prefix + attribute, module, attribute)


def _in_config(model: nn.Module) -> Iterator[Place]:
    seen: set[int] = set()
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is None or isinstance(config, dict) or id(config) in seen:
            continue
        seen.add(id(config))
        for attribute, value in vars(config).items():
            known = _NAME.search(attribute) and not _OF_HEADS.search(attribute)
            if known and isinstance(value, float | int) and not isinstance(value, bool):
                yield Place(f"config.{attribute}", config, attribute)


def _wake_lora(model: nn.Module) -> None:
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, nn.ModuleDict):
            for name, layer in layers.items():
                if isinstance(layer, nn.Identity):
                    layers[name] = nn.Dropout(0.0).train(layer.training)


def mark_decayed(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> list[dict[str, Any]]:
    """The groups that weight decay applies to: those that had some when this was first called. The mark travels with state_dict.

    Where no group had any (a run from weight_decay=0), and `model` is given: those that hold its matrices (optim.groups).
    """
    groups = optimizer.param_groups
    if model is not None and not any(group.get("decayed", group.get("weight_decay", 0.0) > 0) for group in groups):
        named, decayed = dict(model.named_parameters()), decayed_names(model)
        matrices = {id(parameter) for name, parameter in named.items() if name in decayed}
        for group in groups:
            group["decayed"] = any(id(parameter) in matrices for parameter in group["params"])
    for group in groups:
        group.setdefault("decayed", group.get("weight_decay", 0.0) > 0)
    return [group for group in groups if group["decayed"]]


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> int:
    """Set the weight decay of every group that has any (Muon's too); returns how many those are. Raises ConfigError below 0."""
    if weight_decay < 0:
        raise ConfigError(f"weight_decay={weight_decay} must be at least 0")
    groups = mark_decayed(optimizer)
    for group in groups:
        group["weight_decay"] = weight_decay
    return len(groups)


def read_weight_decay(optimizer: torch.optim.Optimizer) -> float:
    """The weight decay of the decayed groups (the largest, should someone have made them differ); 0 where there is none."""
    return max((float(group["weight_decay"]) for group in optimizer.param_groups), default=0.0)


class Regularize(TrainerCallback):
    """Before each step: dropout and weight decay as the timetable has them, in the model and in the optimizer.

    timetable: may be replaced on the way (a fallback). Places are looked up once, when training begins; afterwards the model has its first
    dropout again, which is what its saved config should say.
    """

    def __init__(self, timetable: Timetable, *, dropout: bool, weight_decay: bool, everywhere: bool) -> None:
        self.timetable, self.dropout, self.weight_decay, self.everywhere = timetable, dropout, weight_decay, everywhere
        self._drop: Callable[[float], None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        if self.weight_decay:
            mark_decayed(optimizer, model)
        if self.dropout:
            found = Dropouts(model)
            if not found.live:
                raise no_dropout(model)
            self._drop = found.setter(everywhere=self.everywhere)

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        step = state.global_step
        if self._drop is not None:
            self._drop(self.timetable.dropout_at(step))
        if self.weight_decay:
            set_weight_decay(optimizer, self.timetable.weight_decay_at(step))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._drop is not None:
            self._drop(self.timetable.dropout)
