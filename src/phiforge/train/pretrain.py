"""The stage `pretrain`: a prepared corpus and a tokenizer in, a trained decoder out.

Small: `phiforge pretrain data=RUN tokenizer=RUN model.size=300K max_steps=50 --out runs/small`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from phiforge.core import hardware
from phiforge.core.atomic import atomic_dir
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.runs import METRICS, Run, RunWriter, read_jsonl
from phiforge.core.seeds import derive
from phiforge.data.packed import Packed, Rows
from phiforge.data.prepare import packed_split
from phiforge.data.routes import Split
from phiforge.data.tokenizer import Tokenizer
from phiforge.evaluate.bits_per_byte import TextScores, score_text
from phiforge.models.families import build, resolve_any
from phiforge.models.sizes import human_count
from phiforge.train import checkpoints
from phiforge.train.adapter import quiet, require_reporters
from phiforge.train.config import PretrainConfig
from phiforge.train.loop import choose_weights, costs, plan_course, stream_of, train_to_end
from phiforge.train.speak import Speaker
from phiforge.train.streams import record_streams
from phiforge.train.thyme_forward import teach_axioms
from phiforge.train.trainer import StreamTrainer, Validation

SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The packed splits and the tokenizer they were made with."""

    tokenizer: Tokenizer
    train: Packed
    validation: Packed

    def token_bytes(self, vocabulary: int) -> np.ndarray:
        """(V,) UTF-8 bytes that each token spells; 0 for special tokens and for rows of the embedding that no token uses.

        Of a tokenizer that drops blanks, each has its share of the bytes that none spells.
        """
        sizes = np.zeros(vocabulary, np.int64)
        special = set(self.tokenizer.specials.values())
        for token, piece in enumerate(self.tokenizer.pieces):
            sizes[token] = 0 if token in special else len(piece)
        if not self.tokenizer.lossy:
            return sizes
        spelled = sum(int(sizes[part].sum()) for part in np.array_split(self.validation.tokens, 64))
        return sizes * (self.validation.n_bytes / max(1, spelled))


