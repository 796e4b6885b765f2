"""An n-gram model over bytes, or over tokens, with Witten-Bell smoothing: the baseline that a trained model has to beat.

Witten and Bell 1991, method C, interpolated (Chen and Goodman 1998, section 2.4):

    P(c | h) = (C(hc) + T(h) P(c | h')) / (C(h) + T(h))

C(hc) counts byte c after context h, C(h) is the sum of C(hc) over c, T(h) how many different bytes were seen after h, h' is h without
its first byte; below the empty context stands the uniform 1/256 (of tokens: 1/vocabulary). A context never seen passes the question to
the shorter one unchanged.
Documents do not see each other: the first bytes of a document are counted and scored with as much context as there is.

`Ngram` counts by sorting 64-bit codes with numpy; `reference_bits` at the end is the formula written down with dictionaries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phiforge.core.errors import ConfigError

MAX_ORDER = 8  # a gram is one unsigned 64-bit number
_CHUNK = 1 << 20  # positions handled at once when scoring: bounds the temporaries


@dataclass(frozen=True)
class _Table:
    """The grams of one order seen in training, ascending, with what is known of each."""

    grams: np.ndarray  # (G,) unsigned codes, most significant byte first
    counts: np.ndarray  # (G,) int64, C(hc)
    totals: np.ndarray  # (G,) int64, C(h) with this gram as the context h of the next order; 0 = never continued
    types: np.ndarray  # (G,) int64, T(h) likewise


class Ngram:
    """Counts of a training text; `bits` scores another. `symbols`: how many different ones there are, 256 for bytes.

    >>> model = Ngram.fit([b"abracadabra"], order=3)
    >>> round(float(model.bits([b"abra"]).sum()), 3) == round(float(reference_bits([b"abracadabra"], [b"abra"], 3).sum()), 3)
    True
    """

    def __init__(self, order: int, tables: list[_Table], n_bytes: int, symbols: int = 256) -> None:
        self.order = order
        self.tables = tables
        self.n_bytes = n_bytes
        self.symbols = symbols

    @classmethod
    def fit(cls, documents: Sequence[bytes], order: int = 5) -> Ngram:
        """Count the grams of `documents` up to `order` bytes. About 24 bytes of memory for each byte of text at the peak.

        Raises:
            ConfigError: order outside 1..8.
        """
        if not 1 <= order <= MAX_ORDER:
            raise ConfigError(f"an n-gram order of {order} is outside 1 to {MAX_ORDER}", fix="use 5 unless you have a reason")
        return cls._fit(*_join(documents), order, 256)

    @classmethod
    def fit_tokens(cls, tokens: np.ndarray, starts: np.ndarray, vocabulary: int, order: int = 3) -> Ngram:
        """The same over token ids. tokens: (N,) ids below `vocabulary`; starts: (D,) where each document begins.

        Raises:
            ConfigError: grams of that order don't fit 64 bits (order 3 does up to a vocabulary of 2 million).
        """
        if order < 1 or order * _width(vocabulary) > 64:
            most = 64 // _width(vocabulary)
            raise ConfigError(f"an n-gram order of {order} is outside 1 to {most} for a vocabulary of {vocabulary:,}", fix="use 3")
        return cls._fit(np.asarray(tokens), places_of(starts, len(tokens)), order, vocabulary)

    @classmethod
    def _fit(cls, text: np.ndarray, places: np.ndarray, order: int, symbols: int) -> Ngram:
        width = _width(symbols)
        counted = [_count(_codes(text, places, k, width)) for k in range(1, order + 1)]
        tables = []
        for k, (grams, counts) in enumerate(counted, start=1):
            totals, types = np.zeros(len(grams), np.int64), np.zeros(len(grams), np.int64)
            if k < order and len(counted[k][0]):
                above, above_counts = counted[k]
                first = _run_starts(above >> above.dtype.type(width))
                # every context of order k+1 is itself a gram of order k, so the search always lands on its own entry
                at = np.searchsorted(grams, (above[first] >> above.dtype.type(width)).astype(grams.dtype))
                totals[at] = np.add.reduceat(above_counts, first)
                types[at] = np.diff(np.append(first, len(above)))
            tables.append(_Table(grams, counts, totals, types))
        return cls(order, tables, len(text), symbols)

    def bits(self, documents: Sequence[bytes]) -> np.ndarray:
        """-log2 P of every byte of every document, in reading order: (N,) float64."""
        return self._all_bits(*_join(documents))

    def bits_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """-log2 P of every token of rows (W, T), each read on its own, so that its first token has no context: (W, T) float64."""
        places = np.broadcast_to(np.minimum(np.arange(rows.shape[1]), 255).astype(np.uint8), rows.shape)
        return self._all_bits(np.asarray(rows).ravel(), places.ravel()).reshape(rows.shape)

    def bits_of_tokens(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """-log2 P of every token of documents that begin at `starts`: (N,) float64."""
        return self._all_bits(np.asarray(tokens), places_of(starts, len(tokens)))

    def _all_bits(self, text: np.ndarray, places: np.ndarray) -> np.ndarray:
        out = np.empty(len(text), np.float64)
        for start in range(0, len(text), _CHUNK):
            stop = min(start + _CHUNK, len(text))
            lead = max(0, start - self.order)  # the context of the chunk's first bytes, and the gram before them
            out[start:stop] = self._bits(text[lead:stop], places[lead:stop])[start - lead :]
        return out

    def _bits(self, text: np.ndarray, places: np.ndarray) -> np.ndarray:
        """`bits` of one piece; places (N,) = how many bytes of the same document stand before each byte."""
        first = self.tables[0]
        total, types = first.counts.sum(), len(first.grams)
        p = np.full(len(text), 1.0 / self.symbols)
        context_total = np.full(len(text), total, np.int64)
        context_types = np.full(len(text), types, np.int64)
        for k, table in enumerate(self.tables, start=1):
            at, found = _find(table.grams, _windows(text, k, _width(self.symbols)))
            found = found & (places >= k - 1)
            known = context_total > 0
            count = np.where(found, table.counts[at], 0) if len(table.counts) else np.zeros(len(text), np.int64)
            p = np.where(known, (count + context_types * p) / np.maximum(context_total + context_types, 1), p)
            if k == self.order or not len(table.grams):
                break
            # the context of a byte at order k+1 is the gram of order k that ends one byte earlier
            context_total = np.where(found, table.totals[at], 0)
            context_types = np.where(found, table.types[at], 0)
            for array in (context_total, context_types):
                array[1:] = array[:-1]
                array[:1] = 0
                array[places < k] = 0
        return -np.log2(p)


def _join(documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes in one array (N,) uint8, and for each how many bytes of its own document stand before it, cut off at 255: (N,) uint8."""
    text = np.frombuffer(b"".join(documents), np.uint8)
    places = np.full(len(text), 255, np.uint8)
    at = 0
    for document in documents:
        head = min(len(document), 255)
        places[at : at + head] = np.arange(head)
        at += len(document)
    return text, places


