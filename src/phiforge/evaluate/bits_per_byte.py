"""Bits per byte, perplexity and next-token accuracy of a causal model on text it has not seen.

What is counted: the tokens that spell the text, and nothing else. Each document's bos is context and is never predicted; its eos is never
predicted either, since it spells no byte (n-gram and compressor baselines are not charged for ends of documents, so a model isn't here).
Bits of the text tokens are summed and divided by the text's UTF-8 bytes, which makes models with different tokenizers comparable.
(A tokenizer could spell the same text in several ways; only the way it does spell it is charged, in full, so the figure is an upper bound.)

Documents never share a window. See `windows` for how a document longer than the model's context is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from phiforge.evaluate.score import Score, exp_score, ratio_score
from phiforge.evaluate.windows import Windows, cut, evenly

Precision = Literal["fp32", "bf16"]
_LOGIT_BYTES = 16 << 20  # float32 logits held at once; about what stays in cache pays best
_BATCH_TOKENS = 2048  # positions in one forward pass when no batch size is given
# Configs with one of these change the logits after the head (Gemma 2, Cohere, Granite): the model's own forward is used then.
_LOGIT_OPTIONS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


class PackedText(Protocol):
    """What of `phiforge.data.pack.Packed` is read here: documents as [bos] tokens [eos], one after the other."""

    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray: ...
    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """What the model made of each scored token, in reading order. All arrays are (N,)."""

    token: np.ndarray  # int64, the token that was to be predicted
    loss: np.ndarray  # float32, -log P in nats
    correct: np.ndarray  # bool, whether it was the model's first choice
    document: np.ndarray  # int64, non-decreasing
    complete: bool  # whether this is every text token of the packed text


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """The three figures of one text. Perplexity and accuracy are per token, so they compare models of one tokenizer only."""

    bits_per_byte: Score
    perplexity: Score
    accuracy: Score
    n_tokens: int
    n_bytes: int


def token_losses(
    model: torch.nn.Module,
    packed: PackedText,
    *,
    context_length: int,
    stride: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    limit_tokens: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> TokenLosses:
    """Score the text tokens of `packed`, each exactly once (or at most `limit_tokens` of them, whole windows spread evenly).

    Args:
        model: a causal language model of transformers' interface. It is not moved; `device` is where its inputs go, its own unless given.
        context_length, stride: see `windows.cut`; the stride is half a window unless given.
        batch_size: windows in one forward pass; about 2,048 tokens' worth unless given. Beyond rounding the result does not depend on it.
        on_batch: told how many tokens were scored, after each forward pass.
        precision: "bf16" runs the body under autocast; the head and the loss are float32 always.
    The model's mode (train or eval, module by module) is put back, no gradient is kept, no random number is drawn.
    """
    windows = cut(packed.starts, len(packed.tokens), context_length, stride)
    total = int(windows.scored.sum())
    if limit_tokens is not None:
        windows = evenly(windows, limit_tokens)
    offset = np.concatenate(([0], np.cumsum(windows.scored)))
    loss, correct = np.zeros(offset[-1], np.float32), np.zeros(offset[-1], bool)
    model = _unwrapped(model)
    where = torch.device(device) if device is not None else next(model.parameters()).device
    autocast = torch.autocast(where.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with _evaluating(model), torch.no_grad():
        score = _scorer(model)
        for rows in _batches(windows, batch_size, context_length):
            tokens = _rows_of(packed.tokens, windows.take(rows))
            with autocast:
                losses, hits = score(torch.from_numpy(tokens).to(where), windows.skip[rows], windows.length[rows])
            at = np.concatenate([np.arange(offset[row], offset[row + 1]) for row in rows])
            loss[at], correct[at] = losses, hits
            if on_batch is not None:
                on_batch(len(losses))
    target = np.concatenate([np.zeros(0, np.int64)] + [np.arange(*span) for span in _target_spans(windows)])
    token = np.asarray(packed.tokens[target], np.int64)
    document = np.repeat(windows.document, windows.scored)
    return TokenLosses(token=token, loss=loss, correct=correct, document=document, complete=len(loss) == total)


def summarize(losses: TokenLosses, packed: PackedText, token_bytes: np.ndarray | None = None) -> TextScores:
    """Three scores from token losses, with clustered standard errors.

    Args:
        token_bytes: (V,) UTF-8 bytes that each token spells (0 for special tokens). Needed for a part of a text; with a whole one
            it is optional: without it the bytes are shared equally among the tokens, which moves no value, only the error a little.
    Raises:
        ValueError: a part of a text without `token_bytes`, or the bytes don't add up to the text's.
    """
    n = len(losses.loss)
    ones = np.ones(n)
    if token_bytes is not None:
        size = token_bytes[losses.token].astype(np.float64)
        if losses.complete and n and round(size.sum()) != packed.n_bytes:
            raise ValueError(f"the tokens spell {round(size.sum())} bytes and the text has {packed.n_bytes}")
    elif losses.complete:
        size = ones * (packed.n_bytes / max(n, 1))
    else:
        raise ValueError("token_bytes is needed to score a part of a text")
    nats = losses.loss.astype(np.float64)
    mean_loss = ratio_score(nats, ones, losses.document)
    return TextScores(
        bits_per_byte=ratio_score(nats / math.log(2), size, losses.document, n=round(size.sum())),
        perplexity=exp_score(mean_loss),
        accuracy=ratio_score(losses.correct.astype(np.float64), ones, losses.document),
        n_tokens=n,
        n_bytes=round(size.sum()),
    )


def bits_of_bytes(losses: TokenLosses, token_bytes: np.ndarray) -> np.ndarray:
    """(bytes,) the bits of each token shared equally among the bytes it spells, in reading order: to hold beside a byte model."""
    size = token_bytes[losses.token]
    return np.repeat(losses.loss / np.maximum(size, 1) / math.log(2), size)


def score_text(model: torch.nn.Module, packed: PackedText, *, token_bytes: np.ndarray | None = None, **options: Any) -> TextScores:
    """`summarize(token_losses(...))`; the options are those of `token_losses`."""
    return summarize(token_losses(model, packed, **options), packed, token_bytes)


def bits_per_byte(model: torch.nn.Module, packed: PackedText, *, token_bytes: np.ndarray | None = None, **options: Any) -> Score:
    """The first of `score_text`'s figures alone: bits the model needs for each byte of the text; 8 is no compression at all."""
    return score_text(model, packed, token_bytes=token_bytes, **options).bits_per_byte


