"""Groups and table of optimizers."""

from __future__ import annotations

import pytest
import torch

from phiforge.core.errors import ConfigError
from phiforge.models.decoder import build as build_model
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.optim.build import OptimizerSettings, build
from phiforge.optim.groups import decay_groups, decayed_names


def model_of(family: str) -> torch.nn.Module:
    spec = {"family": family, "width": 16, "depth": 1, "heads": 2, "vocab_size": 40, "context_length": 16}
    return build_model(resolve(DecoderSpec.model_validate(spec)), seed=0)


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
def test_matrices_are_decayed_and_nothing_else(family: str) -> None:
    model = model_of(family)
    decayed = decayed_names(model)
    for name, parameter in model.named_parameters():
        assert (name in decayed) == (parameter.ndim == 2), name


def test_every_trainable_parameter_is_in_one_group_once() -> None:
    model = model_of("starcoder2")
    model.get_parameter("model.layers.0.mlp.c_fc.bias").requires_grad_(False)
    groups = decay_groups(model, 0.1)
    inside = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(inside) == len(set(inside))
    assert set(inside) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_an_unknown_optimizer_is_one_line() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        build("adam_w", model_of("llama"), OptimizerSettings(learning_rate=1e-3))
