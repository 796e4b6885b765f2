"""One pass over the sources in this process, nothing written: documents cleaned and deduplicated, everything that was met counted."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from phiforge.data.cleaning import Cleaner
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.flags import Flags
from phiforge.data.sources import Intake, Limits, about, nothing_read, read_unit, units

_SAMPLES = 5


@dataclass
class SourceCount:
    """What one source gave."""

    source: str
    about: str
    licence: str | None = None
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, document: Document) -> None:
        """Count a kept document."""
        text = document.text.encode("utf-8")
        self.documents += 1
        self.characters += len(document.text)
        self.bytes += len(text)
        self.digest.update(len(text).to_bytes(8, "little") + text)

    def report(self) -> dict[str, Any]:
        """For data.json."""
        counts = {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}
        return {"source": self.source, "about": self.about, "licence": self.licence, **counts, "sha256": self.digest.hexdigest()}


class Survey:
    """Draw `documents()` to the end, then ask for `report()`. Holds a hash and a length of each document, no text."""

    def __init__(self, config: DataPrepareConfig) -> None:
        self.config = config
        self.intake, self._cleaner = Intake.of(config), Cleaner(config)
        self.flags = Flags()
        self.sources: list[SourceCount] = []
        self.dropped: Counter[str] = Counter()
        self.dropped_examples: dict[str, str] = {}
        self.gutenberg = 0
        self.lengths: list[int] = []
        self.longest = (0, "")
        self.samples: list[dict[str, str]] = []
        self._seen: set[int] = set()

    def documents(self) -> Iterator[Document]:
        """The kept documents, in the order of the sources. Raises DataError."""
        for name in self.config.source:
            count = SourceCount(name, *about(name))
            self.sources.append(count)
            for document in self._read(name):
                for kept in self._clean(document):
                    count.add(kept)
                    self._note(kept)
                    yield kept

    def _read(self, name: str) -> Iterator[Document]:
        found, limits = False, Limits()
        for unit in units(name, self.config, self.intake):
            if limits.full(unit):
                continue
            for document in read_unit(unit, self.intake):
                if not limits.admit(unit, len(document.text.encode("utf-8"))):
                    break
                found = True
                yield document
        if not found:
            raise nothing_read(name, self.intake)

    def _clean(self, document: Document) -> Iterator[Document]:
        raw = document.text.encode("utf-8")
        for cleaned in self._cleaner(document):
            self.flags.add(cleaned.licences, raw, cleaned.source)
            self.gutenberg += cleaned.stripped
            if cleaned.reason:
                self._drop(cleaned.reason, document)
                continue
            key = int.from_bytes(hashlib.sha256(cleaned.text.strip().encode("utf-8")).digest()[:8], "little")
            if key in self._seen and self.config.deduplicate:
                self._drop("duplicate", document)
                continue
            self._seen.add(key)
            self.flags.add(cleaned.personal, cleaned.encoded, cleaned.source)
            yield document if cleaned.text is document.text else Document.of(cleaned.text, cleaned.source)

    def _drop(self, reason: str, document: Document) -> None:
        self.dropped[reason] += 1
        self.dropped_examples.setdefault(reason, document.source)

    def _note(self, document: Document) -> None:
        self.lengths.append(len(document.text))
        if len(document.text) > self.longest[0]:
            self.longest = (len(document.text), document.source)
        nth = len(self.lengths)
        if len(self.samples) < _SAMPLES and nth & (nth - 1) == 0:  # the 1st, 2nd, 4th, 8th, 16th document
            line = next((line.strip() for line in document.text.split("\n") if len(line.strip()) > 20), document.text.strip())
            self.samples.append({"source": document.source, "line": line[:160]})

    @property
    def characters(self) -> int:
        """Of all kept documents so far."""
        return sum(source.characters for source in self.sources)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all kept documents so far."""
        return sum(source.bytes for source in self.sources)

    def report(self) -> dict[str, Any]:
        """Everything met, for data.json."""
        skipped = {f"file: {reason}": count for reason, count in self.intake.skipped.items()}
        examples = {f"file: {reason}": where for reason, where in self.intake.examples.items()}
        return {
            "sources": [source.report() for source in self.sources],
            "files": self.intake.files,
            "documents": len(self.lengths),
            "characters": self.characters,
            "bytes": self.bytes,
            "dropped": {**dict(self.dropped), **skipped},
            "dropped_examples": {**self.dropped_examples, **examples},
            "truncated": 0,  # nothing is shortened: long texts are cut into several documents
            "cut_long_texts": self.intake.cut,
            "encoding_repaired": self.intake.repaired,
            "gutenberg_stripped": self.gutenberg,
            "lengths": {
                "shortest": min(self.lengths, default=0),
                "median": int(statistics.median(self.lengths)) if self.lengths else 0,
                "mean": round(statistics.fmean(self.lengths), 1) if self.lengths else 0.0,
                "longest": self.longest[0],
                "longest_source": self.longest[1],
            },
            **self.flags.report(),
            "samples": self.samples,
        }
