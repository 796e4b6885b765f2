"""Bits per byte by place in the text: does what lies far back help, and for how long?

A model that carries a state reads a document from its first token to its last in one stream, a chunk at a time, so that memory is the
same at token 100 and at token 100,000. A model with a context of T tokens is read whole up to T and in a sliding window beyond
(`windows.cut`): the bits are comparable, but what lies further back than T was not seen, and its bins are labelled so.

Later parts of a text may be easier or harder by themselves. So the stream is read a second time with the state emptied every `forget`
tokens: the difference between the two, token by token over the same text, is what the past beyond that is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from phiforge.evaluate.bits_per_byte import PackedText, token_losses
from phiforge.evaluate.score import Score, ratio_score

CHUNK = 256  # tokens of each row in one forward pass
_LOGITS = 1 << 22  # logits held at once


@dataclass(frozen=True)
class Excerpt:
    """Whole beginnings of documents, packed as [bos] tokens [eos]; `document_ids` are their numbers in the text they came from."""

    tokens: np.ndarray
    starts: np.ndarray
    n_bytes: int
    document_ids: tuple[int, ...]

    @property
    def lengths(self) -> np.ndarray:
        """(D,) text tokens of each document, bos and eos not counted."""
        return np.diff(np.append(self.starts, len(self.tokens))) - 2


@dataclass(frozen=True, kw_only=True)
class PlacedLosses:
    """-log P of each text token in nats, and where it stood. All arrays are (N,), document by document in reading order."""

    token: np.ndarray
    loss: np.ndarray
    position: np.ndarray  # text tokens before it in its document
    document: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Positions first..last (inclusive). `score`: bits per byte there. `gain`: bits per byte that the past before the last `forget` tokens
    saves (positive = it helps), where both readings were made. `how`: whole, or sliding (only the last T tokens were seen)."""

    first: int
    last: int
    score: Score
    how: str
    gain: Score | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = {"first": self.first, "last": self.last, "how": self.how, "bits_per_byte": self.score.to_json()}
        return found | ({"gain": self.gain.to_json()} if self.gain else {})


def carries_state(model: Any) -> bool:
    """Whether the model goes on from a state of constant size, so that its context has no end (transformers' `_is_stateful`)."""
    return bool(getattr(model, "_is_stateful", False))


def held_bytes(model: Any, tokens: int) -> int:
    """Bytes of the tensors that the model goes on from after reading `tokens` tokens of one row.

    For attention the keys and values of one token are measured and multiplied: they are the same for each.
    """
    with torch.no_grad():
        first = torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device)
        cache = model(input_ids=first, use_cache=True).past_key_values
    if carries_state(model):
        return int(cache.state.nbytes)
    return tokens * sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers)


def longest(packed: PackedText, documents: int, length: int) -> Excerpt:
    """The `documents` longest documents of a packed text (ties by order), each cut to its first `length` text tokens.

    `n_bytes` is 0: the bytes of a part are counted from its tokens.
    """
    starts = np.asarray(packed.starts, np.int64)
    ends = np.append(starts[1:], len(packed.tokens))
    text = ends - starts - 2
    order = np.argsort(-text, kind="stable")[:documents]
    chosen = np.sort(order[text[order] > 0])
    pieces, begins, at = [], [], 0
    for number in chosen.tolist():
        begins.append(at)
        keep = min(int(text[number]), length)
        piece = np.asarray(packed.tokens[starts[number] : starts[number] + keep + 1], np.int64)
        pieces += [piece, np.asarray(packed.tokens[ends[number] - 1 : ends[number]], np.int64)]
        at += keep + 2
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    return Excerpt(tokens, np.array(begins, np.int64), 0, tuple(chosen.tolist()))


def streamed(
    model: Any,
    excerpt: Excerpt,
    *,
    chunk: int = CHUNK,
    forget: int | None = None,
    on_tokens: Callable[[int], None] | None = None,
) -> PlacedLosses:
    """Losses of every text token, the state carried from the first to the last; `forget`: emptied before every so many tokens.

    The documents are read side by side, the longest one deciding how long it takes; a row leaves when its document ends. Nothing grows
    with the length but the losses themselves (4 bytes a token).
    """
    lengths = excerpt.lengths
    order = np.argsort(-lengths, kind="stable")
    found = [np.empty(n, np.float32) for n in lengths.tolist()]
    cache: Any = None
    with torch.no_grad():
        for at, rows, width in _chunks(lengths[order], chunk):
            ids = np.zeros((rows, width + 1), np.int64)
            for row, document in enumerate(order[:rows].tolist()):
                begin = int(excerpt.starts[document]) + at
                piece = excerpt.tokens[begin : begin + min(width, int(lengths[document]) - at) + 1]
                ids[row, : len(piece)] = piece
            if cache is not None and cache.state.shape[0] > rows:
                cache.batch_select_indices(torch.arange(rows))
            losses, cache = _read(model, torch.from_numpy(ids), at, cache, forget)
            for row, document in enumerate(order[:rows].tolist()):
                part = found[document][at : at + width]
                part[:] = losses[row, : len(part)]
                if on_tokens is not None:
                    on_tokens(len(part))
    return _placed(excerpt, found)


