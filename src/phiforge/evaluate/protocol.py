"""Perplexity over fixed windows, as many training scripts measure it: Thyme's origin among them, whose 57.1 is such a figure.

The held-out text is one row of tokens. A window takes length + 1 of them and predicts all but the first, with nothing before it: the
model's state or cache begins anew. Windows stand `stride` apart, and what is left at the end and fills none is not read. The loss is the
mean over the tokens of a batch of consecutive windows, then over the batches, however full the last one is; perplexity is its exponential.

At stride = length / 2 every token but the first and last few is predicted twice, once with little before it and once with more. That is no
leak: the same text costs the same tokens. But it is a mean over other contexts than that of disjoint windows (stride = length), so both are
given, and of each also the mean over tokens, and bits for each byte of the text. `evaluate.bits_per_byte` is the house's own measure.

Tokens that spell no text ([bos], [eos]) are never predicted. Where a document ends within a window, borders="keep" leaves these tokens in
and begins positions, and so a state, anew there, as training does; "join" takes them out and reads on over the border, as a script does
that knows no documents.

`Stream`, `windows_of` and `scores_of` are numbers only; `model_nats` and `ngram_nats` say what a model and a count of tokens make of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from phiforge.core.errors import ConfigError, DataError
from phiforge.evaluate.bits_per_byte import _LOGIT_OPTIONS, PackedText, _evaluating, _head_losses, _unwrapped
from phiforge.evaluate.config import Borders, ProtocolConfig
from phiforge.evaluate.ngram import Ngram
from phiforge.evaluate.score import Score, ratio_score

_TOKENS = 4096  # positions in one forward pass
_LOGITS = 1 << 24  # logits in one forward pass of a model whose head can't be taken off


@dataclass(frozen=True)
class Stream:
    """A split as one row of tokens. tokens (N,) int64 · begins (N,) bool, where a document does · text (N,) bool, what may be predicted."""

    tokens: np.ndarray
    begins: np.ndarray
    text: np.ndarray
    n_bytes: int

    @classmethod
    def of(cls, packed: PackedText, specials: np.ndarray, borders: Borders) -> Stream:
        """From a packed split. specials: ids that spell no text. Raises DataError where there is no text."""
        tokens = np.asarray(packed.tokens, np.int64)
        text = ~np.isin(tokens, specials)
        begins = np.zeros(len(tokens), bool)
        begins[np.asarray(packed.starts, np.int64)] = True
        if not text.any():
            raise DataError("there is no text to score", fix="prepare more text, or a larger validation_fraction")
        if borders == "join":
            tokens = tokens[text]
            return cls(tokens, np.zeros(len(tokens), bool), np.ones(len(tokens), bool), packed.n_bytes)
        return cls(tokens, begins, text, packed.n_bytes)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the text for each token that spells it."""
        return self.n_bytes / int(self.text.sum())


@dataclass(frozen=True)
class Windowed:
    """W windows of a stream. tokens (W, T+1) · positions (W, T), from 0 at the window's and each document's beginning · scored (W, T)."""

    tokens: np.ndarray
    positions: np.ndarray
    scored: np.ndarray
    restarts: bool  # whether a document begins inside any window


def windows_of(stream: Stream, length: int, stride: int, *, batch: int = 1, max_tokens: int | None = None) -> Windowed:
    """Whole windows of `length` predictions, `stride` apart. Raises DataError for a text shorter than one.

    max_tokens: most predictions; whole batches of `batch` windows in a row are kept (at least one), spread evenly over all.
    """
    count = (len(stream.tokens) - 1 - length) // stride + 1
    if count < 1:
        raise DataError(
            f"{len(stream.tokens):,} held-out tokens don't fill one window of {length} (+ 1)", fix="more text, or a smaller protocol.length"
        )
    at = _evenly(count, batch, max_tokens and max_tokens // length)[:, None] * stride + np.arange(length + 1)  # (W, T+1)
    begins = stream.begins[at[:, :-1]]
    begins[:, 0] = True
    within = np.arange(length)
    positions = within - np.maximum.accumulate(np.where(begins, within, 0), axis=1)
    return Windowed(stream.tokens[at], positions, stream.text[at[:, 1:]], bool(begins[:, 1:].any()))


def _evenly(count: int, batch: int, most: int | None) -> np.ndarray:
    """Which of `count` windows are read where only `most` may be: whole batches, evenly spaced."""
    if most is None or count <= most:
        return np.arange(count)
    batches = -(-count // batch)
    keep = max(1, most // batch)
    first = np.arange(keep) * batches // keep * batch
    at = (first[:, None] + np.arange(batch)).ravel()
    return at[at < count]


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """What someone made of the windows. `perplexity` is the origin's (mean of batch means); `per_token` weighs every token alike."""

    perplexity: float
    per_token: float
    bits_per_byte: Score
    windows: int
    scored: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        named = {"perplexity": self.perplexity, "perplexity_per_token": self.per_token}
        return {
            **{name: value if math.isfinite(value) else None for name, value in named.items()},
            "bits_per_byte": self.bits_per_byte.to_json(),
            "windows": self.windows,
            "scored": self.scored,
        }


def scores_of(nats: np.ndarray, scored: np.ndarray, batch: int, bytes_per_token: float) -> WindowScores:
    """From nats (W, T) of each prediction to perplexities. Batches are of `batch` windows in reading order, the last one as it comes.

    A batch without one scored token is left out. Errors of bits per byte are clustered by long blocks of windows.
    """
    if not scored.any():
        raise DataError("no window has a token to predict", fix="more text")
    places = np.arange(0, len(nats), batch)
    sums = np.add.reduceat(np.where(scored, nats, 0.0).sum(1), places)
    counts = np.add.reduceat(scored.sum(1), places)
    of_batches = float((sums[counts > 0] / counts[counts > 0]).mean())
    flat = nats[scored].astype(np.float64)
    bits = ratio_score(flat / math.log(2), np.full(len(flat), bytes_per_token), np.zeros(len(flat), np.int64))
    return WindowScores(
        perplexity=_exp(of_batches), per_token=_exp(float(flat.mean())), bits_per_byte=bits, windows=len(nats), scored=len(flat)
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf if value == value else math.nan


def model_nats(model: torch.nn.Module, windows: Windowed, on_batch: Callable[[int], None] | None = None) -> np.ndarray:
    """-log P of every token of the windows but the first, (W, T) float32; 0 where nothing is to be predicted.

    The model is any causal language model of transformers' interface; where its head is a plain linear map, it is applied to a few
    positions at a time. In eval mode and float32; the result does not depend on how many windows go together, beyond rounding.
    Raises ConfigError for windows longer than the model reads.
    """
    model = _unwrapped(model)
    length = windows.positions.shape[1]
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if longest and length > longest:
        raise ConfigError(f"protocol.length={length} is more than the model's {longest}", fix=f"use {longest} or less")
    out = np.zeros(windows.positions.shape, np.float32)
    where = next(model.parameters()).device
    with _evaluating(model), torch.no_grad():
        states, weight, bias, width = _reader(model)
        most = _TOKENS if weight is not None else max(1, min(_TOKENS, _LOGITS // width))
        rows = max(1, most // length)
        for at in range(0, len(out), rows):
            part = slice(at, at + rows)
            tokens = torch.from_numpy(windows.tokens[part]).to(where)
            positions = torch.from_numpy(windows.positions[part]).to(where) if windows.restarts else None
            scored = torch.from_numpy(windows.scored[part]).to(where)
            seen = states(tokens[:, :-1], positions)[scored]
            losses, _ = _head_losses(seen, tokens[:, 1:][scored], weight, bias) if len(seen) else (np.zeros(0, np.float32), None)
            out[part][windows.scored[part]] = losses
            if on_batch is not None:
                on_batch(len(losses))
    return out


def _reader(model: Any) -> tuple[Callable[..., torch.Tensor], torch.Tensor | None, torch.Tensor | None, int]:
    """(a function of tokens and positions that gives what the head reads, the head's weight and bias, vocabulary).

    No weight: the function gives logits.
    """
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    body: Any = getattr(model, "base_model", None)
    plain = isinstance(head, torch.nn.Linear)
    plain = plain and all(getattr(model.config, name, None) in (None, 1, 1.0) for name in _LOGIT_OPTIONS)

    def asked(positions: torch.Tensor | None) -> dict[str, Any]:
        # With a cache, transformers takes position_ids that restart for one long text and masks nothing.
        return {"use_cache": False} | ({} if positions is None else {"position_ids": positions})

    if plain and body is not None and body is not model:
        return lambda tokens, at: body(input_ids=tokens, **asked(at)).last_hidden_state, head.weight, head.bias, head.weight.shape[0]
    return lambda tokens, at: model(input_ids=tokens, **asked(at)).logits, None, None, int(model.config.vocab_size)


def ngram_nats(model: Ngram, windows: Windowed) -> np.ndarray:
    """The same of an n-gram model of tokens, which sees what stands before in the window and nothing else: (W, T) float64."""
    return model.bits_of_rows(windows.tokens)[:, 1:] * math.log(2)


def measure(
    config: ProtocolConfig,
    model: torch.nn.Module,
    packed: PackedText,
    specials: np.ndarray,
    trigram: Callable[[Borders], Ngram] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """All that a config asks for, as plain values: `rows` of who ("model", "trigram"), borders, stride, and their `WindowScores`."""
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"length": config.length, "batch": config.batch, "rows": rows}
    for borders in config.borders:
        stream = Stream.of(packed, specials, borders)
        found |= {"tokens": int(stream.text.sum()), "bytes": stream.n_bytes, "bytes_per_token": stream.bytes_per_token}
        counted = trigram(borders) if trigram else None
        for stride in config.strides:
            windows = windows_of(stream, config.length, stride, batch=config.batch, max_tokens=config.max_tokens)
            nats = {"model": model_nats(model, windows, on_batch)}
            if counted is not None:
                nats["trigram"] = ngram_nats(counted, windows)
            for who, values in nats.items():
                scores = scores_of(values, windows.scored, config.batch, stream.bytes_per_token)
                rows.append({"who": who, "borders": borders, "stride": stride, **scores.to_json()})
    return found


def metrics_of(found: dict[str, Any]) -> dict[str, float]:
    """The figures of `measure` under names for metrics.jsonl: protocol_perplexity, protocol_disjoint_perplexity, protocol_trigram_...

    What is measured at the other borders than the first has them in its name.
    """
    metrics: dict[str, float] = {}
    first = found["rows"][0]["borders"] if found["rows"] else ""
    for row in found["rows"]:
        parts = ["protocol"]
        parts += ["trigram"] if row["who"] == "trigram" else []
        parts += ["disjoint"] if row["stride"] == found["length"] else []
        parts += [] if row["borders"] == first else [row["borders"]]
        name = "_".join(parts)
        values = {"perplexity": row["perplexity"], "bits_per_byte": row["bits_per_byte"]["value"]}
        metrics |= {f"{name}_{what}": value for what, value in values.items() if value is not None}
    return metrics


def trigram_of(documents: Iterable[np.ndarray], vocabulary: int, specials: tuple[int, int], borders: Borders) -> Ngram:
    """A Witten-Bell trigram of the ids of training documents. specials: ([bos], [eos]), put round each unless the borders are joined."""
    begin, end = specials
    pieces = [np.concatenate([[begin], ids, [end]]) if borders == "keep" else np.asarray(ids) for ids in documents if len(ids)]
    if not pieces:
        return Ngram.fit_tokens(np.zeros(0, np.int64), np.zeros(0, np.int64), vocabulary)
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    return Ngram.fit_tokens(np.concatenate(pieces), starts, vocabulary)
