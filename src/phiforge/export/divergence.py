"""How far two models' predictions are apart: pure functions of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Divergence:
    """Distances between a reference p and a candidate q over n positions.

    next_token: largest |log p(x) - log q(x)| of the token x that comes next in the text. any_token: the same over every token that
    the reference gives at least 1e-4, so that what never happens does not decide. kl: mean KL(p || q) in nats.
    top1: share of positions at which both find the same token likeliest. entropy: mean of p's, in nats: what there was to agree on.
    """

    positions: int
    next_token: float
    any_token: float
    worst: int
    kl: float
    top1: float
    entropy: float


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities (T, V) in double precision."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32], following: NDArray[np.int64], chunk: int = 64) -> Divergence:
    """Compare logits (T, V) of the same text; `following` (T,) is the token after each position.

    >>> compare(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), np.array([2])).kl
    0.0
    """
    count = len(reference)
    next_gap, any_gap, kl, entropy, same = np.empty(count), np.empty(count), np.empty(count), np.empty(count), np.empty(count, bool)
    for start in range(0, count, chunk):
        part = slice(start, min(start + chunk, count))
        p, q = log_softmax(reference[part]), log_softmax(candidate[part])
        rows = np.arange(len(p))
        gap = np.abs(p - q)
        next_gap[part] = gap[rows, following[part]]
        any_gap[part] = np.where(p >= np.log(1e-4), gap, 0.0).max(axis=-1)
        weight = np.exp(p)
        kl[part], entropy[part] = (weight * (p - q)).sum(axis=-1), -(weight * p).sum(axis=-1)
        same[part] = p.argmax(axis=-1) == q.argmax(axis=-1)
    largest = np.nan_to_num(next_gap, nan=np.inf)
    return Divergence(
        count,
        float(largest.max()),
        float(any_gap.max()),
        int(largest.argmax()),
        float(kl.mean()),
        float(same.mean()),
        float(entropy.mean()),
    )
