"""Stage "evaluate": a model's figures on held-out documents, beside what simple methods make of them. Writes evaluation.json."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

import phiforge.models.thyme.modeling  # noqa: F401 - makes transformers know the family
from phiforge.core import atomic, console, hardware
from phiforge.core.errors import ConfigError, DataError, PhiforgeError, RunError
from phiforge.core.runs import Run, RunWriter
from phiforge.data.packed import Packed
from phiforge.data.prepare import packed_split, read_split
from phiforge.data.tokenizer import Tokenizer
from phiforge.evaluate.baselines import HELD_OUT_BYTES, Baseline, compare_with, sentence, trigram_baseline
from phiforge.evaluate.bits_per_byte import TextScores, TokenLosses, bits_of_bytes, summarize, token_losses
from phiforge.evaluate.config import EVALUATION, Borders, EvaluateConfig
from phiforge.evaluate.ngram import Ngram
from phiforge.evaluate.protocol import measure, metrics_of, trigram_of
from phiforge.evaluate.sampling import sample_text
from phiforge.models import decoder
from phiforge.models.inspect import count_parameters
from phiforge.models.thyme.axiom_probe import COLUMNS, probe
from phiforge.models.thyme.axiom_probe import rows as axiom_rows

SCHEMA_VERSION = 1


def run(config: EvaluateConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Score `parents["model"]` on a split of `parents["data"]`. Returns the final metrics.

    Raises:
        RunError: no model in the model run. DataError: no text. ConfigError: a context or tokenizer that does not fit the model.
    """
    model, tokenizer = load_model(parents["model"].model_dir)
    documents = read_split(parents["data"].path, config.split)
    packed = packed_split(parents["data"].path, config.split, tokenizer)
    built_for: Any = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "training_length", 1024)
    context_length = config.context_length or int(built_for)
    _check_fit(config, model, tokenizer, context_length)
    notes = _held_out_notes(config, parents)
    losses = _score(config, model, packed, context_length)
    sizes, own = _sizes(tokenizer, losses, packed)
    scores = summarize(losses, packed, sizes)
    if not np.isfinite(scores.bits_per_byte.value):
        raise PhiforgeError(
            f"{parents['model'].path}: the model's output is not a number on this text", fix="its training diverged: lower learning_rate"
        )
    if scores.n_bytes < packed.n_bytes:
        notes.append(f"scored on {scores.n_tokens:,} tokens, spread evenly over the text (max_tokens)")
    if not own:
        notes.append("the tokens don't spell all of the text, which isn't charged for: bits per byte are kind beside byte models")
    trigram = _trigram(config, parents["data"], tokenizer)
    windows = _windows(config, model, packed, tokenizer, trigram) if config.protocol else None
    baselines: list[Baseline] = []
    if config.baselines and config.split == "validation":
        baselines = compare_with(
            lambda: (document.text for document in read_split(parents["data"].path, "train")),
            lambda: (document.text for document in documents),
            order=config.ngram_order,
            train_bytes=config.baseline_bytes,
            model_bits=bits_of_bytes(losses, sizes) if sizes is not None and own and packed.n_bytes <= HELD_OUT_BYTES else None,
        )
        if config.protocol and config.protocol.trigram:
            baselines.append(trigram_baseline(trigram("keep"), packed, _specials(tokenizer)))
    summary = sentence(scores.bits_per_byte, baselines, seen=config.split == "train")
    axioms = ask_axioms(model, tokenizer)
    atomic.write_json(
        run.path / EVALUATION,
        {
            "schema_version": SCHEMA_VERSION,
            "sentence": summary,
            "notes": notes,
            "text": {"split": config.split, "documents": packed.n_documents, "bytes": scores.n_bytes, "tokens": scores.n_tokens},
            "settings": {"context_length": context_length, "stride": config.stride or context_length // 2, "precision": config.precision},
            "model": {
                "id": parents["model"].id,
                "parameters": count_parameters(model),
                "bits_per_byte": scores.bits_per_byte.to_json(),
                "perplexity": scores.perplexity.to_json(),
                "accuracy": scores.accuracy.to_json(),
            },
            "baselines": [baseline.to_json() for baseline in baselines],
            **({"protocol": windows} if windows else {}),
            **({"axioms": axioms} if axioms else {}),
        },
    )
    _tell(run, scores, baselines, summary, notes)
    if windows:
        _tell_windows(run, windows)
    if axioms:
        console.table("the twelve axiom units, on words they were not taught", axioms["columns"], axioms["rows"])
        run.log(axioms["sentence"])
    metrics = _metrics(scores, baselines) | (metrics_of(windows) if windows else {})
    run.metric({"step": 0, **metrics})
    return metrics


def load_model(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """The model (float32, eval mode, on this machine's device) and tokenizer of a model folder. Raises RunError, DataError."""
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: no model in it", fix="give a finished run of `phiforge pretrain` or `phiforge finetune`")
    model: Any = decoder.load(folder)
    return model.to(hardware.device()).eval(), Tokenizer.load(folder)


def ask_axioms(model: Any, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What the axiom units of a Thyme model that was taught them mean; None for other models."""
    if not getattr(model.config, "axiom_weight", 0):
        return None
    found = probe(model, tokenizer)
    return {"columns": list(COLUMNS), "rows": axiom_rows(found), **found}


def token_byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bytes that each token spells; special tokens spell none."""
    sizes = np.array([len(piece) for piece in tokenizer.pieces], np.int64)
    sizes[list(tokenizer.specials.values())] = 0
    return sizes


def _check_fit(config: EvaluateConfig, model: PreTrainedModel, tokenizer: Tokenizer, context_length: int) -> None:
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model knows {rows:,}", fix="give the model its own tokenizer"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and context_length > longest:
        raise ConfigError(f"context_length={context_length} is more than the model's {longest}", fix=f"use {longest} or less")
    if config.stride and config.stride > context_length:
        raise ConfigError(
            f"stride={config.stride} is more than context_length={context_length}", fix="tokens between would never be scored"
        )


def _held_out_notes(config: EvaluateConfig, parents: dict[str, Run]) -> list[str]:
    """What may be wrong with calling the text unseen."""
    trained_on = parents["model"].manifest.parents.get("data")
    if config.split == "train":
        return ["this is the training side of the data"]
    if trained_on is None:
        return ["the model's run does not say what it was trained on: whether this text was in it isn't known"]
    if trained_on.fingerprint != parents["data"].fingerprint:
        return ["the model was trained on another data run: whether this text was in it isn't known"]
    made = parents["model"].manifest.metrics
    if isinstance(made.get("model_step"), int) and made["model_step"] < made.get("steps", 0):
        chosen = f"step {made['model_step']:,} of {made['steps']:,}"
        return [f"the weights of {chosen} were chosen by this text, which makes the figure a little kind"]
    return []


def _score(config: EvaluateConfig, model: PreTrainedModel, packed: Packed, context_length: int) -> TokenLosses:
    with console.progress("scoring", packed.n_tokens - 2 * packed.n_documents) as bar:
        losses = token_losses(
            model,
            packed,
            context_length=context_length,
            stride=config.stride,
            batch_size=config.eval_batch_size,
            precision=config.precision,
            limit_tokens=config.max_tokens,
            on_batch=bar.advance,
        )
    if not len(losses.loss):
        raise DataError("there is no text to score", fix="prepare more text, or a larger validation_fraction")
    return losses


def _sizes(tokenizer: Tokenizer, losses: TokenLosses, packed: Packed) -> tuple[np.ndarray | None, bool]:
    """Bytes of each token, and whether they add up to the text.

    They don't with a tokenizer that changes it (NFC) or drops its blanks: then the text's own bytes count, shared among its tokens.
    """
    sizes = token_byte_lengths(tokenizer)
    if losses.complete:
        own = int(sizes[losses.token].sum()) == packed.n_bytes
        return (sizes if own else None), own
    if getattr(tokenizer, "lossy", False):
        return np.full(len(sizes), packed.n_bytes / (packed.n_tokens - 2 * packed.n_documents)), False
    return sizes, True


def _specials(tokenizer: Tokenizer) -> np.ndarray:
    return np.array(sorted(tokenizer.specials.values()), np.int64)


def _trigram(config: EvaluateConfig, data: Run, tokenizer: Tokenizer) -> Callable[[Borders], Ngram]:
    """Counts of the training side's tokens, made when first asked for; at most `baseline_bytes` of text, taken evenly from all of it."""

    @cache
    def counted(borders: Borders) -> Ngram:
        sample = sample_text(lambda: (document.text for document in read_split(data.path, "train")), config.baseline_bytes)
        ids = tokenizer.raw_batch([document.decode("utf-8", errors="ignore") for document in sample.documents])
        return trigram_of(ids, tokenizer.vocab_size, (tokenizer.bos_id, tokenizer.eos_id), borders)

    return counted


def _windows(
    config: EvaluateConfig, model: PreTrainedModel, packed: Packed, tokenizer: Tokenizer, trigram: Callable[[Borders], Ngram]
) -> dict[str, Any] | None:
    """What the protocol's windows say."""
    if config.protocol is None:
        return None
    asked = config.protocol
    most = asked.max_tokens or packed.n_tokens * asked.length
    to_read = sum(min(most, packed.n_tokens * asked.length // stride) for stride in asked.strides) * len(asked.borders)
    with console.progress("windows", to_read) as bar:
        return measure(asked, model, packed, _specials(tokenizer), trigram if asked.trigram else None, bar.advance)


def _metrics(scores: TextScores, baselines: list[Baseline]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "eval_bits_per_byte": scores.bits_per_byte.value,
        "eval_bits_per_byte_standard_error": scores.bits_per_byte.standard_error,
        "eval_perplexity": scores.perplexity.value,
        "eval_perplexity_standard_error": scores.perplexity.standard_error,
        "eval_accuracy": scores.accuracy.value,
        "eval_accuracy_standard_error": scores.accuracy.standard_error,
        "eval_tokens": scores.n_tokens,
        "eval_bytes": scores.n_bytes,
    }
    metrics = {name: value for name, value in metrics.items() if value is not None and np.isfinite(value)}
    return metrics | {f"{baseline.name}_bits_per_byte": baseline.bits_per_byte.value for baseline in baselines}


def _tell(run: RunWriter, scores: TextScores, baselines: list[Baseline], summary: str, notes: list[str]) -> None:
    rows = [["this model", str(scores.bits_per_byte), ""]]
    rows += [[baseline.label, str(baseline.bits_per_byte), baseline.about] for baseline in baselines]
    console.table("bits per byte", ["", "bits/byte", ""], rows)
    run.log(f"perplexity {scores.perplexity} per token, next token right {scores.accuracy} ({scores.n_tokens:,} tokens)")
    for note in notes:
        run.log(f"note: {note}")
    run.log(summary)


def _tell_windows(run: RunWriter, windows: dict[str, Any]) -> None:
    """The protocol's figures as a table, and its own in the log."""
    rows = [
        [
            "this model" if row["who"] == "model" else "trigram of the same tokens",
            f"{row['stride']}" + (" (disjoint)" if row["stride"] == windows["length"] else ""),
            row["borders"],
            _number(row["perplexity"], 1),
            _number(row["perplexity_per_token"], 1),
            _number(row["bits_per_byte"]["value"], 3),
        ]
        for row in windows["rows"]
    ]
    head = ["", "stride", "borders", "perplexity", "of all tokens", "bits/byte"]
    console.table(f"windows of {windows['length']} predictions, context begins anew in each", head, rows)
    own = windows["rows"][0]
    run.log(
        f"perplexity {_number(own['perplexity'], 1)} over windows of {windows['length']} at stride {own['stride']}, the mean of"
        f" batches of {windows['batch']}; a token spells {windows['bytes_per_token']:.2f} bytes"
    )


def _number(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:,.{digits}f}"
