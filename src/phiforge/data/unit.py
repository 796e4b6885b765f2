"""What is read at once, how it is to be read, and what was met on the way. All of it can be pickled: workers pass it around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from phiforge.core.errors import DataError
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document

EncodingErrors = Literal["error", "skip", "replace", "repair"]


@dataclass
class Intake:
    """How to read, and what was met while reading: filled as documents are drawn."""

    encoding_errors: EncodingErrors = "error"
    max_document_bytes: int = 1 << 24
    max_line_bytes: int = 1 << 26
    text_column: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    repaired: int = 0
    cut: int = 0
    files: int = 0

    @classmethod
    def of(cls, config: DataPrepareConfig) -> Intake:
        """An empty intake that reads as the config says."""
        return cls(config.encoding_errors, config.max_document_bytes, config.max_line_bytes, getattr(config, "text_column", None))

    def skip(self, reason: str, where: str, count: int = 1) -> None:
        """Count a file or record that is left out; the first of each reason is kept as an example."""
        self.skipped[reason] += count
        self.examples.setdefault(reason, where)

    def merge(self, other: Intake | dict[str, Any]) -> None:
        """Add what another intake met. In the order of the units, so that the examples do not depend on who was faster."""
        met = other if isinstance(other, dict) else other.counts()
        self.skipped.update(met["skipped"])
        for reason, where in met["examples"].items():
            self.examples.setdefault(reason, where)
        self.repaired += met["repaired"]
        self.cut += met["cut"]
        self.files += met["files"]

    def counts(self) -> dict[str, Any]:
        """What was met, as plain data (for JSON, and for `merge`)."""
        return {
            "skipped": dict(self.skipped),
            "examples": dict(self.examples),
            "repaired": self.repaired,
            "cut": self.cut,
            "files": self.files,
        }

    def reasons(self) -> str:
        """The most frequent reasons, for a message."""
        return "; ".join(f"{count:,} {reason}" for reason, count in self.skipped.most_common(4))


@dataclass(frozen=True)
class SourceFile:
    """A file to read; `label` is what documents call it; `named` = the person named it, so it may not be skipped silently."""

    path: Path
    label: str
    named: bool
    kind: str = ".txt"  # its extension without .gz, .zst, .xz, .bz2


@dataclass(frozen=True)
class Unit:
    """A piece of work: read alone, in any process, it gives always the same documents.

    `start` and `stop` count bytes (text, .jsonl), row groups (.parquet) or shards (a hub's set).
    All units of one `group` together may give at most `max_documents` documents and `max_bytes` bytes of text: see `Limits`.
    """

    source: str  # as the person wrote it
    key: str  # its name within the source; two units of a source never share one
    kind: str
    path: str
    label: str  # what its documents call it
    named: bool = False
    start: int = 0
    stop: int | None = None
    part: int = 0  # how many documents of the file come before it, where that is known (long texts)
    size: int = 0  # bytes on disk that it stands for; 0: not known
    file_size: int = 0  # of the whole file, when it was listed
    modified: int = 0  # nanoseconds, when it was listed
    group: str = ""
    max_documents: int | None = None
    max_bytes: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str | None:
        """A setting of a kind of its own (config, split, revision of a hub's set)."""
        return dict(self.options).get(name)

    def to_data(self) -> dict[str, Any]:
        """Plain data, equal for equal work: what a resumed preparation compares."""
        return {**asdict(self), "options": dict(self.options)}

    def fault(self, intake: Intake, reason: str, message: str, *, fix: str, where: str | None = None) -> None:
        """A record that can't be used: an error where the person named the file, a counted drop in a folder or a hub's set."""
        if self.named:
            raise DataError(message, fix=fix)
        intake.skip(reason, where or self.label)


class Limits:
    """Keeps each group of units within its `max_documents` and `max_bytes`, document by document, in the order of the units."""

    def __init__(self) -> None:
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._full: set[str] = set()

    def full(self, unit: Unit) -> bool:
        """Whether the unit's group has all it may have: the unit need not be read."""
        return unit.group in self._full

    def admit(self, unit: Unit, size: int) -> bool:
        """Whether a document of `size` bytes of text still fits; the first that does not ends its group."""
        group = unit.group
        if group in self._full:
            return False
        documents, total = self._documents[group] + 1, self._bytes[group] + size
        if (unit.max_documents is not None and documents > unit.max_documents) or (unit.max_bytes is not None and total > unit.max_bytes):
            self._full.add(group)
            return False
        self._documents[group], self._bytes[group] = documents, total
        if documents == unit.max_documents or total == unit.max_bytes:
            self._full.add(group)
        return True


def within(unit: Unit, documents: Iterator[Document]) -> Iterator[Document]:
    """The documents of one unit up to what its whole group may give, so that a small sample does not read a large shard."""
    if unit.max_documents is None and unit.max_bytes is None:
        yield from documents
        return
    limits = Limits()
    for document in documents:
        if not limits.admit(unit, len(document.text.encode("utf-8"))):
            return
        yield document
        if limits.full(unit):
            return