def _target_spans(windows: Windows) -> Iterator[tuple[int, int]]:
    """First and one past the last position of the tokens that each window scores."""
    for start, length, skip in zip(windows.start.tolist(), windows.length.tolist(), windows.skip.tolist(), strict=True):
        yield start + skip + 1, start + length + 1


def _batches(windows: Windows, batch_size: int | None, context_length: int) -> Iterator[np.ndarray]:
    """Indices of windows that go together: of like length, so that little is padded. Longest first, so that memory peaks at the start."""
    order = np.argsort(-windows.length, kind="stable")
    at = 0
    while at < len(order):
        longest = int(windows.length[order[at]])
        rows = batch_size or max(1, _BATCH_TOKENS // longest)
        yield order[at : at + rows]
        at += rows


def _rows_of(tokens: np.ndarray, windows: Windows) -> np.ndarray:
    """(B, T+1) inputs and, one further, targets; padded on the right, which a causal model cannot see from where it is scored."""
    out = np.zeros((len(windows), int(windows.length.max()) + 1), np.int64)
    for row, (start, length) in enumerate(zip(windows.start.tolist(), windows.length.tolist(), strict=True)):
        out[row, : length + 1] = tokens[start : start + length + 1]
    return out


def _scorer(model: Any) -> Callable[[torch.Tensor, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from (B, T+1) tokens to losses and hits of the scored positions, row by row."""
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    body: Any = getattr(model, "base_model", None)
    config = getattr(model, "config", None)
    plain = isinstance(head, torch.nn.Linear) and body is not None and body is not model
    plain = plain and all(getattr(config, name, None) in (None, 1, 1.0) for name in _LOGIT_OPTIONS)

    def score(tokens: torch.Tensor, skip: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, T+1) tokens -> losses and hits of positions skip .. length-1 of each row, in order."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        place = torch.arange(inputs.shape[1], device=tokens.device)
        low, high = (torch.from_numpy(edge).to(tokens.device)[:, None] for edge in (skip, length))
        scored = (place >= low) & (place < high)  # (B, T)
        if plain:
            hidden = body(input_ids=inputs, use_cache=False).last_hidden_state[scored]  # (N, D)
            return _head_losses(hidden, targets[scored], head.weight, head.bias)
        return _head_losses(model(input_ids=inputs).logits[scored], targets[scored], None, None)

    return score


def _head_losses(
    hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (N,) and hits (N,) from hidden states (N, D), a chunk of float32 logits at a time. No weight: `hidden` is logits (N, V)."""
    width = hidden.shape[-1] if weight is None else weight.shape[0]
    rows = max(1, _LOGIT_BYTES // (4 * width))
    losses, hits = [], []
    with torch.autocast(hidden.device.type, enabled=False):
        if weight is not None:
            weight, bias = weight.float(), None if bias is None else bias.float()
        for at in range(0, len(hidden), rows):
            piece = hidden[at : at + rows].float()
            logits = piece if weight is None else torch.nn.functional.linear(piece, weight, bias)  # (n, V)
            target = targets[at : at + rows]
            # argmax, not `>= max`: a head that gives every token the same logit must not count as always right
            hits.append(logits.argmax(-1) == target)
            losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    return torch.cat(losses).cpu().numpy(), torch.cat(hits).cpu().numpy()


def _unwrapped(model: Any) -> Any:
    """The module inside DistributedDataParallel and torch.compile: windows of many lengths would compile anew each time."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """eval mode inside; afterwards each module has its own mode back (a module may have been frozen in eval mode on purpose)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
