"""Pico models for the export suites: every layout that llama.cpp runs, small, trained for a second on the gate's own text.

A freshly made model predicts almost evenly, and an even prediction hides mistakes: swapped matrices change nothing that one could see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config, Starcoder2Config

from phiforge.data.chat import CHATML
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.export import sample

KINDS = ("starcoder2", "llama", "qwen2", "gpt2")


def pico_config(kind: str, vocab_size: int, *, width: int = 64, heads: int = 4, kv_heads: int = 2, context: int = 544, **more: Any) -> Any:
    """A transformers config of one of `KINDS`: two layers."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        return GPT2Config(vocab_size=vocab_size, n_embd=width, n_layer=2, n_head=heads, n_positions=context, **ids, **more)
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        **ids,
    }
    if kind == "starcoder2":
        common |= {"intermediate_size": 4 * width, "sliding_window": None, "norm_epsilon": 1e-5}
        return Starcoder2Config(**{**common, **more})
    common |= {"intermediate_size": 3 * width, "rms_norm_eps": 1e-5, "tie_word_embeddings": kind == "llama"}
    return (LlamaConfig if kind == "llama" else Qwen2Config)(**{**common, **more})


def pico_model(config: Any, ids: list[int], *, seed: int = 0, steps: int = 120) -> PreTrainedModel:
    """A model that has learnt `ids` by heart, more or less: sharp predictions that every part of it has a share in.

    Biases and norm weights are drawn before training, so that one that is left out is missed.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim > 1 else parameter.add_(0.2 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    length = min(config.max_position_embeddings, 256)
    rows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        row = rows[step % len(rows)][None]
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def pico_tokenizer(folder: Path, *, vocab_size: int = 512, template: str = CHATML.name, pre_tokenizer: str = "llama-bpe") -> Tokenizer:
    """A tokenizer of ours in `folder`."""
    tokenizer = train_tokenizer([sample.TOKENS_TEXT], vocab_size, template=template, pre_tokenizer=pre_tokenizer)
    tokenizer.save(folder)
    return tokenizer


def pico_folder(
    kind: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    shard: str = "50GB",
    extra_rows: int = 0,
    steps: int = 120,
    template: str = CHATML.name,
    **more: Any,
) -> Path:
    """A model folder (weights, config, tokenizer); `extra_rows` pads the embedding beyond the tokenizer."""
    tokenizer = pico_tokenizer(folder, template=template)
    ids = [tokenizer.bos_id, *tokenizer.encode(sample.LOGITS_TEXT).tolist()]
    model = pico_model(pico_config(kind, tokenizer.vocab_size + extra_rows, **more), ids, steps=steps).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder
