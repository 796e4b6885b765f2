"""One pass over documents for what `data stats` shows beside the counts: lengths, vocabulary, scripts, languages, axioms by source.

Lengths are of all documents. Words and characters are counted in blocks of about 64,000 characters; where the corpus is larger than
the sample, a share of the blocks is drawn by a hash of document and place, so that the same corpus gives the same figures. Languages are
those of at most 2,000 documents, drawn by a hash too.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from phiforge.data import coverage
from phiforge.data.document import Document
from phiforge.data.language import detect
from phiforge.data.split import order
from phiforge.data.stats_words import Scripts, Vocabulary

SAMPLE_BYTES = 64_000_000
_BLOCK = 1 << 16  # characters
_MOST_GROUPS = 400
_SHOWN_GROUPS = 24


class Pass:
    """Draw documents through `add`, then ask for `report()`.

    share: of the text that words are counted in; limit: bytes of it, after which no more are counted (where no size was known before).
    """

    def __init__(self, share: float = 1.0, limit: float = math.inf) -> None:
        self.share, self.limit = min(1.0, share), limit
        self.documents = self.bytes = self.sampled_bytes = 0
        self._lengths: Counter[int] = Counter()
        self._vocabulary, self._scripts, self._languages = Vocabulary(), Scripts(), Languages()
        self._words: Counter[tuple[str, str]] = Counter()
        self._hits: dict[tuple[str, str], Any] = {}

    def add(self, document: Document) -> int:
        """Count one document; returns its size in bytes."""
        text = document.text
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        self.documents += 1
        self.bytes += size
        self._lengths[len(text).bit_length()] += 1
        self._languages.add(document, size)
        group = self._group(document.source)
        for number, block in enumerate(blocks(text)):
            if self.sampled_bytes < self.limit and (self.share >= 1 or _drawn(document.id, number) < self.share):
                self._count(group, block)
                self.sampled_bytes += round(size * len(block) / max(1, len(text)))
        return size

    def _count(self, group: tuple[str, str], block: str) -> None:
        self._scripts.add(block)
        hashes = self._vocabulary.add(block)
        self._words[group] += len(hashes)
        self._hits[group] = self._hits.get(group, 0) + coverage.hits(hashes)

    def _group(self, source: str) -> tuple[str, str]:
        group = group_of(source)
        return group if group in self._words or len(self._words) < _MOST_GROUPS else (group[0], "")

    def report(self, least_share: float) -> dict[str, Any]:
        """Plain data, for JSON."""
        counted, found = self._by_source()
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "sample": {"share": round(self.share, 4), "bytes": self.sampled_bytes, "full": self.sampled_bytes >= self.limit},
            "lengths": [[1 << (bits - 1) if bits else 0, (1 << bits) - 1, count] for bits, count in sorted(self._lengths.items())],
            "vocabulary": self._vocabulary.report(),
            "scripts": self._scripts.report(),
            "languages": self._languages.report(),
            "coverage": coverage.describe(counted, found, least_share),
        }

    def _by_source(self) -> tuple[dict[str, int], dict[str, Any]]:
        """Words and hits of each source: of its folders or files where there is one source with a few of them."""
        roots = {root for root, _ in self._words}
        fine = len(roots) == 1 and 1 < len(self._words) <= _SHOWN_GROUPS
        counted: Counter[str] = Counter()
        found: dict[str, Any] = {}
        for (root, below), count in self._words.items():
            name = (below or "(others)") if fine else root
            counted[name] += count
            found[name] = found.get(name, 0) + self._hits[root, below]
        if len(counted) > _SHOWN_GROUPS:
            for name, _ in counted.most_common()[_SHOWN_GROUPS - 1 :]:
                counted["(others)"] += counted.pop(name)
                found["(others)"] = found.get("(others)", 0) + found.pop(name)
        return dict(counted.most_common()), found


class Languages:
    """The languages of at most `most` documents: those whose names have the least hashes, however many there are."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most
        self._held: list[tuple[float, str, int]] = []  # a heap, its first the least of the negative hashes: (-hash, language, bytes)

    def add(self, document: Document, size: int) -> None:
        """Look at a document, if it is one to look at."""
        place = -_drawn(document.id, -1)
        full = len(self._held) >= self._most
        if full and place <= self._held[0][0]:
            return
        entry = (place, detect(document.text)[0], size)
        if full:
            heapq.heapreplace(self._held, entry)
        else:
            heapq.heappush(self._held, entry)

    def report(self) -> dict[str, Any]:
        """looked_at: documents; documents, bytes: of each language (ISO 639; "und": too short, mixed or none), the most frequent first."""
        documents = Counter(language for _, language, _ in sorted(self._held, key=lambda entry: entry[1:]))
        size: Counter[str] = Counter()
        for _, language, count in self._held:
            size[language] += count
        return {"looked_at": len(self._held), "documents": dict(documents.most_common()), "bytes": {name: size[name] for name in documents}}


def blocks(text: str) -> Iterator[str]:
    """The text in pieces of about 64,000 characters, cut at blanks.

    >>> list(blocks("a b")), list(blocks(""))
    (['a b'], [])
    """
    start = 0
    while start < len(text):
        end = start + _BLOCK
        if end < len(text):
            blank = text.find(" ", end, end + 200)
            end = blank if blank > 0 else end
        yield text[start:end]
        start = end


def _drawn(name: str, block: int) -> float:
    """A number in 0..1 that depends on document and place alone."""
    return int.from_bytes(order(0, f"{name}#{block}")[:6], "big") / (1 << 48)


def group_of(source: str) -> tuple[str, str]:
    """(source, folder or file below it) of a document's label, without the part, line or row in a file.

    >>> group_of("books/poe/raven.txt#block2"), group_of("wiki.jsonl:12"), group_of("books/poe.txt")
    (('books', 'poe'), ('wiki.jsonl', ''), ('books', 'poe.txt'))
    """
    name = source.split("#")[0]
    head, colon, line = name.rpartition(":")
    if colon and line.isdigit():
        name = head
    root, _, rest = name.partition("/")
    return root, rest.split("/")[0]


def sample_share(corpus_bytes: float | None, sample_bytes: int) -> float:
    """Which share of a corpus to draw; all of it where its size is not known."""
    return 1.0 if not corpus_bytes else float(np.clip(sample_bytes / corpus_bytes, 0.0, 1.0))
