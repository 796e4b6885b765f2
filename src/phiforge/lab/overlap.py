"""How much of a held-out text a training text holds: whole documents by their content, and passages of words.

Corpora repeat themselves (licences, headings, formulas), so passages are held against what the baseline's own training text has.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from phiforge.core.errors import PhiforgeError
from phiforge.data.contamination import WORDS  # in a passage
from phiforge.data.prepare import read_split
from phiforge.data.words import grams, words

_MOST_HELD, _MOST_READ = 4_000_000, 60_000_000  # characters; a sample of the start where there is more
# Shares of held-out passages: a leak is at least the first, and this many times what the baseline's own training text has; without one
# to hold it against, half of them.
_SHARE, _TIMES, _MUCH = 0.02, 2.0, 0.5
_LONG = 200  # characters of a document that is more than a phrase


@dataclass(frozen=True)
class Leak:
    """documents: held-out ones (of `of`) that are in the training text whole. passages: share of held-out passages in it."""

    documents: int
    of: int
    passages: float

    def more_than(self, usual: Leak | None) -> bool:
        """Whether it is a leak, beyond what the baseline's own training text shares; without that, beyond what corpora do."""
        if self.documents > (usual.documents if usual else 0):
            return True
        return self.passages >= (_MUCH if usual is None else max(_SHARE, _TIMES * usual.passages))

    def __str__(self) -> str:
        whole = f"{self.documents} of {self.of} held-out documents whole" if self.documents else ""
        return ", ".join(part for part in (whole, f"{self.passages:.0%} of its passages of {WORDS} words") if part)


def leak(train: Path, held: Path) -> Leak | None:
    """What of `held`'s validation documents is in `train`'s training documents (both data runs); None where either can't be read."""
    try:
        documents, passages = _held(held)
        if not documents and not passages:
            return None
        whole: set[bytes] = set()
        shared: set[int] = set()
        read = 0
        for document in read_split(train, "train"):
            digest = _digest(document.text)
            if digest in documents:
                whole.add(digest)
            if read < _MOST_READ and passages:
                read += len(document.text)
                shared.update(passages.intersection(_passages(document.text)))
        return Leak(len(whole), len(documents), len(shared) / len(passages) if passages else 0.0)
    except PhiforgeError:
        return None


def _held(folder: Path) -> tuple[set[bytes], set[int]]:
    documents: set[bytes] = set()
    passages: set[int] = set()
    read = 0
    for document in read_split(folder, "validation"):
        if len(document.text) >= _LONG:
            documents.add(_digest(document.text))
        if read < _MOST_HELD:
            read += len(document.text)
            passages.update(_passages(document.text))
    return documents, passages


def _digest(text: str) -> bytes:
    """Of the words alone: blanks and line ends don't make another document."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


def _passages(text: str) -> list[int]:
    return grams(words(text).hashes, WORDS).tolist()