def run(config: PretrainConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Train, keep the best or the last model in `model/`, and return the final metrics."""
    hardware.configure_allocator()
    quiet()
    require_reporters(config.report_to)
    corpus = load_corpus(parents, run)
    model = new_model(config, parents, corpus, run)
    bound = getattr(model.config, "max_position_embeddings", None)  # a constant-state model has none
    length = config.context_length or bound or model.config.training_length
    if bound and length > bound:
        raise ConfigError(f"context_length={length} is beyond the model's {bound}", fix="raise model.context_length")
    checkpoints.sweep(run.path / "checkpoints")
    trainer = prepare(config, corpus, model, length, run)
    speak = Speaker(trainer.network, corpus.tokenizer, config.sample_prompts, config.sample_tokens, config.seed)
    train_to_end(trainer, length, run, speak, config.sample_steps)
    return _finish(trainer, config, parents, corpus, length, run)


def load_corpus(parents: dict[str, Run], run: RunWriter) -> Corpus:
    """Both splits, packed (from the cache where they have been packed before)."""
    tokenizer = Tokenizer.load(parents["tokenizer"].path / "tokenizer")
    splits = {split: packed_split(parents["data"].path, split, tokenizer) for split in SPLITS}
    for split, packed in splits.items():
        run.log(f"{split}: {packed.n_tokens:,} tokens of {len(packed.starts):,} documents, {packed.n_bytes:,} bytes of text")
    return Corpus(tokenizer=tokenizer, train=splits["train"], validation=splits["validation"])


def new_model(config: PretrainConfig, parents: dict[str, Run], corpus: Corpus, run: RunWriter) -> PreTrainedModel:
    """A fresh decoder, or the parent run's, in float32 on the device it will be trained on."""
    vocabulary = corpus.tokenizer.vocab_size
    if "model" in parents:
        model: Any = AutoModelForCausalLM.from_pretrained(parents["model"].model_dir, dtype=torch.float32)
        if model.config.vocab_size < vocabulary:
            raise ConfigError(
                f"the model has {model.config.vocab_size} tokens and the tokenizer {vocabulary}",
                fix="train on with the model's own tokenizer",
            )
        run.log(f"going on from {parents['model'].path}; the settings under `model` are not used")
    else:
        spec = config.model
        if spec.vocab_size is not None and spec.vocab_size < vocabulary:
            raise ConfigError(f"model.vocab_size={spec.vocab_size} is below the tokenizer's {vocabulary}", fix="leave it out")
        shape = resolve_any(spec if spec.vocab_size else spec.model_copy(update={"vocab_size": vocabulary}))
        _preflight(shape.parameters(), config, run.path)
        t = corpus.tokenizer
        model = build(shape, seed=config.seed, special_ids={"pad_token_id": t.pad_id, "bos_token_id": t.bos_id, "eos_token_id": t.eos_id})
        run.log(shape.about())
    teach_axioms(model, corpus.tokenizer, run)
    return model.to(hardware.device())


def _preflight(parameters: int, config: PretrainConfig, folder: Path) -> None:
    """Weights, gradients and two moments in float32, and the checkpoints that will be kept beside the best and a new one."""
    hardware.preflight_memory(parameters * 16, f"training {human_count(parameters)} parameters")
    hardware.preflight_disk(folder, parameters * 12 * ((config.save_total_limit or 10) + 2))


def prepare(config: PretrainConfig, corpus: Corpus, model: PreTrainedModel, length: int, run: RunWriter) -> StreamTrainer:
    """The trainer, with every open setting settled and recorded."""
    stride = config.row_stride or length
    spread = stride if config.row_offset else 1  # how many places a row may begin at
    n = (corpus.train.n_tokens - spread - length) // stride + 1 if corpus.train.n_tokens >= length + spread else 0
    if n < 1:
        raise DataError(
            f"the training split has {corpus.train.n_tokens:,} tokens, too few for a row of context_length={length}",
            fix="more text, or a smaller context_length",
        )

    def rows_of(epoch: int) -> Rows:
        offset = derive(config.seed, "row offset", epoch) % stride if config.row_offset else 0
        return Rows(corpus.train, length, offset=offset, stride=stride)

    stream = stream_of(config, rows_of, n)
    record_streams(
        config,
        model,
        stream,
        run,
        train_text=corpus.train.key,
        validation_text=corpus.validation.key,
        tokenizer=corpus.tokenizer.fingerprint,
    )
    course = plan_course(config, model, stream, length, run)
    validation = Validation(
        packed=corpus.validation,
        token_bytes=corpus.token_bytes(model.config.vocab_size),
        context_length=length,
        limit_tokens=course.eval_tokens,
        precision=course.eval_precision,
    )
    evaluates = len(corpus.validation.starts) > 0
    arguments = course.arguments(config, run, evaluates=evaluates)
    return StreamTrainer(model, arguments, stream=stream, validation=validation if evaluates else None, **course.options(config))


def _finish(
    trainer: StreamTrainer, config: PretrainConfig, parents: dict[str, Run], corpus: Corpus, length: int, run: RunWriter
) -> dict[str, Any]:
    """Choose the weights, measure them on the whole validation split, write `model/`."""
    metrics: dict[str, Any] = {
        **costs(trainer, length),
        "model_step": choose_weights(trainer, config, run),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }
    losses = [line["loss"] for line in read_jsonl(run.path / METRICS) if "loss" in line]
    if losses:
        metrics["loss"] = losses[-1]
    if trainer.validation is not None:
        scores = final_scores(trainer.network, corpus, length, config)
        metrics |= {
            "eval_bits_per_byte": scores.bits_per_byte.value,
            "eval_bits_per_byte_standard_error": scores.bits_per_byte.standard_error,
            "eval_loss": math.log(scores.perplexity.value),
            "eval_accuracy": scores.accuracy.value,
            "eval_text_tokens": scores.n_tokens,
        }
        run.log(f"validation: {scores.bits_per_byte} bits per byte over {scores.n_bytes:,} bytes")
    if run.leader:
        save_model(trainer.network, parents["tokenizer"].path / "tokenizer", run.path / "model")
    return {name: value for name, value in metrics.items() if value is not None}


def final_scores(model: PreTrainedModel, corpus: Corpus, length: int, config: PretrainConfig) -> TextScores:
    """The finished model on the validation split in float32, at least half a window of context before each token."""
    sizes = corpus.token_bytes(model.config.vocab_size)
    return score_text(model, corpus.validation, token_bytes=sizes, context_length=length, limit_tokens=config.final_eval_tokens)


def save_model(model: PreTrainedModel, tokenizer: Path, folder: Path) -> None:
    """`folder`: weights in float32, configs, and the tokenizer's files beside them."""
    model.config.use_cache = True  # Trainer switches it off while training
    with atomic_dir(folder) as temporary:
        model.save_pretrained(temporary)
        for file in sorted(tokenizer.iterdir()):
            if file.is_file():
                (temporary / file.name).write_bytes(file.read_bytes())
