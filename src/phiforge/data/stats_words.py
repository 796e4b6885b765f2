"""Words and characters of a text, counted in bounded memory: the growth of the vocabulary, frequency by rank, scripts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.data.words import Hashes, Words, words

_BATCH = 1 << 19  # words that are counted at once
_TOP = 40
_POINTS = 60
_CODES = 0x110000


class Vocabulary:
    """Distinct words (case and accents don't count) over words read. Holds 16 bytes for each distinct word and one batch of text."""

    def __init__(self) -> None:
        self.words = 0
        self.growth: list[tuple[int, int]] = []
        self._known: Hashes = np.zeros(0, np.uint64)
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._held: list[tuple[str, Words]] = []
        self._waiting = 0
        self._next = 100.0
        self._names: dict[int, str] = {}

    def add(self, text: str) -> Hashes:
        """Count the words of a text; returns their hashes."""
        found = words(text)
        self._held.append((text, found))
        self._waiting += len(found)
        if self._waiting >= _BATCH:
            self._settle()
        return found.hashes

    def _settle(self) -> None:
        if not self._waiting:
            return
        hashes = np.concatenate([found.hashes for _, found in self._held])
        fresh, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        at = np.searchsorted(self._known, fresh)
        old = np.zeros(len(fresh), bool)
        inside = at < len(self._known)
        old[inside] = self._known[at[inside]] == fresh[inside]
        self._note_growth(np.sort(first[~old]), len(hashes))
        self._counts[at[old]] += counts[old]
        merged = np.concatenate([self._known, fresh[~old]])
        order = np.argsort(merged, kind="stable")
        self._known, self._counts = merged[order], np.concatenate([self._counts, counts[~old]])[order]
        self.words += len(hashes)
        self._name(hashes)
        self._held, self._waiting = [], 0

    def _note_growth(self, first: NDArray[np.int64], count: int) -> None:
        """`first`: where each new word comes up in this batch, ascending. Points are a fixed ratio apart."""
        while self._next <= self.words + count:
            place = int(self._next)
            self.growth.append((place, len(self._known) + int(np.searchsorted(first, place - self.words))))
            self._next *= 10**0.1

    def _name(self, hashes: Hashes) -> None:
        """The text of the most frequent words, found in the batch that is still held."""
        top = self._known[np.argsort(self._counts)[-_TOP:]]
        missing = np.array([h for h in top if int(h) not in self._names], np.uint64)
        if not len(missing):
            return
        starts = np.cumsum([0] + [len(found) for _, found in self._held])
        for h in missing:
            at = int(np.flatnonzero(hashes == h)[:1].sum())
            if hashes[at] == h:
                block = int(np.searchsorted(starts, at, side="right")) - 1
                text, found = self._held[block]
                place = at - int(starts[block])
                self._names[int(h)] = text[int(found.starts[place]) : int(found.ends[place])].lower()

    def report(self) -> dict[str, Any]:
        """words, distinct, once; growth [[words, distinct]]; Heaps' exponent; ranks [[rank, count]]; Zipf's exponent; top words."""
        self._settle()
        if not self.words:
            return {"words": 0, "distinct": 0, "once": 0, "growth": [], "ranks": [], "top": [], "heaps": None, "zipf": None}
        growth = [*self.growth, (self.words, len(self._known))] if not self.growth or self.growth[-1][0] < self.words else self.growth
        order = np.argsort(-self._counts, kind="stable")
        counts = self._counts[order]
        places = np.unique(np.geomspace(1, len(counts), min(_POINTS, len(counts))).astype(np.int64)) - 1
        return {
            "words": self.words,
            "distinct": len(counts),
            "once": int((counts == 1).sum()),
            "growth": [list(point) for point in growth],
            "heaps": _slope([p for p in growth if p[0] >= 1000 and p[0] >= self.words / 100]),
            "ranks": [[int(place) + 1, int(counts[place])] for place in places],
            "zipf": _slope([(int(p) + 1, int(counts[p])) for p in places if 10 <= p + 1 <= 1000]),
            "top": [
                [self._names[int(h)], int(n)]
                for h, n in zip(self._known[order[:_TOP]], counts[:_TOP], strict=True)
                if int(h) in self._names
            ],
        }


def _slope(points: list[tuple[int, int]]) -> float | None:
    """Least squares in logarithms; None for fewer than five points."""
    if len(points) < 5:
        return None
    x, y = np.log(np.array(points, float)).T
    return round(float(np.polyfit(x, y, 1)[0]), 3)


class Scripts:
    """Characters by script: letters by the first word of their Unicode name, the others by what they are."""

    def __init__(self) -> None:
        self._counts = np.zeros(_CODES, np.int64)

    def add(self, text: str) -> None:
        """Count the characters of a text."""
        if text.isascii():
            counts = np.bincount(np.frombuffer(text.encode(), np.uint8))
        else:
            counts = np.bincount(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32))
        self._counts[: len(counts)] += counts

    def report(self) -> dict[str, int]:
        """{script: characters}, the most frequent first."""
        found: Counter[str] = Counter()
        for code in np.flatnonzero(self._counts):
            found[script(chr(code))] += int(self._counts[code])
        return dict(found.most_common())


_KINDS = {"L": "other letters", "M": "accents", "N": "digits", "P": "punctuation", "S": "symbols", "Z": "blanks and line ends"}


def script(character: str) -> str:
    """The script of a character, or its kind where it is no letter.

    >>> script("a"), script("ж"), script("語"), script("7"), script(","), script(" ")
    ('Latin', 'Cyrillic', 'Cjk', 'digits', 'punctuation', 'blanks and line ends')
    """
    kind = unicodedata.category(character)
    if kind[0] == "L":
        name = unicodedata.name(character, "")
        return name.split(" ")[0].split("-")[0].capitalize() if name else "other letters"
    if character in "\n\r\t":
        return "blanks and line ends"
    return _KINDS.get(kind[0], "control characters")
