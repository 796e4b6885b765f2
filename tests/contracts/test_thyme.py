"""Every Thyme model through one suite: what transformers asks of a causal model, and what Thyme promises beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from phiforge.models.thyme.configuration import ThymeCache
from phiforge.models.thyme.modeling import ThymeForCausalLM, ThymeLM

VOCABULARY, WIDTH = 61, 40
FORMS: dict[str, dict[str, Any]] = {
    "outer": {},
    "outer-two-states": {"state_layers": 2, "depth_before": 2, "depth": 1},
    "outer-added": {"delta": False, "decay": "single"},
    "outer-unmoved": {"data_dependent": False, "reads": 0},
    "outer-positions": {"positions": "literal", "context_length": 7, "read_state": False},
    "outer-untied": {"tie_head": False, "depth": 0, "depth_before": 0},
    "outer-kept": {"decay": "none", "read_state": False},
    "outer-unmarked": {"token_shift": False, "state_layers": 2},
    "literal": {"form": "literal"},
    "literal-positions": {"form": "literal", "positions": "literal", "context_length": 7},
}


def build(name: str) -> ThymeForCausalLM:
    """A pico model whose gains and biases are random too: initialised ones (0 and 1) would hide a missing one."""
    torch.manual_seed(5)
    model = ThymeLM(VOCABULARY, width=WIDTH, mlp_width=72, **FORMS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module", params=FORMS)
def model(request: pytest.FixtureRequest) -> ThymeForCausalLM:
    return build(request.param)


def ids_of(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def tensors_of(thing: object) -> list[Tensor]:
    """Every tensor that an object holds, however deep."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        return [found for value in thing.values() for found in tensors_of(value)]
    if isinstance(thing, (list, tuple)):
        return [found for value in thing for found in tensors_of(value)]
    return tensors_of(vars(thing)) if hasattr(thing, "__dict__") else []


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-4)


def test_saved_and_loaded_is_the_same_model_bit_for_bit(model: ThymeForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert type(loaded) is ThymeForCausalLM and AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    ids = ids_of(2, 19)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_the_whole_state_is_2304_bytes_over_all_layers(model: ThymeForCausalLM) -> None:
    with torch.no_grad():
        short = model(ids_of(3, 2), use_cache=True).past_key_values
        long = model(ids_of(3, 400), use_cache=True).past_key_values
        longer = model(ids_of(3, 1), past_key_values=long, use_cache=True).past_key_values
    for cache in (short, long, longer):
        held = tensors_of(cache)
        counted = sum(tensor.numel() * tensor.element_size() for tensor in held)
        print(f"{model.config.form}, {model.config.state_layers} state layers: {len(held)} tensor, {counted / 3:.0f} bytes a row")
        assert len(held) == 1 and held[0].dtype == torch.float32
        assert counted == 3 * 2304 and cache.bytes_per_row == 2304 and held[0].untyped_storage().nbytes() == counted
    # beside the tensor, one number: how many tokens were read
    assert set(vars(longer)) == {"state", "seen"} and longer.seen == 401


def test_nothing_else_in_the_model_remembers(model: ThymeForCausalLM) -> None:
    ids = ids_of(2, 23)
    with torch.no_grad():
        first = model(ids).logits
        before = {id(tensor) for tensor in tensors_of([vars(part) for part in model.modules()])}
        model(ids_of(2, 50, seed=9), use_cache=True)
        after = {id(tensor) for tensor in tensors_of([vars(part) for part in model.modules()])}
        assert torch.equal(model(ids).logits, first)
    assert before == after


def test_later_tokens_change_no_earlier_logits(model: ThymeForCausalLM) -> None:
    ids = ids_of(2, 33)
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % VOCABULARY
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("split", [1, 2, 16, 17, 32])
def test_cached_equals_uncached(model: ThymeForCausalLM, split: int) -> None:
    ids = ids_of(2, 33)
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :split], use_cache=True)
        kept = first.past_key_values.state.clone()
        rest = model(ids[:, split:], past_key_values=first.past_key_values, use_cache=True)
        close(torch.cat([first.logits, rest.logits], 1), whole)
        assert torch.equal(first.past_key_values.state, kept)  # what was given stays: a state can be gone on from twice
        one, cache = [], None
        for token in ids.split(1, 1):
            out = model(token, past_key_values=cache, use_cache=True)
            one.append(out.logits)
            cache = out.past_key_values
        close(torch.cat(one, 1), whole)


