"""What only the corpus as a whole can say: which documents are too many, repeat another one, are held out. From indexes alone, no text.

The parts come in the order of the input, so what is decided does not depend on who made them, or when.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.data import split
from phiforge.data.config import DataPrepareConfig
from phiforge.data.parts import Part
from phiforge.data.unit import Intake

TRAIN, VALIDATION, LEFT_OUT, NEAR, DUPLICATE, UNREAD = 0, 1, 252, 253, 254, 255
GLOBAL_REASONS = {DUPLICATE: "duplicate", NEAR: "near duplicate"}
_MANY = 1000  # documents from which the share of a hash's range is the share of the text


@dataclass
class Decided:
    """state[p] (rows of part p,) uint8: TRAIN or VALIDATION for what is kept, else why not."""

    parts: list[Part]
    state: list[np.ndarray]
    intake: Intake = field(default_factory=Intake)
    read: Counter[str] = field(default_factory=Counter)  # documents of each source
    cut: int = 0  # passages of evaluation items

    @property
    def documents(self) -> int:
        """How many are kept."""
        return sum(int((state <= VALIDATION).sum()) for state in self.state)

    def kept(self, name: str, dtype: Any = np.int64) -> np.ndarray:
        """A column of the documents that are kept, all parts in order."""
        columns = [part.column(name)[state <= VALIDATION] for part, state in zip(self.parts, self.state, strict=True)]
        return np.concatenate(columns).astype(dtype, copy=False) if columns else np.empty(0, dtype)


def admit(parts: list[Part]) -> Decided:
    """Keep each group of units within its limits, and set apart what the workers left out."""
    decided = Decided(parts, [])
    given: dict[str, tuple[int, int]] = {}
    full: set[str] = set()
    for part in parts:
        reason, raw, begins = part.columns("reason", "raw", "begins")
        state = np.where(reason == 0, TRAIN, LEFT_OUT).astype(np.uint8)
        first = 0
        for unit in part.facts["units"]:
            rows = slice(first, first + unit["rows"])
            first = rows.stop
            if unit["group"] in full:
                state[rows] = UNREAD
                continue
            decided.intake.merge(unit["intake"])
            most_documents, most_bytes = unit["limits"]
            documents, size = given.get(unit["group"], (0, 0))
            fits = np.ones(unit["rows"], bool)
            counts, totals = documents + np.cumsum(begins[rows], dtype=np.int64), size + np.cumsum(raw[rows])
            if most_documents is not None:
                fits &= counts <= most_documents
            if most_bytes is not None:
                fits &= totals <= most_bytes
            count = int(fits.argmin()) if not fits.all() else len(fits)
            state[rows.start + count : rows.stop] = UNREAD
            decided.cut += unit["cut"]
            if count:
                given[unit["group"]] = (int(counts[count - 1]), int(totals[count - 1]))
                decided.read[unit["source"]] += int(counts[count - 1]) - documents
            else:
                given[unit["group"]] = (documents, size)
            if count < len(fits) or given[unit["group"]][0] == most_documents or given[unit["group"]][1] == most_bytes:
                full.add(unit["group"])
        decided.state.append(state)
    return decided


def drop_duplicates(decided: Decided) -> None:
    """Of texts that are equal but for blanks around them, the first is kept."""
    keys = decided.kept("key", np.uint64)
    _, first = np.unique(keys, return_index=True)
    again = np.ones(len(keys), bool)
    again[first] = False
    _set(decided, again, DUPLICATE)


def drop_near_duplicates(decided: Decided, threshold: float, folder: Path) -> None:
    """Of texts that nearly repeat each other, the first is kept. The rows of all lie in one file in `folder`, not in memory."""
    from phiforge.data import dedup

    path = folder / ".signatures"
    count = 0
    with path.open("wb") as stream:
        for part, state in zip(decided.parts, decided.state, strict=True):
            came_through = part.column("reason") == 0
            rows = np.fromfile(part.path(".rows"), dedup.DTYPE).reshape(-1, dedup.COLUMNS)[(state <= VALIDATION)[came_through]]
            stream.write(rows.tobytes())
            count += len(rows)
    if count:
        rows = np.memmap(path, dedup.DTYPE, mode="r", shape=(count, dedup.COLUMNS))
        _set(decided, dedup.near_duplicates(rows, threshold) >= 0, NEAR)
        del rows
    path.unlink()


def _set(decided: Decided, which: np.ndarray, state: int) -> None:
    """Give the kept documents that `which` marks another state."""
    at = 0
    for states in decided.state:
        rows = np.flatnonzero(states <= VALIDATION)
        states[rows[which[at : at + len(rows)]]] = state
        at += len(rows)


def hold_out_documents(decided: Decided, config: DataPrepareConfig) -> bool:
    """Settle the side of every kept document; False where whole documents give no fair share.

    Many documents: those whose hash lies in the first `validation_fraction` of its range, which each worker can tell by itself. Few, or
    of very unlike sizes: drawn one by one, with an eye on their sizes (`split.hold_out`).
    """
    sizes = decided.kept("characters")
    guess = decided.kept("guess", np.uint8)
    share = float(sizes[guess == VALIDATION].sum()) / max(1, int(sizes.sum()))
    if len(sizes) >= _MANY and 0.5 * config.validation_fraction <= share <= 1.5 * config.validation_fraction:
        _set(decided, guess == VALIDATION, VALIDATION)
        return True
    names = [bytes(digest[:8]).hex() for digest in decided.kept("digest", np.uint8).reshape(-1, 32)]
    held = split.hold_out(list(zip(names, sizes.tolist(), strict=True)), config.validation_fraction, config.seed)
    if held is None:
        return False
    _set(decided, np.array([name in held for name in names]), VALIDATION)
    return True
