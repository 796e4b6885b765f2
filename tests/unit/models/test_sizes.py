"""The size dial: counts from shapes equal the model's own, the search lands near its target, presets hold what they say."""

from __future__ import annotations

import pytest
import torch

from phiforge.core.config import build as build_config
from phiforge.core.errors import ConfigError
from phiforge.models.decoder import build, shape_of
from phiforge.models.inspect import count_parameters, get_model_size, size_category
from phiforge.models.sizes import DecoderSpec, human_count, parse_size, resolve


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
@pytest.mark.parametrize("tie", [True, False])
def test_count_from_shapes_is_the_models_own(family: str, tie: bool) -> None:
    shape = resolve(DecoderSpec(family=family, width=48, depth=3, heads=4, kv_heads=2, vocab_size=301, tie_head=tie))
    model = build(shape, seed=1)
    assert shape.parameters() == count_parameters(model)
    assert shape_of(model.config).parameters() == shape.parameters()
    assert get_model_size(model).size_mb == pytest.approx(shape.parameters() * 4 / 1e6)


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
@pytest.mark.parametrize(
    ("size", "vocabulary"), [("300K", 1024), ("1M", 2048), ("3M", 4096), ("10M", 4096), ("124M", 32768), ("1B", 32768), ("13B", 65536)]
)
def test_the_dial_lands_within_a_tenth(family: str, size: str, vocabulary: int) -> None:
    shape = resolve(DecoderSpec(family=family, size=size, vocab_size=vocabulary))
    assert shape.parameters() == pytest.approx(parse_size(size), rel=0.10)
    assert shape.width == shape.heads * shape.head_width and shape.head_width % 2 == 0


def test_presets_hold_their_true_counts() -> None:
    counts = {
        name: human_count(resolve(DecoderSpec(size=name)).parameters()) for name in ("codette-small", "codette-medium", "codette-large")
    }
    assert counts == {"codette-small": "1.28B", "codette-medium": "2.68B", "codette-large": "5.31B"}


def test_initialisation_depends_on_the_seed_alone() -> None:
    shape = resolve(DecoderSpec(width=32, depth=1, vocab_size=64))
    first = build(shape, seed=5)
    torch.rand(17)
    again, other = build(shape, seed=5), build(shape, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_zero_init_makes_each_layer_the_identity() -> None:
    model = build(resolve(DecoderSpec(width=32, depth=2, vocab_size=64, zero_init_residual=True)), seed=0)
    ids = torch.arange(7)[None]
    embedded = model.model.norm(model.model.embed_tokens(ids))
    assert torch.equal(model.model(ids).last_hidden_state, embedded)


@pytest.mark.parametrize("text", ["", "big", "10 G", "-1M", "1M5", "20000B", "1K"])
def test_a_bad_size_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


def test_a_vocabulary_too_large_for_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="smaller vocab_size"):
        resolve(DecoderSpec(size="300K", vocab_size=50_257))


def test_categories() -> None:
    assert [size_category(n) for n in (49_999_999, 50_000_000, 500_000_000, 2_000_000_000)] == ["tiny", "small", "medium", "large"]


def test_a_size_beside_width_and_depth_is_refused_rather_than_ignored() -> None:
    with pytest.raises(ConfigError, match="size 20M beside width 192 and depth 4: leave size out"):
        build_config(DecoderSpec, {"size": "20M", "width": 192, "depth": 4, "vocab_size": 512}, where="model")
    assert DecoderSpec(size="20M", width=192, vocab_size=512).depth is None
