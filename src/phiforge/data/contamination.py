"""Evaluation items in training text: found by 13 words in a row, so that no score is measured on what was trained on.

The rule is that of Brown et al. 2020 (arXiv 2005.14165, appendix C): a document that holds 13 words of an item in a row is contaminated. An
item shorter than that counts where the whole of it appears, if it has at least 5 words; items of fewer can't be told from chance and are
counted as unchecked. Words are compared as `data.words` sees them, whatever case, punctuation, line ends and hyphenation.

13 words that more than 10 items of one set share are the set's own wording ("Choose the correct answer to the question ..."), no item; they
count only for an item that has nothing else. Short documents go whole; of a long one, a book, only the passage and 200 characters on
either side are cut out, as that paper does, and a long document that falls into more than 10 pieces goes too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.core.errors import DataError
from phiforge.data.evaluation_items import Item, find_items, item_files
from phiforge.data.words import Hashes, Words, grams, spans, words

WORDS = 13  # in a row
LEAST = 5  # words of an item that can be looked for
LONG = 20_000  # characters: a longer document loses passages, a shorter one goes
MARGIN = 200  # characters cut out on either side of a passage
PIECES = 10  # a long document that falls into more goes whole
_STRONG = 4  # words of two letters and more in a passage: 0 1 2 3 4 ... is in many texts
# Marks that may have been made blanks in a copy
_APOSTROPHES, _HYPHENS, _POINTS = "'’ʼ", "-\u00ad\u2010\u2011", ".,:"
_TABLES = [str.maketrans(dict.fromkeys(marks, " ")) for marks in (_APOSTROPHES, _HYPHENS, _POINTS, _APOSTROPHES + _HYPHENS + _POINTS)]
_INNER = re.compile(r"(?<=\w)[^\w\s]+(?=\w)|_")  # or left out: 100°C, and/or, x=3
_TEMPLATE = 10  # items of a set that share a passage, from which on it is the set's wording
_BITS = 32  # of the filter for each passage: 1 word in 32 is looked at twice

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Hit:
    """An item in a text: which, and from which character to which."""

    set: str
    item: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.set}, {self.item}"


@dataclass(frozen=True, slots=True)
class _Table:
    """Passages as sorted keys with the number of an item each, and a filter that most other passages don't pass."""

    keys: Hashes
    items: Indices
    filter: NDArray[np.uint8]
    shift: int

    @classmethod
    def of(cls, keys: Hashes, items: Indices) -> _Table:
        keys, first = np.unique(keys, return_index=True)
        width = max(10, int(len(keys) * _BITS).bit_length())
        table = np.zeros(1 << (width - 3), np.uint8)
        at = (keys >> np.uint64(64 - width)).astype(np.int64)
        np.bitwise_or.at(table, at >> 3, (1 << (at & 7)).astype(np.uint8))
        return cls(keys, items[first], table, 64 - width)

    def find(self, keys: Hashes) -> tuple[NDArray[np.int64], Indices]:
        """Where in `keys` a passage stands, and of which item."""
        if not len(self.keys) or not len(keys):
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        at = (keys >> np.uint64(self.shift)).astype(np.int64)
        maybe = np.flatnonzero(self.filter[at >> 3] >> (at & 7).astype(np.uint8) & 1)
        place = np.minimum(np.searchsorted(self.keys, keys[maybe]), len(self.keys) - 1)
        right = self.keys[place] == keys[maybe]
        return maybe[right], self.items[place[right]]


