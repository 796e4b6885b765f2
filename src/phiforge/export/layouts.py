"""The layouts that llama.cpp runs: one table, layout -> tensor names, shapes, metadata, refusals.

A rule says where one tensor of a transformers checkpoint goes in a GGUF file and how its rows are laid there. Adding a
layout is adding a row to `LAYOUTS` and one to the contract suite. Names on the right are those of the GGUF
specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); names on the left are transformers'.

Three things differ between the two worlds, and each is a `how`:

- `transpose`: GPT-2 keeps its matrices as (in, out) ("Conv1D"); ggml wants (out, in).
- `rope_q`, `rope_k`: transformers rotates the two halves of a head against each other; ggml's `llama` rotates neighbours,
  so the rows of q and k are interleaved per head: half-split order 0..h/2, h/2..h becomes 0, h/2, 1, h/2+1, ...
- a tied head is left out of the file: llama.cpp falls back to the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phiforge.core.errors import ConfigError

Metadata = dict[str, int | float]


@dataclass(frozen=True)
class Rule:
    """One tensor: `source` (transformers) -> `target` (GGUF); `{i}` is the layer. `shape` names dimensions of the source."""

    source: str
    target: str
    shape: tuple[str, ...]
    how: str = "copy"  # copy | transpose | rope_q | rope_k
    required: bool = True
    keep_f32: bool = False  # small tensors that llama.cpp keeps in full precision although they have two dimensions


@dataclass(frozen=True)
class Layout:
    """A family that llama.cpp runs. `dims` maps a config to the letters used in shapes; `metadata` to GGUF keys without the prefix."""

    name: str
    about: str
    tensors: tuple[Rule, ...]
    dims: Callable[[Mapping[str, Any]], dict[str, int]]
    metadata: Callable[[Mapping[str, Any]], Metadata]
    refuse: Callable[[Mapping[str, Any]], str]
    tied_by_default: bool
    f32_tolerance: float  # largest |difference of next-token log-probability| allowed in F32
    prefix: str = "model."  # what transformers puts before every name but the head's; older checkpoints leave it out
    ignored: tuple[str, ...] = ()  # endings of buffers that old checkpoints carry and no one needs


def _norm(source: str, target: str, bias: bool, width: str = "D") -> tuple[Rule, ...]:
    weight = Rule(f"{source}.weight", f"{target}.weight", (width,))
    return (weight, Rule(f"{source}.bias", f"{target}.bias", (width,))) if bias else (weight,)


def _linear(source: str, target: str, out: str, into: str, *, bias: str, how: str = "copy") -> tuple[Rule, ...]:
    """A matrix with its bias: `bias` is "yes", "no" or "maybe"."""
    shape = (into, out) if how == "transpose" else (out, into)
    rules = (Rule(f"{source}.weight", f"{target}.weight", shape, how),)
    if bias == "no":
        return rules
    return (*rules, Rule(f"{source}.bias", f"{target}.bias", (out,), "copy" if how == "transpose" else how, required=bias == "yes"))


_HEAD = Rule("lm_head.weight", "output.weight", ("V", "D"), required=False)
_EMBEDDING = Rule("embed_tokens.weight", "token_embd.weight", ("V", "D"))


def _attention(bias: str, output_bias: str, rope: bool) -> tuple[Rule, ...]:
    return (
        *_linear("layers.{i}.self_attn.q_proj", "blk.{i}.attn_q", "Q", "D", bias=bias, how="rope_q" if rope else "copy"),
        *_linear("layers.{i}.self_attn.k_proj", "blk.{i}.attn_k", "K", "D", bias=bias, how="rope_k" if rope else "copy"),
        *_linear("layers.{i}.self_attn.v_proj", "blk.{i}.attn_v", "K", "D", bias=bias),
        *_linear("layers.{i}.self_attn.o_proj", "blk.{i}.attn_output", "D", "Q", bias=output_bias),
    )


def _gated_mlp(bias: str) -> tuple[Rule, ...]:
    return (
        *_linear("layers.{i}.mlp.gate_proj", "blk.{i}.ffn_gate", "F", "D", bias=bias),
        *_linear("layers.{i}.mlp.up_proj", "blk.{i}.ffn_up", "F", "D", bias=bias),
        *_linear("layers.{i}.mlp.down_proj", "blk.{i}.ffn_down", "D", "F", bias=bias),
    )


def _norms(bias: bool) -> tuple[Rule, ...]:
    return (
        *_norm("layers.{i}.input_layernorm", "blk.{i}.attn_norm", bias),
        *_norm("layers.{i}.post_attention_layernorm", "blk.{i}.ffn_norm", bias),
        *_norm("norm", "output_norm", bias),
    )


_LLAMA = (_EMBEDDING, *_attention("maybe", "maybe", rope=True), *_gated_mlp("maybe"), *_norms(bias=False), _HEAD)
_QWEN2 = (_EMBEDDING, *_attention("yes", "no", rope=False), *_gated_mlp("no"), *_norms(bias=False), _HEAD)
_STARCODER2 = (
    _EMBEDDING,
    *_attention("yes", "yes", rope=False),
    *_linear("layers.{i}.mlp.c_fc", "blk.{i}.ffn_up", "F", "D", bias="yes"),
    *_linear("layers.{i}.mlp.c_proj", "blk.{i}.ffn_down", "D", "F", bias="yes"),
    *_norms(bias=True),
    _HEAD,
)
_GPT2 = (
    Rule("wte.weight", "token_embd.weight", ("V", "D")),
    Rule("wpe.weight", "position_embd.weight", ("T", "D"), keep_f32=True),
    *_norm("h.{i}.ln_1", "blk.{i}.attn_norm", bias=True),
    *_linear("h.{i}.attn.c_attn", "blk.{i}.attn_qkv", "3D", "D", bias="yes", how="transpose"),
    *_linear("h.{i}.attn.c_proj", "blk.{i}.attn_output", "D", "D", bias="yes", how="transpose"),
    *_norm("h.{i}.ln_2", "blk.{i}.ffn_norm", bias=True),
    *_linear("h.{i}.mlp.c_fc", "blk.{i}.ffn_up", "F", "D", bias="yes", how="transpose"),
    *_linear("h.{i}.mlp.c_proj", "blk.{i}.ffn_down", "D", "F", bias="yes", how="transpose"),
    *_norm("ln_f", "output_norm", bias=True),
    _HEAD,
)


def _need(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise ConfigError(
            f"config.json of a {config.get('model_type')} model has no {name}", fix="point at a folder written by save_pretrained"
        )
    return config[name]


def _kv_heads(config: Mapping[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or _need(config, "num_attention_heads"))


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or _need(config, "hidden_size") // _need(config, "num_attention_heads"))


def _rope_dims(config: Mapping[str, Any]) -> dict[str, int]:
    head = _head_dim(config)
    return {
        "V": int(_need(config, "vocab_size")),
        "D": int(_need(config, "hidden_size")),
        "F": int(_need(config, "intermediate_size")),
        "T": int(_need(config, "max_position_embeddings")),
        "H": int(_need(config, "num_attention_heads")),
        "G": _kv_heads(config),
        "Q": int(_need(config, "num_attention_heads")) * head,
        "K": _kv_heads(config) * head,
        "L": int(_need(config, "num_hidden_layers")),
    }


def _gpt2_dims(config: Mapping[str, Any]) -> dict[str, int]:
    width = int(_need(config, "n_embd"))
    heads = int(_need(config, "n_head"))
    return {
        "V": int(_need(config, "vocab_size")),
        "D": width,
        "3D": 3 * width,
        "F": int(config.get("n_inner") or 4 * width),
        "T": int(config.get("n_positions") or _need(config, "n_ctx")),
        "H": heads,
        "G": heads,
        "L": int(_need(config, "n_layer")),
    }


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotation, wherever this version of transformers wrote it."""
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta") or config.get("rope_theta") or 10_000.0)


