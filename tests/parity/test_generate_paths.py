"""Fast = reference: the C and torch paths against the model's own forward, logits at every step and greedy ids, at odd sizes."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from phiforge.core.errors import ConfigError
from phiforge.generate import native
from phiforge.generate.config import GREEDY, SamplingConfig
from phiforge.generate.engine import Engine, choose_decoder

SHAPES = {
    "starcoder2": {"family": "starcoder2"},
    "starcoder2-gqa-untied": {"family": "starcoder2", "kv": 2, "tied": False, "width": 56, "mlp": 77},
    "starcoder2-no-bias": {"family": "starcoder2", "bias": False, "heads": 1, "width": 34, "mlp": 50},
    "llama": {"family": "llama", "mlp": 88},
    "llama-gqa-biases": {"family": "llama", "kv": 1, "bias": True, "width": 40, "tied": False},
    "llama-wide-heads": {"family": "llama", "head_dim": 50, "mlp": 33},
    "llama-scaled-rope": {
        "family": "llama",
        "rope": {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 32},
    },
}  # fmt: skip


def build(
    family: str, width: int = 48, heads: int = 4, kv: int | None = None, mlp: int = 96, tied: bool = True, bias: bool | None = None,
    head_dim: int | None = None, rope: dict | None = None, vocab: int = 101, layers: int = 3, context: int = 64,
) -> PreTrainedModel:  # fmt: skip
    """A random pico model whose biases and norms are random too: initialised ones (0 and 1) would hide a missing one."""
    torch.manual_seed(7)
    sizes = {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv or heads, "max_position_embeddings": context, "tie_word_embeddings": tied, "bos_token_id": 1,
        "eos_token_id": None, "rope_parameters": rope or {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    if family == "starcoder2":
        model: PreTrainedModel = Starcoder2ForCausalLM(Starcoder2Config(**sizes, use_bias=bias is not False))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, head_dim=head_dim, attention_bias=bool(bias), mlp_bias=bool(bias)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(center + 0.15 * torch.randn_like(parameter))
    return model.eval()


def prompts_of(count: int, longest: int, vocab: int = 101, ragged: bool = True) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count * 100 + longest)
    lengths = [1 + (longest - 1) * (index % 4) // 3 if ragged else longest for index in range(count)]
    lengths[-1] = longest
    return [torch.randint(0, vocab, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(params=["native", "stock"])
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and isinstance(native.library(), str):
        pytest.skip(f"the native path is not available: {native.library()}")
    return request.param


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("count", "longest"), [(1, 1), (3, 17), (33, 6)])
def test_logits_at_every_step_equal_the_reference(name: str, count: int, longest: int, path: str) -> None:
    model = build(**SHAPES[name])
    prompts = prompts_of(count, longest)
    fast, slow = choose_decoder(model, torch.float32, path), choose_decoder(model, torch.float32, "reference")
    assert fast.name == path
    with torch.inference_mode():
        (session, logits), (expected_session, expected) = fast.start(prompts, 20), slow.start(prompts, 20)
        for step in range(19):
            torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-4)
            if step == 7 and count > 1:  # rows leave, in another order
                rows = torch.tensor([count - 1, 0] if count > 2 else [1])
                session.keep(rows), expected_session.keep(rows)
                expected = expected[rows]
            tokens = expected.argmax(-1)
            logits, expected = session.step(tokens).clone(), expected_session.step(tokens)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_ids_equal_transformers_generate(name: str, path: str) -> None:
    model = build(**SHAPES[name])
    prompts = prompts_of(5, 9, ragged=False)
    ids = torch.tensor(prompts)
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0)[:, 9:].tolist()
    found = Engine(model, path=path).generate(prompts, GREEDY.model_copy(update={"max_new_tokens": 40}))
    assert [completion.ids for completion in found] == expected
    assert {completion.finish_reason for completion in found} == {"length"}


def test_several_threads_give_what_one_gives() -> None:
    if isinstance(native.library(), str):
        pytest.skip(str(native.library()))
    model, prompts, sampling = build("llama", kv=2), prompts_of(33, 11), GREEDY.model_copy(update={"max_new_tokens": 9})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Engine(model, path="native").generate(prompts, sampling)
        torch.set_num_threads(2)
        two = Engine(model, path="native").generate(prompts, sampling)
    finally:
        torch.set_num_threads(before)
    assert one == two


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(native, "_PREFILL_ROWS", 7)
    model, prompts = build("starcoder2", kv=2), prompts_of(3, 40)
    fast, slow = choose_decoder(model, torch.float32, path), choose_decoder(model, torch.float32, "reference")
    with torch.inference_mode():
        torch.testing.assert_close(fast.start(prompts, 5)[1], slow.start(prompts, 5)[1], atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(1, 1, 1), (63, 65, 13), (130, 33, 37), (16, 32, 8), (7, 200, 129)])
def test_the_compiled_product_equals_torch(inputs: int, outputs: int, rows: int) -> None:
    made = native.library()
    if isinstance(made, str):
        pytest.skip(made)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(inputs, outputs), torch.randn(outputs)
    torch.testing.assert_close(native.product(made, x, weight, bias), x @ weight + bias, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_near_float32() -> None:
    model = build("llama", kv=2)
    prompts = prompts_of(4, 8)
    half, full = choose_decoder(model, torch.bfloat16, "auto"), choose_decoder(model, torch.float32, "stock")
    assert half.name == "stock"
    with torch.inference_mode():
        found, expected = half.start(prompts, 4)[1], full.start(prompts, 4)[1]
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_refresh_takes_the_weights_as_they_are_now(path: str) -> None:
    model, prompts = build("starcoder2"), prompts_of(2, 5)
    engine, sampling = Engine(model, path=path), GREEDY.model_copy(update={"max_new_tokens": 12})
    before = engine.generate(prompts, sampling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert engine.generate(prompts, sampling) == before
    engine.refresh()
    assert engine.generate(prompts, sampling) == Engine(model, path="reference").generate(prompts, sampling) != before


def test_other_models_take_the_reference_path_and_equal_generate() -> None:
    torch.manual_seed(3)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=53, n_embd=32, n_layer=2, n_head=2, n_positions=48, bos_token_id=1, eos_token_id=None, initializer_range=0.3)
    )
    prompts = prompts_of(3, 6, vocab=53, ragged=False)
    engine = Engine(model)
    assert engine.decoder.name == "reference"
    model.train()  # dropout must not reach generation, and training goes on as it was
    found = engine.generate(prompts, GREEDY.model_copy(update={"max_new_tokens": 10}))
    assert model.training
    ids = torch.tensor(prompts)
    expected = model.eval().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert [completion.ids for completion in found] == expected[:, 6:].tolist()


def test_a_named_path_that_cannot_run_is_an_error() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=53, n_embd=32, n_layer=1, n_head=2, n_positions=48))
    with pytest.raises(ConfigError, match="stock starcoder2 and llama"):
        Engine(model, path="stock")
    with pytest.raises(ConfigError, match="float32"):
        Engine(build("llama"), path="native", dtype=torch.bfloat16)


def test_without_a_compiler_the_torch_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: "no C compiler")
    assert Engine(build("llama")).decoder.name == "stock"


@pytest.mark.parametrize("name", ["starcoder2", "llama-gqa-biases"])
def test_causal_later_tokens_change_no_earlier_logits(name: str, path: str) -> None:
    """Reading a prompt at once gives, at every length, what reading only that much gives."""
    decoder = choose_decoder(build(**SHAPES[name]), torch.float32, path)
    (prompt,) = prompts_of(1, 13)
    with torch.inference_mode():
        whole = decoder.start([prompt[:1]], 20)
        session, logits = whole[0], [whole[1].clone()]
        for token in prompt[1:]:
            logits.append(session.step(torch.tensor([token])).clone())
        for length in (1, 2, 7, 13):
            torch.testing.assert_close(decoder.start([prompt[:length]], 1)[1], logits[length - 1], atol=2e-5, rtol=1e-4)


def test_what_a_row_samples_does_not_depend_on_its_neighbours(path: str) -> None:
    model, prompts = build("llama"), prompts_of(9, 12)
    engine, sampling = Engine(model, path=path), SamplingConfig(max_new_tokens=15, seed=5)
    together = engine.generate(prompts, sampling)
    for index in (0, 4, 8):
        (alone,) = engine.generate([prompts[index]], sampling, seeds=[5 + index])
        assert alone == together[index]
