"""Golden and tapered decoders and GPT-2's layout: counted truly, saved and loaded, causal, trained, refused where they can't go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from phiforge.core.config import build as build_config
from phiforge.core.errors import ConfigError
from phiforge.export.layouts import layout_of
from phiforge.golden.api import PHITrainingConfig
from phiforge.golden.shapes import FIBONACCI, golden_aspect, golden_heads, golden_shape, phi_taper
from phiforge.models import tapered
from phiforge.models.decoder import build, load, shape_of
from phiforge.models.golden import generate_phi_model
from phiforge.models.inspect import count_parameters
from phiforge.models.sizes import DecoderSpec, human_count, parse_size, resolve, usual_aspect

G = (1 + 5**0.5) / 2
VARIANTS: list[dict[str, Any]] = [
    {"family": "gpt2"},
    {"family": "gpt2", "shape": "golden"},
    {"family": "starcoder2", "shape": "golden"},
    {"family": "llama", "shape": "golden"},
    {"family": "starcoder2", "mlp_taper": True},
    {"family": "llama", "mlp_taper": True, "tie_head": False},
    {"family": "starcoder2", "mlp_taper": True, "shape": "golden"},
]
IDS = ["-".join(str(value) for value in variant.values()) for variant in VARIANTS]


def pico(variant: dict[str, Any], **more: Any) -> Any:
    return build(resolve(DecoderSpec(size="200K", vocab_size=256, context_length=64, **{**variant, **more})), seed=4)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_counts_from_shapes_are_the_models_own(variant: dict[str, Any]) -> None:
    shape = resolve(DecoderSpec(size="200K", vocab_size=256, context_length=64, **variant))
    model = build(shape, seed=0)
    assert count_parameters(model) == shape.parameters() == shape_of(model.config).parameters()
    assert shape_of(model.config) == shape
    assert shape.parameters() == pytest.approx(200_000, rel=0.2)
    head = model.get_output_embeddings().weight
    matrices = sum(
        p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "emb" not in name and "wte" not in name and "wpe" not in name
    )
    untied = not shape.tie_head
    assert shape.matrix_parameters() == matrices + (0 if untied else head.numel())


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_saved_and_loaded_it_is_the_same_model(variant: dict[str, Any], tmp_path: Path) -> None:
    model = pico(variant).eval()
    model.save_pretrained(tmp_path)
    again: Any = load(tmp_path).eval()
    assert type(again) is type(model) and shape_of(again.config) == shape_of(model.config)
    ids = torch.arange(40)[None]
    assert torch.equal(model(ids).logits, again(ids).logits)
    text = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(text, again.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0))


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_a_token_changes_nothing_before_it_nor_in_another_document(variant: dict[str, Any]) -> None:
    model = pico(variant).eval()
    ids = torch.randint(256, (1, 24), generator=torch.Generator().manual_seed(1))
    places = torch.cat([torch.arange(10), torch.arange(14)])[None]
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 256
    with torch.no_grad():
        before, after = (model(input_ids=x, position_ids=places, use_cache=False).logits for x in (ids, changed))
        alone = model(input_ids=ids[:, 10:], use_cache=False).logits
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4:10], after[:, 4:10])
    assert torch.equal(before[:, 10:], after[:, 10:])
    assert torch.allclose(before[:, 10:], alone, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_every_parameter_learns(variant: dict[str, Any]) -> None:
    model = pico(variant, dropout=0.1).train()
    ids = torch.randint(256, (4, 64), generator=torch.Generator().manual_seed(1))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "k_proj.bias" not in name)
    drawn = [float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2 and "c_proj" not in name]
    assert drawn == pytest.approx([0.02] * len(drawn), rel=0.1)


def test_gpt2_small_is_gpt2_small() -> None:
    shape = resolve(DecoderSpec(size="gpt2-small"))
    assert (shape.family, shape.width, shape.depth, shape.heads, shape.vocab_size, shape.context_length) == (
        "gpt2",
        768,
        12,
        12,
        50257,
        1024,
    )
    assert shape.parameters() == 124_439_808 == parse_size("gpt2-small") == parse_size("124439808")
    golden = resolve(DecoderSpec(size="gpt2-small", shape="golden"))
    assert golden.parameters() == pytest.approx(124_439_808, rel=0.05) and golden.width != 768
    with pytest.raises(ConfigError, match="is of the family gpt2, not llama"):
        build_config(DecoderSpec, {"size": "gpt2-small", "family": "llama"}, where="x")


def test_gpt2_has_its_own_dropout_everywhere() -> None:
    config = pico({"family": "gpt2"}, dropout=0.25).config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"family": "gpt2", "mlp_taper": True}, "mlp_taper is for starcoder2 and llama"),
        ({"shape": "phi"}, "shape"),
    ],
)
def test_specs_that_cannot_be(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(DecoderSpec, spec, where="x")


def test_gpt2_has_a_head_for_each_key() -> None:
    with pytest.raises(ConfigError, match="as many key/value heads as heads"):
        resolve(DecoderSpec(family="gpt2", width=64, depth=1, heads=4, kv_heads=2, vocab_size=64))


@pytest.mark.parametrize("family", ["starcoder2", "llama", "gpt2"])
@pytest.mark.parametrize(
    ("size", "vocabulary"), [("300K", 1024), ("1M", 2048), ("3M", 4096), ("10M", 4096), ("124M", 32768), ("1B", 32768), ("13B", 65536)]
)
def test_the_golden_dial_lands_within_a_tenth_in_golden_proportions(family: Any, size: str, vocabulary: int) -> None:
    shape = resolve(DecoderSpec(family=family, size=size, vocab_size=vocabulary, shape="golden"))
    assert shape.parameters() == pytest.approx(parse_size(size), rel=0.10)
    small = parse_size(size) < 2_000_000
    assert shape.width % (16 if small else 64) == 0 and shape.mlp_width % (16 if small else 64) == 0
    assert shape.mlp_width / shape.width == pytest.approx(G**2 if family == "llama" else G**3, rel=0.1)
    assert shape.heads in FIBONACCI and shape.head_width % 2 == 0
    aspect = golden_aspect(usual_aspect(parse_size(size)))
    assert math.log(aspect, G) == pytest.approx(round(math.log(aspect, G)))
    assert shape.width / aspect / G - 1 <= shape.depth <= shape.width / aspect * G + 1


def test_what_is_given_stays_and_ternary_rounds_to_256() -> None:
    shape = resolve(DecoderSpec(size="10M", vocab_size=4096, shape="golden", width=256, mlp_width=1000, heads=4))
    assert (shape.width, shape.mlp_width, shape.heads) == (256, 1000, 4)
    ternary = golden_shape(
        30_000_000, lambda w, d, h, m: d * (4 * w * w + 2 * w * m), usual_aspect=40, usual_head=lambda width: 64, multiple=256
    )
    assert ternary.width % 256 == 0 and ternary.mlp_width % 256 == 0
    assert golden_heads(1024, 16) in FIBONACCI
    with pytest.raises(ConfigError, match="no golden shape splits into 7 heads"):
        golden_shape(10**6, lambda w, d, h, m: w, usual_aspect=32, usual_head=lambda width: 32, width=64, heads=7)


def test_the_taper_is_the_origins() -> None:
    assert phi_taper(1024, 6, least=200) == [max(200, round(1024 * G**-i)) for i in range(6)]
    shape = resolve(DecoderSpec(size="1M", vocab_size=512, mlp_taper=True))
    assert shape.mlp_widths is not None and len(shape.mlp_widths) == shape.depth and shape.mlp_widths[0] == shape.mlp_width
    for i, width in enumerate(shape.mlp_widths):
        assert width == shape.width or width == pytest.approx(shape.mlp_width * G**-i, abs=8.1)
    model: Any = build(shape, seed=0)
    assert [layer.mlp.c_fc.out_features for layer in model.model.layers] == list(shape.mlp_widths)


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
def test_a_flat_taper_is_the_stock_model(family: str) -> None:
    stock: Any = pico({"family": family}).eval()
    data = {k: v for k, v in stock.config.to_dict().items() if k not in ("model_type", "architectures")}
    config_class: Any = tapered.TaperedLlamaConfig if family == "llama" else tapered.TaperedStarcoder2Config
    config = config_class(**data, intermediate_sizes=[stock.config.intermediate_size] * stock.config.num_hidden_layers)
    flat: Any = tapered.CLASSES[config_class](config).eval()
    flat.load_state_dict(stock.state_dict())
    ids = torch.arange(30)[None]
    assert torch.equal(flat(ids).logits, stock(ids).logits)
    with pytest.raises(ValueError, match="has 1 widths for"):
        tapered.CLASSES[config_class](config_class(**data, intermediate_sizes=[64]))


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
def test_llama_cpp_refuses_a_taper_by_name(family: str) -> None:
    model = pico({"family": family, "mlp_taper": True})
    with pytest.raises(ConfigError, match=rf"a phiforge_tapered_{family} model can't go to llama.cpp") as error:
        layout_of(model.config.to_dict())
    assert "\n" not in str(error.value)
    assert layout_of(pico({"family": "gpt2"}).config.to_dict()).dims(pico({"family": "gpt2"}).config.to_dict())["F"] > 0


def test_generate_phi_model() -> None:
    model: Any = generate_phi_model(PHITrainingConfig(base_dropout=0.2), size="300K", vocab_size=512, context_length=64, seed=1)
    assert model.config.residual_dropout == 0.2
    assert count_parameters(model) == pytest.approx(300_000, rel=0.15)
    tapering = generate_phi_model({"size": "300K", "vocab_size": 512, "family": "llama"}, mlp_taper=True)
    assert tapering.config.model_type == "phiforge_tapered_llama"
    with pytest.raises(ConfigError, match="unknown key 'sise'"):
        generate_phi_model(sise="300K")
    assert human_count(resolve(DecoderSpec(shape="golden", size="gpt2-small")).parameters()).endswith("M")
