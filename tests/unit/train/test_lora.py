"""LoRA in fine-tuning: what is trained, what is merged, what resumes, what is refused; on our shapes and on borrowed ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, Interrupted
from phiforge.train.chat_format import chat_format
from phiforge.train.finetune_config import FinetuneConfig, LoraSettings
from phiforge.train.forward import supports
from phiforge.train.interrupt import Stop
from phiforge.train.lora import adapt, is_adapted, merged, plain
from phiforge.train.regularization import read_dropout
from phiforge.train.trainer import StreamTrainer
from tests.unit.train.chat_parts import borrowed, finetune, ours, save_model, write_sums

LEARN: dict[str, Any] = {
    "learning_rate": 1e-2,
    "max_steps": 12,
    "eval_steps": 6,
    "save_steps": 4,
    "logging_steps": 3,
    "context_length": 64,
    "sample_questions": 1,
    "sample_tokens": 4,
    "final_questions": 2,
    "final_eval_tokens": 512,
    "load_best_model_at_end": False,
}
KINDS = {"starcoder2": ours, "llama": ours, "gpt2": borrowed, "qwen2": borrowed}


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_sums(tmp_path_factory.mktemp("sums") / "sums.jsonl", 80))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_merged_model_is_base_plus_adapter(kind: str, sums: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tokenizer = KINDS[kind]()
    base = save_model(tmp_path / "base", tokenizer, kind, rows=tokenizer.vocab_size + 4)
    run = finetune(tmp_path / "run", base, data=sums, lora={"r": 4, "dropout": 0.1}, **LEARN)
    before, after = weights(base.model_dir), weights(run.model_dir)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    added = chat_format(tokenizer, "auto").added
    tables = {name for name in changed if "embed" in name or "wte" in name or "lm_head" in name}
    assert len(changed - tables) >= 8 and all(before[name].ndim == 2 for name in changed)
    assert bool(tables) == bool(added)
    for name in tables:  # of the tables only the new tokens' rows have moved
        rows = (before[name] != after[name]).any(dim=1).nonzero().flatten().tolist()
        assert set(rows) == set(added.values())
    metrics = run.manifest.metrics
    assert metrics["eval_loss"] < metrics["eval_loss_before"] and metrics["parameters"] == sum(p.numel() for p in after.values())
    # The adapter beside it makes the same model of the base; where tokens were added, their rows' first values are the run's own.
    if not added:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(base.model_dir, dtype=torch.float32)
            whole = dict(peft.PeftModel.from_pretrained(model, run.path / "adapter").merge_and_unload().named_parameters())
        assert all(torch.equal(whole[name], after[name]) for name in after)
    assert (run.path / "adapter" / "adapter_model.safetensors").stat().st_size < 0.8 * sum(4 * p.numel() for p in after.values())
    assert not list((run.path / "checkpoints").rglob("model.safetensors"))  # checkpoints hold adapters


def test_golden_dropout_reaches_the_adapters(sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []
    step_of = StreamTrainer.training_step

    def reading(self: StreamTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append({name: value for name, value in read_dropout(self.network).items() if "lora_dropout" in name})
        return step_of(self, *args, **kwargs)

    monkeypatch.setattr(StreamTrainer, "training_step", reading)
    base = save_model(tmp_path / "base", ours(), "llama")
    phi = {"phi_dropout_schedule": True, "base_dropout": 0.2, "phi_batch_progression": True}
    run = finetune(tmp_path / "run", base, data=sums, lora={"r": 2}, phi=phi, **(LEARN | {"logging_steps": 1}))
    logged = [line["dropout"] for line in run.metrics() if "loss" in line]
    assert len(seen) == len(logged) == 12 and len(seen[0]) == 14
    assert [set(places.values()) for places in seen] == [{value} for value in logged]
    assert logged[0] == 0.2 and logged == sorted(logged, reverse=True) and logged[-1] < 0.14


def test_resumed_is_uninterrupted(sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_model(tmp_path / "base", ours(), "llama")
    settings = {"data": sums, "lora": {"r": 2, "dropout": 0.1}, **LEARN}
    whole = finetune(tmp_path / "whole", base, **settings)
    step_of = StreamTrainer.training_step

    def stopping(self: StreamTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            next(c for c in self.callback_handler.callbacks if isinstance(getattr(c, "stop", None), Stop)).stop.asked = "a test"
        return step_of(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StreamTrainer, "training_step", stopping)
        with pytest.raises(Interrupted):
            finetune(tmp_path / "run", base, **settings)
    run = finetune(tmp_path / "run", base, resume=True, **settings)
    a, b = (weights(found.model_dir) for found in (whole, run))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line.get("loss") for line in run.metrics()] == [line.get("loss") for line in whole.metrics()]


def parts() -> Any:
    from phiforge.models import decoder
    from phiforge.models.sizes import DecoderSpec, resolve

    return decoder.build(resolve(DecoderSpec(family="llama", width=16, depth=1, heads=2, vocab_size=32, context_length=16)), seed=0)


def test_the_fast_forward_pass_leaves_adapted_models_to_transformers() -> None:
    model = parts()
    assert supports(model)
    adapted = adapt(model, LoraSettings(r=2), new_tokens=[], seed=0)
    assert not supports(adapted) and is_adapted(adapted) and plain(adapted) is model


def test_it_changes_nothing_before_training_and_comes_from_the_seed_alone() -> None:
    ids = torch.arange(12)[None]
    expected = parts()(input_ids=ids).logits
    drawn = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = adapt(parts(), LoraSettings(r=2), new_tokens=[3], seed=7)
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(model(input_ids=ids).logits, expected)
        drawn.append({name: p.detach().clone() for name, p in model.named_parameters() if "lora_A" in name})
    assert drawn[0] and all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    whole = merged(model)
    assert not is_adapted(whole) and all(p.requires_grad for p in whole.parameters())
    assert torch.allclose(whole(input_ids=ids).logits, expected, atol=1e-6)
    assert merged(whole) is whole


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="its linear layers are") as caught:
        adapt(parts(), LoraSettings(target_modules=["qproj"]), new_tokens=[], seed=0)
    assert "\n" not in str(caught.value) and "q_proj" in str(caught.value)
    for settings in ({"lora": {"r": 0}}, {"lora": {"rank": 4}}, {"lora": {}, "loss": "fused"}):
        with pytest.raises(ConfigError):
            build(FinetuneConfig, {"data": "x.jsonl", **settings}, where="test")
    assert build(FinetuneConfig, {"data": "x.jsonl", "lora": {}}, where="test").lora == LoraSettings()
