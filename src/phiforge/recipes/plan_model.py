"""What a plan says of a model's shape: counts, where it runs, what its training holds in memory. From shapes alone, no torch."""

from __future__ import annotations

from typing import Any

from phiforge.core.hardware import size
from phiforge.models.inspect import size_category
from phiforge.models.sizes import PRESET_VOCABULARY, PRESETS, DecoderShape, human_count, parse_size
from phiforge.models.thyme.spec import STATE, ThymeShape

GGUF_TARGETS = ("starcoder2", "llama", "gpt2")
Shape = DecoderShape | ThymeShape


def guess_vocabulary(named: str | None) -> int:
    """The vocabulary of a model of that size, where neither tokenizer nor recipe says."""
    if named in PRESETS:
        return PRESETS[named].vocabulary
    params = parse_size(named) if named else 4e6
    return 2048 if params < 2e6 else 4096 if params < 2e7 else PRESET_VOCABULARY


def shape_facts(shape: Shape, *, known: bool) -> dict[str, Any]:
    """Rows of the plan. known: whether the vocabulary is."""
    about = _thyme_facts(shape) if isinstance(shape, ThymeShape) else _decoder_facts(shape)
    return {
        "layout": about.pop("layout"),
        "parameters, counted": f"{shape.parameters():,} ({human_count(shape.parameters())}, {size_category(shape.parameters())})",
        "width x layers": about.pop("width x layers"),
        "vocabulary": f"{shape.vocab_size:,}" + ("" if known else " (predicted; the tokenizer decides)"),
        "context": about.pop("context"),
        "operations for a token": f"{human_count(shape.training_flops())} to train, {human_count(shape.forward_flops())} to read",
        **about,
    }


def _decoder_facts(shape: DecoderShape) -> dict[str, Any]:
    runs_in = "llama.cpp, Ollama, phiforge" if shape.family in GGUF_TARGETS and shape.stock else "phiforge (llama.cpp has one MLP width)"
    return {
        "layout": shape.family,
        "width x layers": f"{shape.width} x {shape.depth}, {shape.heads} heads of {shape.head_width}, MLP {_mlp(shape)}",
        "context": f"{shape.context_length:,} tokens; {size(shape.cache_bytes(shape.context_length))} of key/value cache in F16 when full",
        "file sizes": f"F32 {size(4 * shape.parameters())}, F16 {size(2 * shape.parameters())}, Q8_0 {size(8.5 / 8 * shape.parameters())}",
        "runs in": runs_in,
    }


def _thyme_facts(shape: ThymeShape) -> dict[str, Any]:
    spec = shape.spec
    blocks = "one state, read by one layer" if spec.form == "literal" else f"{spec.state_layers} of the state, {shape.depth} blocks in all"
    parts = f"{spec.state_layers} x {shape.rows_of_state} x {STATE}"
    return {
        "layout": f"thyme, form {spec.form}",
        "width x layers": f"{shape.width}, {blocks}, MLP {shape.mlp_width}",
        "context": f"any length; trained on rows of {shape.context_length:,}",
        "state": f"{shape.state_bytes():,} bytes over all layers ({parts} numbers of 32 bits), whatever the context; no key/value cache",
        "file sizes": f"F32 {size(4 * shape.parameters())}",
        "runs in": "phiforge only (llama.cpp and Ollama don't know this architecture)",
    }


def _mlp(shape: DecoderShape) -> str:
    return str(shape.mlp_width) if shape.mlp_widths is None else f"{shape.mlp_width} down to {shape.mlp_widths[-1]}"


def training_bytes(shape: Shape, rows: int, length: int, *, bf16: bool) -> int:
    """Memory of training: weights, gradients and two moments in fp32, bf16 copies, and what the backward pass keeps."""
    per_weight = 16 + (4 if bf16 else 0)
    element = 2 if bf16 else 4
    tokens = rows * length
    logits = min(tokens, 4096) * shape.vocab_size * 4
    if isinstance(shape, ThymeShape):
        kept = tokens * shape.depth * (6 * shape.width + 2 * shape.mlp_width) * element
        kept += 3 * tokens * STATE * STATE * 4  # the state after every token where it is read as a vector, and what is made of it, in fp32
    else:
        kept = tokens * shape.depth * (10 * shape.width + 2 * shape.mlp_width) * element
        kept += rows * shape.heads * length * length * shape.depth * element
    return per_weight * shape.parameters() + kept + logits