def _chunks(lengths: np.ndarray, chunk: int) -> Iterator[tuple[int, int, int]]:
    """(first position, rows that reach it, tokens) for documents sorted from long to short."""
    at = 0
    while at < int(lengths.max(initial=0)):
        yield at, int((lengths > at).sum()), min(chunk, int(lengths[0]) - at)
        at += chunk


def _read(model: Any, ids: torch.Tensor, at: int, cache: Any, forget: int | None) -> tuple[np.ndarray, Any]:
    """ids (B, n+1) -> losses (B, n) of the last n, and the state after the first n."""
    device = next(model.parameters()).device
    ids = ids.to(device)
    places = torch.arange(at, at + ids.shape[1] - 1, device=device)
    places = (places % forget if forget else places).expand(len(ids), -1)
    piece = max(1, _LOGITS // (len(ids) * int(model.config.vocab_size)))
    losses = []
    for low in range(0, ids.shape[1] - 1, piece):
        high = min(low + piece, ids.shape[1] - 1)
        out = model(input_ids=ids[:, low:high], position_ids=places[:, low:high], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        losses.append(F.cross_entropy(out.logits.float().flatten(0, 1), ids[:, low + 1 : high + 1].flatten(), reduction="none"))
        losses[-1] = losses[-1].view(len(ids), -1)
    return torch.cat(losses, 1).cpu().numpy(), cache


def windowed(model: Any, excerpt: Excerpt, *, context_length: int, stride: int | None = None, **options: Any) -> PlacedLosses:
    """The same of a model that sees `context_length` tokens at most: whole up to there, in a sliding window beyond."""
    losses = token_losses(model, excerpt, context_length=context_length, stride=stride, **options)
    bounds = np.cumsum(excerpt.lengths)[:-1]
    return _placed(excerpt, np.split(losses.loss, bounds))


def _placed(excerpt: Excerpt, losses: list[np.ndarray]) -> PlacedLosses:
    lengths = excerpt.lengths.tolist()
    text = [excerpt.tokens[start + 1 : start + 1 + n] for start, n in zip(excerpt.starts.tolist(), lengths, strict=True)]
    nothing: list[np.ndarray] = [np.zeros(0, np.int64)]
    return PlacedLosses(
        token=np.concatenate(nothing + text),
        loss=np.concatenate([np.zeros(0, np.float32), *losses]),
        position=np.concatenate(nothing + [np.arange(n) for n in lengths]),
        document=np.concatenate(nothing + [np.full(n, i) for i, n in enumerate(lengths)]),
    )


def edges(longest_position: int, first: int = 16) -> list[int]:
    """Borders of bins that double: 0, 16, 32, 64, ... up to the one past the last position.

    >>> edges(100)
    [0, 16, 32, 64, 100]
    """
    found = [0, first]
    while found[-1] * 2 < longest_position:
        found.append(found[-1] * 2)
    return [*found, longest_position] if longest_position > found[-1] else [0, longest_position]


def by_position(
    losses: PlacedLosses,
    token_bytes: np.ndarray,
    borders: list[int],
    *,
    context_length: int | None = None,
    forgetful: PlacedLosses | None = None,
) -> list[Bin]:
    """Bits per byte in each bin, with standard errors over documents (or blocks of them, see `score`).

    token_bytes (V,). context_length: what the model sees at most; none = all. forgetful: the same text read with the state emptied.
    Bins without bytes are left out.
    """
    size = token_bytes[losses.token].astype(np.float64)
    bits = losses.loss.astype(np.float64) / math.log(2)
    more = None if forgetful is None else forgetful.loss.astype(np.float64) / math.log(2) - bits
    found = []
    for low, high in pairwise(borders):
        here = (losses.position >= low) & (losses.position < high)
        total = float(size[here].sum())
        if not total:
            continue
        document = losses.document[here]
        score = ratio_score(bits[here], size[here], document, n=round(total))
        gain = None if more is None else ratio_score(more[here], size[here], document, n=round(total))
        sliding = context_length is not None and high > context_length
        found.append(Bin(first=low, last=high - 1, score=score, how="sliding" if sliding else "whole", gain=gain))
    return found