def test_packed_documents_do_not_see_each_other(model: ThymeForCausalLM) -> None:
    lengths = (5, 1, 17, 10)
    parts = [ids_of(1, length, seed=length) for length in lengths]
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model(torch.cat(parts, 1), position_ids=places).logits
        alone = torch.cat([model(part).logits for part in parts], 1)
        after = model(parts[0], position_ids=places[:, :5], past_key_values=model(parts[2], use_cache=True).past_key_values).logits
    close(packed, alone)
    close(after, alone[:, :5])  # a state from before is emptied too


def test_every_weight_gets_a_gradient_through_time(model: ThymeForCausalLM) -> None:
    torch.manual_seed(0)
    ids = ids_of(3, 24)
    loss = model(ids, labels=ids).loss
    loss.backward()
    try:
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            used = parameter.grad if "embed" not in name else parameter.grad[: len(parameter) // 2]
            assert used.abs().sum() > 0, name
    finally:
        model.zero_grad()
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    hook = model.get_input_embeddings().register_forward_hook(lambda *_: embedded)
    try:
        model(ids).logits[:, -1].square().sum().backward()
    finally:
        hook.remove()
        model.zero_grad()
    assert embedded.grad is not None and (embedded.grad[:, 0].abs().sum(-1) > 0).all()  # the first token reaches the last


def test_generate_greedily_alone_and_in_a_batch(model: ThymeForCausalLM) -> None:
    ids = ids_of(3, 6)
    how: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    found = model.generate(ids, **how)
    slow = ids
    with torch.no_grad():
        for _ in range(9):
            slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, slow)
    assert torch.equal(found, model.generate(ids, use_cache=False, **how))
    assert torch.equal(found, torch.cat([model.generate(row[None], **how) for row in ids]))
    whole = model.generate(ids, return_dict_in_generate=True, output_logits=True, **how)
    assert type(whole.past_key_values) is ThymeCache and whole.past_key_values.seen == 6 + 9 - 1


def test_generate_from_prompts_padded_on_the_left(model: ThymeForCausalLM) -> None:
    prompts = [ids_of(1, length, seed=length)[0] for length in (1, 8, 3)]
    ids = torch.stack([torch.cat([torch.zeros(8 - len(prompt), dtype=torch.long), prompt]) for prompt in prompts])
    mask = torch.stack([torch.arange(8) >= 8 - len(prompt) for prompt in prompts]).long()
    how: dict[str, Any] = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0}
    found = model.generate(ids, attention_mask=mask, **how)[:, 8:]
    for row, prompt in zip(found, prompts, strict=True):
        alone = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **how)[0, len(prompt) :]
        assert torch.equal(row, alone)


def test_a_pad_id_inside_a_text_does_not_empty_the_state(model: ThymeForCausalLM) -> None:
    if model.config.positions == "literal":
        pytest.skip("positions count unmasked tokens, so a table of them sees the mask")
    ids = torch.tensor([[7, 3, 0, 9, 4]])
    how: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **how), model.generate(ids, attention_mask=torch.ones_like(ids), **how))


def test_generate_samples_and_searches(model: ThymeForCausalLM) -> None:
    ids = ids_of(2, 5)
    drawn: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.3, "num_return_sequences": 2, "pad_token_id": 0}
    torch.manual_seed(3)
    first = model.generate(ids, **drawn)
    torch.manual_seed(3)
    assert torch.equal(first, model.generate(ids, **drawn))
    assert first.shape == (4, 13)
    how: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **how), model.generate(ids, use_cache=False, **how))  # states follow their beams


def test_generate_goes_on_from_a_cache(model: ThymeForCausalLM) -> None:
    ids = ids_of(1, 12)
    how: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cache = model(ids[:, :9], use_cache=True).past_key_values
    assert torch.equal(model.generate(ids, past_key_values=cache, **how), model.generate(ids, **how))


def test_a_mask_of_the_new_tokens_alone_keeps_the_state(model: ThymeForCausalLM) -> None:
    ids = ids_of(2, 12)
    with torch.no_grad():
        cache = model(ids[:, :9], use_cache=True).past_key_values
        found = model(ids[:, 9:], attention_mask=torch.ones(2, 3, dtype=torch.long), past_key_values=cache).logits
        close(found, model(ids).logits[:, 9:])
