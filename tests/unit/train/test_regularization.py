"""Dropout and weight decay reach every live place, and are read back from there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from phiforge.core.errors import ConfigError
from phiforge.golden.config import PhiConfig
from phiforge.golden.timetable import timetable_of_steps
from phiforge.optim.build import OptimizerSettings, build
from phiforge.train.forward import TrainingForward
from phiforge.train.regularization import Dropouts, Regularize, mark_decayed, read_dropout, read_weight_decay, set_dropout, set_weight_decay

VOCABULARY = 40


def model_of(kind: str, p: float = 0.1) -> Any:
    import transformers as t

    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = t.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=p, embd_pdrop=p, attn_pdrop=p
        )
        return t.GPT2LMHeadModel(config)
    if kind == "gpt_neo":
        config = t.GPTNeoConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=16,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            resid_dropout=p,
            embed_dropout=p,
            attention_dropout=p,
        )
        return t.GPTNeoForCausalLM(config)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "attention_dropout": p,
    }
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**shape))
    return t.Starcoder2ForCausalLM(t.Starcoder2Config(**shape, residual_dropout=p, embedding_dropout=p, sliding_window=None))


KINDS = ("gpt2", "gpt_neo", "llama", "starcoder2")
LIVE = {"gpt2": 1 + 2 * 3, "gpt_neo": 1 + 2 * 3, "llama": 2, "starcoder2": 1 + 2 * 3}  # embedding; in each layer attention, output, MLP


def spread(model: Any) -> float:
    """How far two training passes over the same tokens are apart: 0 without live dropout."""
    ids = torch.arange(12)[None] % VOCABULARY
    model.train()
    with torch.no_grad():
        torch.manual_seed(1)
        first = model(input_ids=ids).logits
        torch.manual_seed(2)
        return float((first - model(input_ids=ids).logits).norm())


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_is_found_set_and_felt(kind: str) -> None:
    model = model_of(kind)
    assert len(read_dropout(model)) == LIVE[kind]
    for p in (0.37, 0.0, 0.25):
        assert set_dropout(model, p) == LIVE[kind]
        assert set(read_dropout(model).values()) == {p}
        assert set(Dropouts(model).read().values()) == {p}  # the config too: forwards that ask it each time
        assert (spread(model) > 0) == (p > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wave", [True, "cyclic"])
def test_the_model_has_the_plans_dropout_at_each_step(kind: str, wave: Any) -> None:
    model, plan = model_of(kind), timetable_of_steps(PhiConfig(phi_dropout_schedule=wave), steps=9, base_batch=2, dropout=0.1)
    callback = Regularize(plan, dropout=True, weight_decay=False, everywhere=False)
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None, model=model)
    seen = []
    for step in range(9):
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None)
        assert set(read_dropout(model).values()) == {plan.dropout_at(step)}
        seen.append(plan.dropout_at(step))
    assert len(set(seen)) == 9
    callback.on_train_end(None, None, None)
    assert set(Dropouts(model).read().values()) == {0.1}


@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_the_fast_forward_sees_the_live_value(kind: str) -> None:
    model = model_of(kind, 0.0).train()
    fast, ids = TrainingForward(model, precision="fp32"), torch.arange(12)[None]

    def losses() -> set[float]:
        return {float(fast(input_ids=ids, shift_labels=ids)["loss"].detach()) for _ in range(3)}

    assert len(losses()) == 1
    set_dropout(model, 0.4)
    assert len(losses()) == 3
    set_dropout(model, 0.0)
    assert len(losses()) == 1


def test_places_keep_their_shares_unless_a_base_is_given() -> None:
    model = model_of("starcoder2")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    model.config.attention_dropout = 0.0
    Dropouts(model).setter(everywhere=False)(0.05)
    found = Dropouts(model).read()
    assert {value for name, value in found.items() if "attention" in name} == {0.0}
    assert {value for name, value in found.items() if "attention" not in name} == {0.05}
    Dropouts(model).setter(everywhere=True)(0.05)
    assert set(Dropouts(model).read().values()) == {0.05}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks transformers by an old name
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_lora_dropout_is_live_also_where_peft_made_an_identity(p: float) -> None:
    import peft

    model = peft.get_peft_model(model_of("gpt2", 0.0), peft.LoraConfig(r=2, lora_dropout=p, target_modules=["c_attn"], fan_in_fan_out=True))
    set_dropout(model, 0.3)
    layers = [module for name, module in model.named_modules() if name.endswith("lora_dropout.default")]
    assert len(layers) == 2
    assert all(isinstance(layer, nn.Dropout) and layer.p == 0.3 for layer in layers)
    assert len(read_dropout(model)) == LIVE["gpt2"] + 2


def test_a_model_without_dropout_is_told() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="dropout is asked of Plain, and it has no dropout layer"):
        set_dropout(Plain(), 0.1)
    assert set_dropout(Plain(), 0.0) == 0
    with pytest.raises(ConfigError, match=r"dropout=1\.0 must be"):
        set_dropout(model_of("gpt2"), 1.0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_goes_where_it_was_and_nowhere_else(name: str) -> None:
    optimizer = build(name, model_of("starcoder2"), OptimizerSettings(learning_rate=1e-3, weight_decay=0.1))
    had = [group["weight_decay"] > 0 for group in optimizer.param_groups]
    assert any(had) and not all(had)
    for value in (0.2, 0.0, 0.05):  # through 0 too: a group is not forgotten there
        assert set_weight_decay(optimizer, value) == sum(had)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [value if decayed else 0.0 for decayed in had]
        assert read_weight_decay(optimizer) == value
    with pytest.raises(ConfigError, match="weight_decay=-1 must be at least 0"):
        set_weight_decay(optimizer, -1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_from_zero_reaches_the_matrices(name: str) -> None:
    model = model_of("llama")
    whole, bare = (build(name, model, OptimizerSettings(learning_rate=1e-3, weight_decay=wd)) for wd in (0.1, 0.0))
    assert not mark_decayed(build(name, model, OptimizerSettings(learning_rate=1e-3, weight_decay=0.0)))
    mark_decayed(bare, model)
    set_weight_decay(bare, 0.1)
    assert [group["weight_decay"] for group in bare.param_groups] == [group["weight_decay"] for group in whole.param_groups]


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("wave", [True, "cyclic"])
def test_the_optimizer_has_the_plans_weight_decay_at_each_step(name: str, wave: Any) -> None:
    model = model_of("gpt2")
    optimizer = build(name, model, OptimizerSettings(learning_rate=1e-3, weight_decay=0.1))
    plan = timetable_of_steps(PhiConfig(phi_weight_decay_schedule=wave), steps=9, base_batch=2, weight_decay=0.1)
    callback = Regularize(plan, dropout=False, weight_decay=True, everywhere=False)
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None, model=model, optimizer=optimizer)
    for step in range(9):
        callback.on_step_begin(None, SimpleNamespace(global_step=step), None, optimizer=optimizer)
        assert read_weight_decay(optimizer) == plan.weight_decay_at(step)
