"""Which text is held out where documents are not held out whole: what each part is told about its own documents."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from phiforge.core.errors import DataError
from phiforge.data import split
from phiforge.data.config import DataPrepareConfig
from phiforge.data.decide import VALIDATION, Decided
from phiforge.data.routes import block_name
from phiforge.data.second import Cut, kept_documents

Say = Callable[[str], None]
Plan = tuple[list[Cut], dict[str, Any]]


def plan_cuts(config: DataPrepareConfig, decided: Decided, say: Say) -> Plan:
    """A cut for each part, and what the report says about it. Raises DataError where no cut gives a fair share."""
    if config.split == "tail":
        return _tail(config, decided)
    return _chunks(config, decided, say) if config.split == "chunks" else _blocks(config, decided, say)


def _of_parts(decided: Decided, column: str) -> list[int]:
    """The sum of a column over the kept documents of each part."""
    return [int(p.column(column)[state <= VALIDATION].sum()) for p, state in zip(decided.parts, decided.state, strict=True)]


def _tail(config: DataPrepareConfig, decided: Decided) -> Plan:
    sizes = _of_parts(decided, "characters")
    border = split.tail_border(sum(sizes), config.validation_fraction)
    begins = [0, *itertools.accumulate(sizes)][:-1]
    return [Cut("tail", border=border, at=at) for at in begins], {"method": "tail", "why": "asked for"}


def _chunks(config: DataPrepareConfig, decided: Decided, say: Say) -> Plan:
    counts, size = _of_parts(decided, "pieces"), config.chunk_characters
    held = split.hold_out_chunks(sum(counts), config.validation_fraction, config.seed)
    numbers = {"chunks": len(held), "held_out_chunks": int(held.sum()), "chunk_characters": size}
    why = "asked for: text beside the held-out chunks is trained on, so this does not say what a model does on unseen documents"
    say(f"validation: {numbers['held_out_chunks']:,} of {len(held):,} chunks of about {size} characters ({why})")
    mine = np.split(held, np.cumsum(counts)[:-1])
    return [Cut("chunks", size, part.tobytes()) for part in mine], {"method": "chunks", "why": why, **numbers}


def _blocks(config: DataPrepareConfig, decided: Decided, say: Say) -> Plan:
    """For few documents: chapters and blocks of their text. Reads them all, which few documents allow."""
    count, characters = decided.documents, sum(_of_parts(decided, "characters"))
    size = split.block_size(characters, config.validation_fraction)
    blocks = [
        (block_name(document.text[a:b]), b - a)
        for part, state in zip(decided.parts, decided.state, strict=True)
        for document in kept_documents(part, state)
        for a, b in split.cut_blocks(document.text, size)
    ]
    held = split.hold_out(blocks, config.validation_fraction, config.seed)
    documents = f"{count} document{'s' if count > 1 else ''}"
    if held is None:
        raise DataError(f"{documents} can't be split into a training and a validation part", fix="add text that does not repeat itself")
    share = f"{config.validation_fraction:g}"
    why = f"{documents} can't be held out whole and give a share of {share}, so chapters and blocks of text are held out"
    say(f"validation: {why}")
    return [Cut("blocks", size, frozenset(held))] * len(decided.parts), {"method": "block", "why": why, "block_characters": size}