@dataclass
class EvaluationSet:
    """The items of one or more evaluation sets, ready to be looked for. Can be sent to other processes."""

    names: list[tuple[str, str]]  # (set, item) of each number
    sets: dict[str, dict[str, int]]  # for the report: items, and how many were too short
    passages: _Table
    beginnings: _Table  # the first LEAST words of short items
    short: dict[int, _Table] = field(default_factory=dict)  # by number of words

    @classmethod
    def from_paths(cls, paths: Sequence[str | Path]) -> EvaluationSet:
        """Read files and folders (.jsonl, .json, .csv, .tsv, .txt, each also .gz and .zst).

        Raises DataError for what can't be read, and where there is nothing to look for.
        """
        evaluation = cls.of((str(path), find_items(path)) for path in item_files(paths))
        if not len(evaluation.passages.keys) and not evaluation.short:
            raise DataError(
                f"{', '.join(map(str, paths))}: no item of at least {LEAST} words to check against",
                fix="give .jsonl, .json, .csv or .txt files with questions or texts in them",
            )
        return evaluation

    @classmethod
    def of(cls, sets: Iterable[tuple[str, Iterable[Item]]]) -> EvaluationSet:
        """From (name, items) of each set."""
        names: list[tuple[str, str]] = []
        report: dict[str, dict[str, int]] = {}
        long: list[_Found] = []
        whole: list[tuple[int, Hashes, Indices]] = []  # length, keys, items
        starts: list[Hashes] = []
        for name, items in sets:
            first = len(names)
            texts = []
            for item in items:
                texts += [(len(names), asks, text.replace("\0", " ")) for text, asks in item.texts]
                names.append((name, item.name))
            read = [_read(texts)]
            for spell in _SPELLINGS:
                again = [(number, asks, spell(text)) for number, asks, text in texts]
                read.append(_read([new for new, old in zip(again, texts, strict=True) if new[2] != old[2]]))
            passages = _Found.joined([found for found, _ in read]).without_templates()
            briefs = [brief for _, some in read for brief in some]
            long.append(passages)
            whole += [(length, keys, numbers) for length, keys, _, numbers in briefs]
            starts += [begins for _, _, begins, _ in briefs]
            checked = set(passages.items.tolist()).union(*(numbers.tolist() for *_, numbers in briefs))
            report[name] = {"items": len(names) - first, "too_short": len(names) - first - len(checked)}
        passages = _Found.joined(long)
        tables = {}
        for length in sorted({length for length, _, _ in whole}):
            of_length = [(keys, numbers) for n, keys, numbers in whole if n == length]
            tables[length] = _Table.of(*(np.concatenate(column) for column in zip(*of_length, strict=True)))
        begins = np.concatenate(starts) if starts else np.zeros(0, np.uint64)
        return cls(names, report, _Table.of(passages.keys, passages.items), _Table.of(begins, np.zeros(len(begins), np.int32)), tables)

    @property
    def sha256(self) -> str:
        """Of everything that is looked for: equal sets find the same."""
        digest = hashlib.sha256()
        for table in (self.passages, *self.short.values()):
            digest.update(table.keys.tobytes())
        return digest.hexdigest()

    def report(self) -> dict[str, Any]:
        """Items by set, with the number of those that are too short to be looked for; passages in all."""
        passages = len(self.passages.keys) + sum(len(table.keys) for table in self.short.values())
        return {"sets": self.sets, "items": len(self.names), "passages": passages}

    def hit(self, text: str, found: Words | None = None) -> Hit | None:
        """The first item that `text` holds, if any. `found`: its words, where they are at hand."""
        hits = self.hits(text, found)
        return hits[0] if hits else None

    def hits(self, text: str, found: Words | None = None) -> list[Hit]:
        """All passages of `text` that belong to items, in order, those that touch as one."""
        found = words(text) if found is None else found
        hashes = found.hashes
        marks: list[tuple[int, int, int]] = []  # first word, word behind the last, item
        at, items = self.passages.find(grams(hashes, WORDS))
        if len(at):
            flags = np.zeros(len(hashes), bool)
            flags[at] = True
            owner = dict(zip(at.tolist(), items.tolist(), strict=True))
            marks += [(first, end, owner[first]) for first, end in spans(flags, WORDS)]
        marks += self._short_ones(hashes)
        hits: list[Hit] = []
        for first, end, number in sorted(marks):
            start, stop = int(found.starts[first]), int(found.ends[end - 1])
            if hits and start <= hits[-1].end:
                hits[-1] = Hit(hits[-1].set, hits[-1].item, hits[-1].start, max(stop, hits[-1].end))
            else:
                hits.append(Hit(*self.names[number], start, stop))
        return hits

    def _short_ones(self, hashes: Hashes) -> list[tuple[int, int, int]]:
        if not self.short:
            return []
        marks = []
        begins, _ = self.beginnings.find(grams(hashes, LEAST))
        for length, table in self.short.items():
            inside = begins[begins + length <= len(hashes)]
            if len(inside):
                rows = hashes[inside[:, None] + np.arange(length)]
                keys = np.array([grams(row, length)[0] for row in rows], np.uint64)
                at, items = table.find(keys)
                marks += [(int(inside[i]), int(inside[i]) + length, int(item)) for i, item in zip(at, items, strict=True)]
        return marks


def decontaminate(text: str, evaluation: EvaluationSet, found: Words | None = None) -> tuple[list[str], list[Hit]]:
    """(what may be kept of a text, the items that were in it): the text itself, nothing, or the pieces of a long one."""
    hits = evaluation.hits(text, found)
    if not hits:
        return [text], []
    return (excise(text, hits) if len(text) > LONG else []), hits


