"""What a worker does: one piece of the input, read, cleaned, and left on disk as a part."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core.atomic import writing
from phiforge.core.hardware import preflight_disk
from phiforge.data import split
from phiforge.data.cleaning import Cleaner
from phiforge.data.config import DataPrepareConfig
from phiforge.data.flags import KINDS, MAX_EXAMPLES, Finding
from phiforge.data.parts import Part, PartWriter, token_type
from phiforge.data.sources import Intake, read_unit
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.unit import Unit

VERSION = 1  # raise it when the same input would make another part
_ELSEWHERE = {"source", "evaluation", "workers", "executor", "executor_options", "part_bytes"}  # told by the units, or no matter
_NOT_IN_PARTS = _ELSEWHERE | {"min_bytes", "deduplicate", "near_duplicate_threshold"}
_ROOM = 64_000_000  # bytes of disk without which no part is begun


@dataclass(frozen=True)
class PartTask:
    """Some units that follow each other, and how to treat them. skip: nothing of them is needed any more."""

    key: str
    folder: str
    units: tuple[Unit, ...]
    config: str  # DataPrepareConfig as JSON
    tokenizer: str | None = None
    skip: bool = False

    @property
    def size(self) -> int:
        """Bytes on disk that it reads; 0 where that isn't known."""
        return sum(unit.size for unit in self.units)


@dataclass(frozen=True)
class PartMade:
    """What a worker reports: the rest is in the part. units: (group, documents, bytes as read) of each unit."""

    key: str
    documents: int = 0
    bytes: int = 0
    units: tuple[tuple[str, int, int], ...] = ()
    found: bool = False  # it was there already


@functools.lru_cache(maxsize=2)
def cleaner_of(config: str) -> tuple[DataPrepareConfig, Cleaner]:
    """Once a process: filters may have tables to load."""
    settings = DataPrepareConfig.model_validate_json(config)
    return settings, Cleaner(settings)


@functools.lru_cache(maxsize=1)
def tokenizer_of(folder: str) -> Tokenizer:
    """Once a process."""
    return Tokenizer.load(folder)


def make_part(task: PartTask) -> PartMade:
    """Read, clean and write one part, unless it is there. Raises DataError, PreflightError; nothing half-made stays."""
    if task.skip:
        return PartMade(task.key)
    folder = Path(task.folder)
    part = Part.find(folder, task.key)
    if part is not None:
        return _made(part, found=True)
    config, cleaner = cleaner_of(task.config)
    tokenizer = tokenizer_of(task.tokenizer) if task.tokenizer else None
    with writing(folder):
        preflight_disk(folder, max(_ROOM, 2 * task.size))
        writer = PartWriter(
            folder,
            task.key,
            save_dropped=config.save_dropped,
            tokens=token_type(tokenizer.vocab_size) if tokenizer else None,
            signatures=config.near_duplicates,
        )
        try:
            _fill(writer, task, config, cleaner, tokenizer)
        finally:
            writer.drop()
    return _made(Part(folder, task.key))


def _made(part: Part, *, found: bool = False) -> PartMade:
    units = tuple((unit["group"], unit["documents"], unit["bytes"]) for unit in part.facts["units"])
    return PartMade(part.key, part.documents, sum(size for _, _, size in units), units, found)


