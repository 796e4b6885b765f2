"""Choosing tokens: pure functions on logits (B, V).

`warp` is the plain form, in transformers' order (repetition penalty, temperature, top-k, top-p, min-p), and gives logits with -inf where a
token is ruled out. `sample` draws from the same distribution without ever sorting the vocabulary: everything that is kept after top-k,
top-p or min-p is a prefix of the tokens in falling order of probability, so a short top-k and one cumulative sum are enough. A draw uses
one uniform number a row (inverse of the cumulative distribution), which the caller takes from the row's own stream: what a row samples
does not depend on its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phiforge.generate.config import SamplingConfig

_PREFIX = 64  # tokens looked at first when top-p or min-p stands alone; grows until the kept set is inside


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens in `seen` (B, V, bool) less likely (penalty > 1): positive logits are divided, negative ones multiplied (CTRL,
    1909.05858).
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the k largest logits of each row (ties with the k-th stay)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[:, -1:], -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probabilities sum to at least p (nucleus sampling, 1904.09751)."""
    if p >= 1:
        return logits
    values, order = logits.sort(dim=-1, descending=True)
    probabilities = values.softmax(-1)
    above = probabilities.cumsum(-1) - probabilities  # probability of everything likelier
    drop = above >= p
    drop[:, 0] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Rule out tokens less likely than p times the likeliest (2407.01082)."""
    if p <= 0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def warp(logits: Tensor, config: SamplingConfig, seen: Tensor | None = None) -> Tensor:
    """Logits after every setting, -inf where ruled out: the reference form. With temperature 0 only the likeliest token is left."""
    if seen is not None and config.repetition_penalty != 1:
        logits = repetition_penalty(logits, seen, config.repetition_penalty)
    if config.greedy:
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
        return logits.masked_fill(~best, -torch.inf)
    logits = logits / config.temperature
    return min_p(top_p(top_k(logits, config.top_k), config.top_p), config.min_p)


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The index (B,) where the cumulative sum of `probabilities` (B, V), any positive scale, passes `uniforms` (B,) in [0, 1)."""
    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # A target rounded up to the total would fall off the end: the last token with any probability is the largest index allowed.
    return torch.searchsorted(cumulative, torch.minimum(target, cumulative[:, -1:].nextafter(target.new_zeros(()))), right=True).squeeze(-1)


def _prefix_pick(values: Tensor, probabilities: Tensor, config: SamplingConfig, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The place (B,) of the drawn token among tokens sorted by falling probability, and how many were kept (B,)."""
    cumulative = probabilities.cumsum(-1)
    keep = torch.ones_like(values, dtype=torch.bool)
    if config.top_p < 1:
        keep &= cumulative - probabilities < config.top_p
    if config.min_p > 0:
        keep &= probabilities >= config.min_p * probabilities[:, :1]
    kept = keep.sum(-1).clamp_min(1)
    total = cumulative.gather(-1, kept[:, None] - 1)
    place = (cumulative <= uniforms[:, None] * total).sum(-1)
    return torch.minimum(place, kept - 1), kept


def sample(logits: Tensor, config: SamplingConfig, uniforms: Tensor | None, seen: Tensor | None = None) -> Tensor:
    """One token a row, (B,), from the distribution that `warp` describes.

    `uniforms` (B,) in [0, 1) is the only randomness; it is not used when greedy. Of tokens that tie with the k-th largest logit, exactly
    enough to make k are kept (`warp` keeps all of them, as transformers does).
    """
    if seen is not None and config.repetition_penalty != 1:
        logits = repetition_penalty(logits, seen, config.repetition_penalty)
    if config.greedy:
        return logits.argmax(-1)
    if uniforms is None:
        raise ValueError("sample() needs one uniform number a row unless temperature is 0")
    vocabulary = logits.shape[-1]
    scores = logits.float() / config.temperature
    if 0 < config.top_k < vocabulary:
        values, order = scores.topk(config.top_k, dim=-1)
        place, _ = _prefix_pick(values, values.softmax(-1), config, uniforms)
        return order.gather(-1, place[:, None]).squeeze(-1)
    probabilities = scores.softmax(-1)
    if config.top_p >= 1 and config.min_p <= 0:
        return invert(probabilities, uniforms)
    size = min(_PREFIX, vocabulary)
    while True:
        values, order = probabilities.topk(size, dim=-1)
        place, kept = _prefix_pick(values, values, config, uniforms)
        if size == vocabulary or bool((kept < size).all()):
            return order.gather(-1, place[:, None]).squeeze(-1)
        size = min(size * 4, vocabulary)
