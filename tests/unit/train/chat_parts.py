"""Pico models and conversations for the tests of fine-tuning."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from phiforge.core.config import build
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data.chat import Message
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import build_spec, our_settings
from phiforge.models import decoder
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train import checkpoints
from phiforge.train.stages import FINETUNE

BYTES = [bytes([value]) for value in range(256)]
# A template as Qwen2's: a default system message, no bos.
OWN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAST: dict[str, Any] = {"threads": 1, "precision": "fp32", "compile": False}


def ours(template: str | None = None) -> Tokenizer:
    """A byte tokenizer of ours."""
    return Tokenizer(build_spec(BYTES, "gpt-2"), our_settings(template))


def borrowed(specials: tuple[str, ...] = ("<|endoftext|>",), **settings: Any) -> Tokenizer:
    """A byte tokenizer of GPT-2's form: its special tokens come after the 256 bytes."""
    spec = build_spec(BYTES, "gpt-2")
    names = sorted((i, name) for name, i in spec["model"]["vocab"].items() if not name.startswith("<|"))
    spec["model"]["vocab"] = {name: number for number, (_, name) in enumerate(names)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"] = [{"id": 256 + number, "content": text, **flags} for number, text in enumerate(specials)]
    spec["post_processor"] = None
    return Tokenizer(spec, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", **settings})


def chat(question: str, answer: str, *more: str) -> list[Message]:
    """A conversation of turns in alternation."""
    roles = ("user", "assistant")
    return [Message(role=roles[number % 2], content=text) for number, text in enumerate((question, answer, *more))]


def write_sums(path: Path, n: int = 200) -> Path:
    """Small conversations that can be learnt: a letter, and how often to write it."""
    words = random.Random(0)
    lines = []
    for _ in range(n):
        letter, times = words.choice("abcdefgh"), words.randint(1, 5)
        lines.append(json.dumps({"messages": chat(f"{times} {letter}", letter * times)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def save_model(folder: Path, tokenizer: Tokenizer, kind: str = "starcoder2", *, rows: int | None = None) -> Run:
    """A pico model beside its tokenizer, as a parent."""
    size = rows or tokenizer.vocab_size
    if kind in ("gpt2", "qwen2"):
        common: dict[str, Any] = {"bos_token_id": None, "eos_token_id": tokenizer.eos_id}
        config: Any = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=96, **common)
        if kind == "qwen2":
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
            config = Qwen2Config(vocab_size=size, max_position_embeddings=96, **sizes, **common)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    else:
        shape = resolve(DecoderSpec(family=kind, width=32, depth=2, heads=2, vocab_size=size, context_length=96))  # type: ignore[arg-type]
        ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        model = decoder.build(shape, seed=0, special_ids=ids)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return Run.borrow(folder)


def finetune(out: Path, model: Run, *, resume: bool = False, **settings: Any) -> Run:
    """What the runner does, without its lock and its report."""
    config = build(FINETUNE.config, FAST | settings, where="test")
    manifest = Run.open(out).manifest if resume else new_manifest("finetune", config)
    out.mkdir(parents=True, exist_ok=True)
    writer = RunWriter(out, manifest, config, resuming=resume and checkpoints.last(out / "checkpoints") is not None)
    writer.begin()
    return writer.end("complete", metrics=FINETUNE.load()(config, {"model": model}, writer))