def places_of(starts: np.ndarray, n: int) -> np.ndarray:
    """(n,) uint8: how many symbols of the same document stand before each, cut off at 255. starts: (D,), ascending."""
    starts = np.asarray(starts, np.int64)
    lengths = np.diff(np.append(starts, n))
    return np.minimum(np.arange(n) - np.repeat(starts, lengths), 255).astype(np.uint8)


def _width(symbols: int) -> int:
    """Bits that hold one symbol."""
    return max(1, (symbols - 1).bit_length())


def _windows(text: np.ndarray, k: int, width: int = 8) -> np.ndarray:
    """(N,) code of the k symbols that end at each place; at the first k - 1 places the missing ones count as zero (callers mask them)."""
    codes = np.zeros(len(text), np.uint32 if k * width <= 32 else np.uint64)
    for start in range(0, len(text), _CHUNK):
        stop = min(start + _CHUNK, len(text))
        for back in range(k):
            low = max(start, back)
            piece = text[low - back : stop - back].astype(codes.dtype)
            np.bitwise_or(codes[low:stop], piece << codes.dtype.type(width * back), out=codes[low:stop])
    return codes


def _codes(text: np.ndarray, places: np.ndarray, k: int, width: int) -> np.ndarray:
    """The codes of all grams of k symbols that lie within one document."""
    codes = _windows(text, k, width)
    return codes if k == 1 else codes[places >= k - 1]


def _run_starts(ordered: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins in an ascending array."""
    if not len(ordered):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


def _count(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct codes, ascending, and how often each occurs. Sorts `codes` in place."""
    codes.sort()
    first = _run_starts(codes)
    return codes[first], np.diff(np.append(first, len(codes)))


def _find(table: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each wanted code in the ascending table (0 where absent), and whether it is there."""
    if not len(table):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(wanted)  # ascending questions walk the table once instead of missing the cache at every step
    at = np.empty(len(wanted), np.int64)
    at[order] = np.searchsorted(table, wanted[order])
    at[at == len(table)] = 0
    return at, table[at] == wanted


def reference_bits(train: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]], order: int, symbols: int = 256) -> np.ndarray:
    """The formula at the head of this file, one symbol at a time: what `Ngram` is held to. Slow."""
    counts: list[dict[tuple[int, ...], dict[int, int]]] = [defaultdict(lambda: defaultdict(int)) for _ in range(order)]
    for document in train:
        for i, byte in enumerate(document):
            for k in range(min(i, order - 1) + 1):
                counts[k][tuple(document[i - k : i])][byte] += 1
    out = []
    for document in held_out:
        for i, byte in enumerate(document):
            p = 1.0 / symbols
            for k in range(min(i, order - 1) + 1):
                seen = counts[k].get(tuple(document[i - k : i]))
                if seen:
                    p = (seen.get(byte, 0) + len(seen) * p) / (sum(seen.values()) + len(seen))
            out.append(-np.log2(p))
    return np.array(out)
