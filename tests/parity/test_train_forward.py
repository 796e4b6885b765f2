"""Fast = reference in training: loss, attention and layers beside their plain forms, forward and gradient, at odd sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train import attention, layers, losses, native
from phiforge.train.forward import FAST, PLAIN, Operations, TrainingForward, supports

SIZES = (1, 63, 500)
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=["compiled", "torch"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both with the C kernels and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "_loaded", lambda: None)
    elif native._loaded() is None:
        pytest.skip("no C compiler on this machine")
    return str(request.param)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def both(fast: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor], *rest: Any) -> list[tuple[Tensor, Tensor]]:
    """(value, gradients...) of the fast form and of the plain one, the latter in float32."""
    outcome = []
    for function, dtype in ((fast, None), (plain, torch.float32)):
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
        value = function(*leaves, *rest)
        torch.manual_seed(1)
        slope = torch.randn(value.shape).to(value.dtype)
        outcome.append([value, *torch.autograd.grad(value, leaves, slope)])
    return [(a.detach().float(), b.detach().float()) for a, b in zip(*outcome, strict=True)]


def assert_near(pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
    """Relative error in norm: rounding of the dtype, no more."""
    for index, (ours, theirs) in enumerate(pairs):
        error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-2))
        assert error < (2e-6 if dtype == torch.float32 else 1.2e-2), (index, error)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu(kind: str, n: int, dtype: torch.dtype) -> None:
    x = (torch.randn(n, 24) * 3).to(dtype)
    assert_near(both(layers.gelu, layers.reference_gelu, [x]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_far_out(kind: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, -60.0, -12.0, 0.0, 12.0, 60.0, 1e4]).to(dtype)
    assert_near(both(layers.gelu, layers.reference_gelu, [x]), dtype)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(kind: str, n: int, dtype: torch.dtype) -> None:
    x = (torch.randn(n, 2 * 21) * 3).to(dtype)
    assert_near(both(layers.swiglu, layers.reference_swiglu, [x]), dtype)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("width", [16, 48, 50])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(kind: str, n: int, width: int, dtype: torch.dtype) -> None:
    x, weight = (torch.randn(n, width) * 2 + 1).to(dtype), torch.randn(width).to(dtype)
    kept = x.clone()
    assert_near(both(layers.rms_norm, layers.reference_rms_norm, [x, weight], 1e-5), dtype)
    assert torch.equal(x, kept), "the input is left alone"


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("vocabulary, chunk", [(101, None), (101, 16), (300, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunked_loss(kind: str, n: int, vocabulary: int, chunk: int | None, dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(n, 32).to(dtype), (torch.randn(vocabulary, 32) * 0.3).to(dtype)
    labels = torch.randint(0, vocabulary, (n,))
    labels[n // 2 :: 5] = losses.IGNORE
    items = max(1, int((labels != losses.IGNORE).sum()))

    def fast(h: Tensor, w: Tensor) -> Tensor:
        return losses.chunked_loss(h, w, labels, items, chunk=chunk)

    def plain(h: Tensor, w: Tensor) -> Tensor:
        return losses.reference_loss(h, w, labels, items)

    assert_near(both(fast, plain, [hidden, weight]), dtype)


def test_chunked_loss_where_a_probability_underflows(kind: str) -> None:
    hidden, weight = torch.tensor([[400.0]]), torch.tensor([[1.0], [-1.0]])
    for dtype in DTYPES:
        loss = losses.chunked_loss(hidden.to(dtype), weight.to(dtype), torch.tensor([1]), 1)
        assert float(loss.detach()) == pytest.approx(800.0, rel=1e-2)


def positions(batch: int, length: int, borders: dict[int, list[int]]) -> Tensor:
    """position_ids (B, T) that restart at the given places of the given rows."""
    at = torch.arange(length).repeat(batch, 1)
    for row, places in borders.items():
        for place in places:
            if place < length:
                at[row, place:] = torch.arange(length - place)
    return at


@pytest.mark.parametrize("length", [1, 63, 200, 500])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("borders", [{}, {1: [7, 150]}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(kind: str, length: int, heads: int, kv_heads: int, borders: dict[int, list[int]], dtype: torch.dtype) -> None:
    width = 8
    qkv = torch.randn(2, length, (heads + 2 * kv_heads) * width).to(dtype)
    inverse = 1 / 10000 ** (torch.arange(0, width, 2) / width)
    at = positions(2, length, borders)
    fast, plain = (attention.Attending.of(at, inverse, kind_of) for kind_of in (dtype, torch.float32))
    pairs = both(
        lambda x: attention.rotary_attention(x, fast, heads, kv_heads),
        lambda x: attention.reference_attention(x, plain, heads, kv_heads),
        [qkv],
    )
    assert_near(pairs, dtype)


def test_attention_beyond_the_longest_row_goes_to_torchs_kernel() -> None:
    length, width = attention.LONGEST + 1, 8
    qkv = torch.randn(1, length, 3 * width)
    inverse = 1 / 10000 ** (torch.arange(0, width, 2) / width)
    for borders in ({}, {0: [100]}):
        attending = attention.Attending.of(positions(1, length, borders), inverse, torch.float32)
        fast, plain = attention.rotary_attention(qkv, attending, 1, 1), attention.reference_attention(qkv, attending, 1, 1)
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_attention_dropout_keeps_the_mean_and_the_gradient_is_of_what_was_kept() -> None:
    width = 8
    inverse = 1 / 10000 ** (torch.arange(0, width, 2) / width)
    attending = attention.Attending.of(positions(1, 6, {}), inverse, torch.float64)
    qkv = torch.randn(1, 6, 3 * width, dtype=torch.float64, requires_grad=True)

    def dropped(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attention.rotary_attention(x, attending, 1, 1, 0.3)

    assert not torch.equal(dropped(qkv), attention.rotary_attention(qkv, attending, 1, 1))
    assert torch.autograd.gradcheck(dropped, qkv, eps=1e-6, atol=1e-6)


def test_kernels_give_the_same_with_two_threads(kind: str) -> None:
    if kind == "torch":
        pytest.skip("about the C kernels")
    x = torch.randn(300, 512).to(torch.bfloat16)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(layers.gelu(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


VARIANTS: list[dict[str, Any]] = [
    {"family": "starcoder2", "kv_heads": 2},
    {"family": "llama", "kv_heads": 2},
    {"family": "gpt2"},
    {"family": "starcoder2", "mlp_taper": True},
    {"family": "llama", "mlp_taper": True, "tie_head": False},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["starcoder2", "llama", "gpt2", "tapered-starcoder2", "tapered-llama"])
@pytest.mark.parametrize("length", (1, 63, 200))
@pytest.mark.parametrize("operations", [FAST, PLAIN], ids=["fast", "plain"])
def test_the_whole_model_equals_transformers_forward(variant: dict[str, Any], length: int, operations: Operations) -> None:
    """Loss and every parameter's gradient, with documents in rows and labels left out."""
    spec = DecoderSpec.model_validate({"width": 32, "depth": 2, "heads": 4, "vocab_size": 101, **variant})
    model: Any = build(resolve(spec.model_copy(update={"context_length": 512})), seed=0)
    model.config.use_cache = False  # with a cache transformers does not look for documents in a row
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert supports(model)
    labels = torch.randint(0, 101, (3, length))
    at = positions(3, length, {1: [7, 30]})
    labels[1, 6 : 6 + (length > 6)] = losses.IGNORE
    batch = {"input_ids": torch.randint(0, 101, (3, length)), "shift_labels": labels, "labels": labels, "position_ids": at}
    items = torch.tensor(int((labels != losses.IGNORE).sum()))

    def outcome(function: Callable[..., Any]) -> tuple[float, dict[str, Tensor]]:
        model.zero_grad()
        loss = function(**batch, num_items_in_batch=items)["loss"]
        loss.backward()
        return float(loss.detach()), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    want, want_grads = outcome(model)
    for precision, loss_error, grad_error in (("fp32", 1e-6, 5e-6), ("bf16", 5e-3, 0.12)):
        got, grads = outcome(TrainingForward(model, precision=precision, operations=operations))
        assert got == pytest.approx(want, rel=loss_error)
        for name, grad in grads.items():
            assert float((grad - want_grads[name]).norm()) <= grad_error * float(want_grads[name].norm()) + 2e-4, (precision, name)


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "relu"}, {"sliding_window": 8}, {"use_bias": False}, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}],
)
def test_a_layout_that_is_not_ours_is_left_to_transformers(change: dict[str, Any]) -> None:
    shape = resolve(DecoderSpec(width=16, depth=1, heads=2, vocab_size=50, context_length=16))
    model: Any = build(shape, seed=0)
    assert supports(model)
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not supports(model)


@pytest.mark.parametrize(
    "change", [{"activation_function": "gelu"}, {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}]
)
def test_another_gpt2_is_left_to_transformers(change: dict[str, Any]) -> None:
    model: Any = build(resolve(DecoderSpec(family="gpt2", width=16, depth=1, heads=2, vocab_size=50, context_length=16)), seed=0)
    assert supports(model)
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not supports(model)
