"""Near duplicates: documents that repeat an earlier one with some words changed, added or left out.

A document's signature is one row of small numbers (MinHash, Broder 1997, in rensa's form): the share of numbers that two rows agree in
estimates the share of word 5-grams that two texts have in common. Rows that agree in three numbers in a row are looked at (banding), and
what the whole rows say decides. Rows live in a memory-mapped file, so millions of documents need some hundred bytes each in memory.

Two texts are near duplicates at threshold t when they share t of their 5-grams (Jaccard) or, being at least 40 words long, 0.94 t of
their pairs of neighbouring words (Dice). The second finds a text with one word in ten changed, which keeps four fifths of its pairs and
half of its 5-grams. It also means that of two texts of one length with three quarters in common the later goes; two that share half of
their text, a licence or a preface, both stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phiforge.data.words import grams, mix, words

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = 5  # in a shingle: Lee et al. 2022 (arXiv 2107.06499), Penedo et al. 2024 (arXiv 2406.17557)
FIVES, PAIRS = 256, 128  # numbers of a row for 5-grams and for pairs; powers of two, for which rensa is fastest
COLUMNS = 1 + FIVES + PAIRS  # the first is the number of words
DTYPE = np.uint16
VERSION = 1  # of what a row means: rows of two versions can't be compared
_BAND = 3  # numbers in a row that must agree: texts that share .42 of their 5-grams (one word in ten changed) agree so in some band
_ROUNDS = 32  # documents of one bucket that the others are compared with
_LONG = 40  # words from which pairs are evidence
_PAIR_SHARE = 0.94
_UNSURE = 0.06  # two standard errors of an estimate: so near the border the texts themselves are compared, where they are at hand
_SEED = 42
_SLICE = 1 << 14  # rows at a time

Rows = NDArray[np.uint16]


def signature(text: str) -> Rows | None:
    """The (COLUMNS,) row of a text; None where it has fewer than WORDS words.

    Case, punctuation, accents, line ends and hyphenation don't change it (`data.words`), nor does the machine or the process.
    """
    import rensa

    hashes = words(text).hashes
    if len(hashes) < WORDS:
        return None
    row = np.empty(COLUMNS, DTYPE)
    row[0] = min(len(hashes), 0xFFFF)
    at = 1
    for n, count in ((WORDS, FIVES), (2, PAIRS)):
        shingles = grams(hashes, n)
        least = rensa.RMinHash.digest_matrix_from_flat_token_hashes(shingles, [0, len(shingles)], count, _SEED).to_rows()[0]
        row[at : at + count] = mix(np.array(least, np.uint64)) >> np.uint64(48)  # 16 of 32 bits: 1 in 65,536 agree by chance
        at += count
    return row


def empty() -> Rows:
    """The row of a text without signature: it repeats nothing and nothing repeats it."""
    return np.zeros(COLUMNS, DTYPE)


def near_duplicates(
    signatures: Rows | Sequence[Rows], threshold: float = 0.8, *, text: Callable[[int], str] | None = None
) -> NDArray[np.int64]:
    """For each of N documents the index of the earlier one that it nearly repeats, or -1: (N,).

    `signatures`: (N, COLUMNS) in the corpus' order, an array or a memory-mapped file. What a document repeats is itself kept, and is the
    first of its kind; so the result depends on the order of the documents and on nothing else. With `text`, which gives the text of a
    document by its index, pairs at the border are decided by their texts instead of the estimate.
    Memory: some 50 bytes a document and one block of rows.
    """
    rows = (
        signatures
        if isinstance(signatures, np.ndarray)
        else np.stack(list(signatures))
        if len(signatures)
        else np.zeros((0, COLUMNS), DTYPE)
    )
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or rows.dtype != DTYPE:
        raise ValueError(f"signatures of shape {rows.shape} {rows.dtype}: ({COLUMNS},) {DTYPE.__name__} a document, version {VERSION}")
    same = _Same(rows, threshold, text)
    repeats = np.full(len(rows), -1, np.int64)
    alive = np.flatnonzero(rows[:, 0])
    for keys in _bands(rows, alive):
        for first, later in _pairs(keys, alive, repeats, same):
            repeats[later] = first
    return _to_kept(repeats, same)


def shares(a: str, b: str) -> tuple[float, float]:
    """What two texts have in common: of the 5-grams that either has (Jaccard), of the pairs of words that each has (Dice)."""
    left, right = words(a).hashes, words(b).hashes
    fives, all_fives, _ = _common(left, right, WORDS)
    pairs, _, both_pairs = _common(left, right, 2)
    return fives / max(1, all_fives), 2 * pairs / max(1, both_pairs)


def _common(a: NDArray[np.uint64], b: NDArray[np.uint64], n: int) -> tuple[int, int, int]:
    left, right = np.unique(grams(a, n)), np.unique(grams(b, n))
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common, len(left) + len(right) - common, len(left) + len(right)


class _Same:
    """Whether documents are near duplicates, by their rows."""

    def __init__(self, rows: Rows, threshold: float, text: Callable[[int], str] | None) -> None:
        self._rows, self._threshold, self._text = rows, threshold, text

    def __call__(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(M,) for M pairs of indices."""
        verdict = np.zeros(len(a), bool)
        for low in range(0, len(a), _SLICE):
            part = slice(low, low + _SLICE)
            left, right = self._rows[a[part]], self._rows[b[part]]
            agree = left == right
            fives = agree[:, 1 : 1 + FIVES].mean(axis=1)
            pairs = agree[:, 1 + FIVES :].mean(axis=1)
            pairs = 2 * pairs / (1 + pairs)
            long = np.minimum(left[:, 0], right[:, 0]) >= _LONG
            verdict[part] = self._alike(fives, pairs, long)
            if self._text is not None:
                unsure = self._alike(fives + _UNSURE, pairs + _UNSURE, long) & ~self._alike(fives - _UNSURE, pairs - _UNSURE, long)
                for at in np.flatnonzero(unsure):
                    exact = shares(self._text(int(a[low + at])), self._text(int(b[low + at])))
                    verdict[low + at] = self._alike(exact[0], exact[1], long[at])
        return verdict

    def _alike(self, fives: Any, pairs: Any, long: Any) -> Any:
        return (fives >= self._threshold) | (long & (pairs >= _PAIR_SHARE * self._threshold))