def excise(text: str, hits: Sequence[Hit], *, margin: int = MARGIN, pieces: int = PIECES) -> list[str]:
    """The text without the passages and `margin` characters on either side of each, in pieces that were together.

    Cuts lie between words. A piece of fewer than `margin` characters goes too, and so does all when there are more than `pieces`.
    """
    kept, at = [], 0
    for hit in sorted(hits, key=lambda hit: hit.start):
        kept.append(text[at : _blank_before(text, hit.start - margin)] if hit.start - margin > at else "")
        at = max(at, _blank_after(text, hit.end + margin))
    kept.append(text[at:])
    kept = [piece for piece in kept if len(piece.strip()) >= max(1, margin)]
    return kept if len(kept) <= pieces else []


def _blank_before(text: str, at: int) -> int:
    return max(text.rfind(blank, max(0, at - 100), at) for blank in (" ", "\n")) + 1 or at


def _blank_after(text: str, at: int) -> int:
    ends = [end for end in (text.find(blank, at, at + 100) for blank in (" ", "\n")) if end >= 0]
    return min(ends) + 1 if ends else min(at, len(text))


@dataclass(frozen=True, slots=True)
class _Found:
    """Passages of items: the key of each, the item it is of, and whether it has little but numbers and single letters."""

    keys: Hashes
    items: Indices
    weak: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[_Found]) -> _Found:
        """One after the other, each passage of an item once."""
        keys, items, weak = (
            np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)]).astype(kind)
            for name, kind in (("keys", np.uint64), ("items", np.int32), ("weak", bool))
        )
        order = np.lexsort((keys, items))
        keys, items, weak = keys[order], items[order], weak[order]
        new = np.ones(len(keys), bool)
        new[1:] = (keys[1:] != keys[:-1]) | (items[1:] != items[:-1])
        return cls(keys[new], items[new], weak[new])

    def without_templates(self) -> _Found:
        """Of each item the passages that are its own; of an item that has none the rarest."""
        if not len(self.keys):
            return self
        _, which, counts = np.unique(self.keys, return_inverse=True, return_counts=True)
        often = counts[which].astype(np.int64)
        worth = np.where(often <= _TEMPLATE, 0, often) + self.weak * np.int64(1 << 40)  # the smaller, the better
        borders = np.flatnonzero(np.r_[True, self.items[1:] != self.items[:-1]])
        least = np.repeat(np.minimum.reduceat(worth, borders), np.diff(np.r_[borders, len(worth)]))
        kept = worth == least
        return _Found(self.keys[kept], self.items[kept], self.weak[kept])


def _read(texts: list[tuple[int, bool, str]]) -> tuple[_Found, list[tuple[int, Hashes, Hashes, Indices]]]:
    """The passages of 13 words of (item, asks, text), and of each length the shorter ones: (length, keys, first words' keys, items).

    All texts are read as one, which is some twenty times faster.
    """
    if not texts:
        return _Found(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, bool)), []
    joined = "\0 ".join(text for _, _, text in texts)
    lengths = np.array([len(text) + 2 for _, _, text in texts])
    found = words(joined)
    of = np.searchsorted(np.cumsum(lengths), found.starts, side="right")
    numbers = np.array([number for number, _, _ in texts], np.int32)
    firsts = np.array([ord(joined[at]) for at in found.starts.tolist()])
    strong = np.r_[0, np.cumsum(((firsts < 48) | (firsts > 57)) & (found.ends - found.starts > 1))]
    keys = grams(found.hashes, WORDS)
    at = np.flatnonzero(of[: len(keys)] == of[WORDS - 1 :]) if len(keys) else np.zeros(0, np.int64)
    passages = _Found(keys[at], numbers[of[at]], strong[at + WORDS] - strong[at] < _STRONG)
    asks = np.array([asks for _, asks, _ in texts])
    counts = np.bincount(of, minlength=len(texts))
    begins = np.cumsum(counts) - counts
    briefs = []
    for length in range(LEAST, WORDS):
        which = np.flatnonzero((counts == length) & asks)
        if len(which):
            whole = grams(found.hashes, length)[begins[which]]
            briefs.append((length, whole, grams(found.hashes, LEAST)[begins[which]], numbers[which]))
    return passages, briefs


def _translated(table: dict[int, str], text: str) -> str:
    return text.translate(table)


# How a copy may read in which marks inside words (well-known, don't, 1,000) were changed; words are otherwise as `data.words` has them
_SPELLINGS: list[Callable[[str], str]] = [*(partial(_translated, table) for table in _TABLES), partial(_INNER.sub, "")]