def _rope_metadata(config: Mapping[str, Any]) -> Metadata:
    head = _head_dim(config)
    metadata: Metadata = {
        "context_length": int(_need(config, "max_position_embeddings")),
        "embedding_length": int(_need(config, "hidden_size")),
        "block_count": int(_need(config, "num_hidden_layers")),
        "feed_forward_length": int(_need(config, "intermediate_size")),
        "attention.head_count": int(_need(config, "num_attention_heads")),
        "attention.head_count_kv": _kv_heads(config),
        "rope.dimension_count": head,
        "rope.freq_base": rope_theta(config),
        "vocab_size": int(_need(config, "vocab_size")),
    }
    if head * int(config["num_attention_heads"]) != int(config["hidden_size"]):
        metadata |= {"attention.key_length": head, "attention.value_length": head}
    return metadata


def _rms_metadata(config: Mapping[str, Any]) -> Metadata:
    return _rope_metadata(config) | {"attention.layer_norm_rms_epsilon": float(_need(config, "rms_norm_eps"))}


def _starcoder2_metadata(config: Mapping[str, Any]) -> Metadata:
    return _rope_metadata(config) | {"attention.layer_norm_epsilon": float(_need(config, "norm_epsilon"))}


def _gpt2_metadata(config: Mapping[str, Any]) -> Metadata:
    dims = _gpt2_dims(config)
    return {
        "context_length": dims["T"],
        "embedding_length": dims["D"],
        "block_count": dims["L"],
        "feed_forward_length": dims["F"],
        "attention.head_count": dims["H"],
        "attention.layer_norm_epsilon": float(config.get("layer_norm_epsilon", 1e-5)),
        "vocab_size": dims["V"],
    }


TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")  # what ggml's GELU computes; exact "gelu" (erf) differs by up to 5e-4 a value


def _refuse_rope(config: Mapping[str, Any]) -> str:
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind != "default":
        return f"rope type {kind!r} is not exported; only the plain rotation is"
    if float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        return "a partial rotation is not exported"
    return _refuse_window(config)


def _refuse_window(config: Mapping[str, Any]) -> str:
    window = config.get("sliding_window")
    if config.get("use_sliding_window") is False or window is None or int(window) >= int(config.get("max_position_embeddings") or 0):
        return ""
    return f"a sliding window of {window} tokens: llama.cpp's {config.get('model_type')} attends to the whole context"


def _refuse_silu(config: Mapping[str, Any]) -> str:
    act = config.get("hidden_act", "silu")
    return f"hidden_act {act!r}: llama.cpp computes silu there" if act != "silu" else _refuse_rope(config)


def _refuse_starcoder2(config: Mapping[str, Any]) -> str:
    act = config.get("hidden_act", "gelu_pytorch_tanh")
    if act not in TANH_GELU:
        return f"hidden_act {act!r}: llama.cpp computes the tanh form of gelu there"
    if config.get("use_bias") is False:
        return "use_bias false: llama.cpp's starcoder2 needs the biases"
    return _refuse_rope(config)


def _refuse_gpt2(config: Mapping[str, Any]) -> str:
    act = config.get("activation_function", "gelu_new")
    if act not in TANH_GELU:
        return f"activation_function {act!r}: llama.cpp computes the tanh form of gelu there"
    if config.get("scale_attn_by_inverse_layer_idx") or config.get("scale_attn_weights") is False:
        return "attention scaling other than 1/sqrt(head width)"
    return ""


LAYOUTS: dict[str, Layout] = {
    "starcoder2": Layout(
        "starcoder2", "Codette: LayerNorm with bias, GELU, RoPE, tied head", _STARCODER2, _rope_dims, _starcoder2_metadata,
        _refuse_starcoder2, tied_by_default=True, f32_tolerance=5e-3,
    ),
    "llama": Layout(
        "llama", "RMSNorm, SwiGLU, RoPE", _LLAMA, _rope_dims, _rms_metadata,
        _refuse_silu, tied_by_default=False, f32_tolerance=1e-3, ignored=(".rotary_emb.inv_freq",),
    ),
    "qwen2": Layout(
        "qwen2", "llama with biases on q, k, v", _QWEN2, _rope_dims, _rms_metadata,
        _refuse_silu, tied_by_default=False, f32_tolerance=1e-3, ignored=(".rotary_emb.inv_freq",),
    ),
    "gpt2": Layout(
        "gpt2", "LayerNorm with bias, GELU, learned positions", _GPT2, _gpt2_dims, _gpt2_metadata,
        _refuse_gpt2, tied_by_default=True, f32_tolerance=5e-3, prefix="transformer.", ignored=(".attn.bias", ".attn.masked_bias"),
    ),
}  # fmt: skip


def layout_of(config: Mapping[str, Any]) -> Layout:
    """The layout of a checkpoint's config.json. Raises ConfigError, in one line, where llama.cpp can't run it as it was trained."""
    kind = config.get("model_type")
    layout = LAYOUTS.get(str(kind))
    if layout is None:
        raise ConfigError(
            f"a {kind or 'nameless'!s} model can't go to llama.cpp: exported are {', '.join(LAYOUTS)}",
            fix="`phiforge export hf` keeps it for transformers and phiforge's own engine",
        )
    if why := layout.refuse(config):
        raise ConfigError(f"this {kind} model can't go to llama.cpp unchanged: {why}", fix="`phiforge export hf` keeps it for transformers")
    return layout


def is_tied(layout: Layout, config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding."""
    tied = config.get("tie_word_embeddings")
    return layout.tied_by_default if tied is None else bool(tied)


def rope_rows(heads: int, rows: int) -> Callable[[int, int], list[int]]:
    """Row order of a rotated projection: `order(start, stop)` lists the source rows of target rows start..stop.

    Target row 2j + s of a head is source row j + s * half: neighbours in ggml are the two halves in transformers.
    """
    size = rows // heads
    half = size // 2

    def order(start: int, stop: int) -> list[int]:
        return [(row // size) * size + (row % size) // 2 + (row % 2) * half for row in range(start, stop)]

    return order
