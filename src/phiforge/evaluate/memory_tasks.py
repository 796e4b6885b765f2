"""Two tasks that ask for memory and for nothing else: recall of pairs, and copying. Generated, without end, from a seed.

Recall is multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927): N keys, each followed by its value, then every
key again in another order; at each the model must name the value. Copying is a string of random symbols, then the same string. A row is

    start  k1 v1 k2 v2 ... kN vN  ask  k7 k2 ...         recall; keys differ within a row, values are drawn freely
    start  s1 s2 ... sN           ask  s1 s2 ... s(N-1)  copy; the first symbol is asked for at `ask`

How much there is to remember is known exactly: N values of log2(values) bits. `most_accuracy` says what a memory of so many bits could
answer at best, so that a measured curve can be held against what no model of that state could exceed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from phiforge.core.seeds import derive

Kind = Literal["recall", "copy"]
KINDS: tuple[Kind, ...] = ("recall", "copy")
IGNORED = -100  # a target that is not asked for, as transformers has it
START, ASK, _SPECIAL = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """Ids 0 and 1 are `start` and `ask`; then the keys; then the values, which are the symbols of copying too."""

    keys: int
    values: int

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return _SPECIAL + self.keys + self.values

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the values."""
        return 1 / self.values

    def bits(self, size: int) -> float:
        """Bits that a row of `size` pairs or symbols asks to be kept."""
        return size * math.log2(self.values)


@dataclass(frozen=True)
class Batch:
    """Rows of one kind and size. Both arrays are (B, T) int64; `targets` holds IGNORED where nothing is asked."""

    tokens: np.ndarray
    targets: np.ndarray

    @property
    def asked(self) -> np.ndarray:
        """(B, T) bool, where an answer is asked for; the same columns in every row."""
        return self.targets != IGNORED


def row_length(kind: Kind, size: int) -> int:
    """Tokens in a row of `size` pairs (or symbols).

    >>> row_length("recall", 4), row_length("copy", 4)
    (14, 9)
    """
    return 2 + 3 * size if kind == "recall" else 1 + 2 * size


def make(kind: Kind, size: int, rows: int, alphabet: Alphabet, seed: int, *stream: str | int) -> Batch:
    """`rows` instances of `size` pairs (recall) or symbols (copy): the same for the same seed and stream name.

    Raises:
        ValueError: more pairs than there are keys.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "memory task", kind, size, *stream)))
    return _recall(random, size, rows, alphabet) if kind == "recall" else _copy(random, size, rows, alphabet)


def _recall(random: np.random.Generator, pairs: int, rows: int, alphabet: Alphabet) -> Batch:
    if pairs > alphabet.keys:
        raise ValueError(f"{pairs} pairs need as many keys, and there are {alphabet.keys}")
    keys = random.random((rows, alphabet.keys)).argsort(1)[:, :pairs] + _SPECIAL  # (B, N), all different within a row
    values = random.integers(0, alphabet.values, (rows, pairs)) + _SPECIAL + alphabet.keys
    order = random.random((rows, pairs)).argsort(1)
    tokens = np.empty((rows, row_length("recall", pairs)), np.int64)
    tokens[:, 0], tokens[:, 1 + 2 * pairs] = START, ASK
    tokens[:, 1 : 1 + 2 * pairs : 2], tokens[:, 2 : 2 + 2 * pairs : 2] = keys, values
    tokens[:, 2 + 2 * pairs :] = np.take_along_axis(keys, order, 1)
    targets = np.full_like(tokens, IGNORED)
    targets[:, 2 + 2 * pairs :] = np.take_along_axis(values, order, 1)
    return Batch(tokens, targets)


def _copy(random: np.random.Generator, length: int, rows: int, alphabet: Alphabet) -> Batch:
    symbols = random.integers(0, alphabet.values, (rows, length)) + _SPECIAL + alphabet.keys
    tokens = np.empty((rows, row_length("copy", length)), np.int64)
    tokens[:, 0], tokens[:, 1 + length] = START, ASK
    tokens[:, 1 : 1 + length], tokens[:, 2 + length :] = symbols, symbols[:, :-1]
    targets = np.full_like(tokens, IGNORED)
    targets[:, 1 + length :] = symbols
    return Batch(tokens, targets)


def most_accuracy(state_bits: float, size: int, values: int) -> float:
    """The best mean accuracy that `state_bits` of memory allow on `size` answers, each one of `values` equally likely ones.

    To answer right with probability p takes R(p) = log2 V - h(p) - (1 - p) log2(V - 1) bits an answer (rate-distortion function of a
    uniform source under Hamming distortion, Cover and Thomas 2006, section 10.3), so size * R(p) <= state_bits. No training gets past it.

    >>> most_accuracy(18_432, 128, 64), round(most_accuracy(0, 128, 64), 4)
    (1.0, 0.0156)
    """
    room = state_bits / size
    if room >= math.log2(values):
        return 1.0
    low, high = 1 / values, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _rate(middle, values) <= room else (low, middle)
    return low


def _rate(p: float, values: int) -> float:
    """Bits an answer that is right with probability p >= 1/V costs."""
    q = 1 - p
    entropy = -(p * math.log2(p) if p > 0 else 0.0) - (q * math.log2(q) if q > 0 else 0.0)
    return math.log2(values) - entropy - q * math.log2(values - 1)