def _bands(rows: Rows, documents: NDArray[np.int64]) -> Iterator[NDArray[np.uint64]]:
    """Of every band in turn: its numbers as one key, for each of `documents`. The rows are read once for eight bands."""
    starts = list(range(1, 1 + FIVES - _BAND + 1, _BAND))
    for at in range(0, len(starts), 8):
        block = starts[at : at + 8]
        keys = np.zeros((len(block), len(documents)), np.uint64)
        for low in range(0, len(documents), _SLICE):
            part = slice(low, low + _SLICE)
            some = rows[documents[part], block[0] : block[-1] + _BAND].astype(np.uint64)
            for number in range(len(block)):
                first, second, third = (some[:, number * _BAND + i] for i in range(_BAND))
                keys[number, part] = first << np.uint64(32) | second << np.uint64(16) | third
        yield from keys


def _pairs(
    keys: NDArray[np.uint64], documents: NDArray[np.int64], repeats: NDArray[np.int64], same: _Same
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(earlier, later) that have a key in common and are the same; documents that already repeat one stay out of it.

    In each bucket all are compared with the first; those unlike it with the first of themselves, and so on: a bucket of many documents
    with one licence text costs rounds x documents, not their square.
    """
    free = repeats[documents] < 0
    keys, documents = keys[free], documents[free]
    order = np.argsort(keys, kind="stable")  # stable: in a bucket documents stay in their order
    keys, documents = keys[order], documents[order]
    for _ in range(_ROUNDS):
        begins = np.ones(len(keys), bool)
        begins[1:] = keys[1:] != keys[:-1]
        bucket = np.cumsum(begins) - 1
        first = np.flatnonzero(begins)[bucket] if len(keys) else bucket
        others = np.flatnonzero(~begins)
        if not len(others):
            return
        a, b = documents[first[others]], documents[others]
        alike = same(a, b)
        yield a[alike], b[alike]
        keys, documents = keys[others[~alike]], documents[others[~alike]]


def _to_kept(repeats: NDArray[np.int64], same: _Same) -> NDArray[np.int64]:
    """Chains end at a document that is kept, and only where the last is like it; otherwise it is kept itself."""
    for at in np.flatnonzero(repeats >= 0):
        first = repeats[at]
        if repeats[first] >= 0:
            root = repeats[first]
            repeats[at] = root if same(np.array([root]), np.array([at]))[0] else -1
    return repeats