def _fill(writer: PartWriter, task: PartTask, config: DataPrepareConfig, cleaner: Cleaner, tokenizer: Tokenizer | None) -> None:
    notes = _Notes()
    units: list[dict[str, Any]] = []
    finish = _finisher(config, tokenizer)
    for unit in task.units:
        intake, first = Intake.of(config), writer.count
        size = cut = read = 0
        for document in read_unit(unit, intake):
            raw = document.text.encode("utf-8")
            for cleaned in cleaner(document):
                row = writer.count
                size += cleaned.raw_bytes
                cut += cleaned.cut
                read += cleaned.begins
                notes.add(row, cleaned.licences, raw, cleaned.source)
                if cleaned.reason:
                    notes.left_out(row, cleaned.reason, cleaned.source)
                    writer.leave_out(cleaned, document.id)
                else:
                    notes.add(row, cleaned.personal, cleaned.encoded, cleaned.source)
                    digest = hashlib.sha256(cleaned.encoded).digest()
                    writer.add(cleaned, digest, **finish(cleaned.text, digest))
        counted = {"rows": writer.count - first, "documents": read, "bytes": size, "limits": [unit.max_documents, unit.max_bytes]}
        units.append({"source": unit.source, "group": unit.group, **counted, "cut": cut, "intake": intake.counts()})
    facts = {"units": units, "reason_examples": notes.reasons, "flag_examples": notes.examples}
    writer.finish(facts, notes.table())


def _finisher(config: DataPrepareConfig, tokenizer: Tokenizer | None) -> Any:
    """What else is worked out for a document that came through: (text, digest) -> arguments of PartWriter.add."""
    by_document = config.split == "document"
    limit = int(config.validation_fraction * (1 << 64))
    ends = np.array([tokenizer.bos_id, tokenizer.eos_id], np.uint32) if tokenizer else None
    signature = _signature if config.near_duplicates else None

    def finish(text: str, digest: bytes) -> dict[str, Any]:
        guess = by_document and split.place(config.seed, digest[:8].hex()) < limit
        ids = None
        if tokenizer is not None and ends is not None and by_document:
            ids = np.concatenate([ends[:1], tokenizer.raw_batch([text], threads=1)[0], ends[1:]])
        return {
            "guess": int(guess),
            "pieces": len(split.cut_chunks(text, config.chunk_characters)) if config.split == "chunks" else 0,
            "ids": ids,
            "row": signature(text) if signature else None,
        }

    return finish


def _signature(text: str) -> np.ndarray:
    from phiforge.data import dedup  # loads its library only where it is asked for

    row = dedup.signature(text)
    return dedup.empty() if row is None else row


class _Notes:
    """Hints by row, and the first examples of everything."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}
        self.examples: list[tuple[str, int, str]] = []
        self._held: Counter[str] = Counter()
        self._rows: list[tuple[int, int, int]] = []

    def add(self, row: int, findings: list[Finding], encoded: bytes, source: str) -> None:
        for finding in findings:
            self._rows.append((row, KINDS.index(finding.kind), finding.count))
            self._held[finding.kind] += 1
            if self._held[finding.kind] <= MAX_EXAMPLES:
                self.examples.append((finding.kind, row, finding.where(encoded, source)))

    def left_out(self, row: int, reason: str, source: str) -> None:
        self.reasons.setdefault(reason, (row, source))

    def table(self) -> np.ndarray:
        """(F, 3): row, number of the kind, count."""
        return np.array(self._rows, np.int64).reshape(-1, 3)


def part_key(units: tuple[Unit, ...], config: DataPrepareConfig, tokenizer: Tokenizer | None, evaluation: str | None) -> str:
    """A name made of everything that decides what is in a part: a part that is found under it need not be made again."""
    settings = config.model_dump(mode="json", exclude=_NOT_IN_PARTS)
    identity = [tokenizer.fingerprint, tokenizer.bos_id, tokenizer.eos_id] if tokenizer else None
    data = [VERSION, [unit.to_data() for unit in units], settings, identity, evaluation]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:20]


def group_units(units: list[Unit], target: int) -> Iterator[tuple[Unit, ...]]:
    """Units that follow each other, together about `target` bytes; those that share a limit stay apart from the others."""
    held: list[Unit] = []
    size = 0
    for unit in units:
        limited = unit.max_documents is not None or unit.max_bytes is not None
        if held and (size + unit.size > target or not unit.size or (limited and held[-1].group != unit.group)):
            yield tuple(held)
            held, size = [], 0
        held.append(unit)
        size += unit.size or target
    if held:
        yield tuple(held)
