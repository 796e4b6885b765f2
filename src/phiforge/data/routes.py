"""How one document goes to the two sides when it is not held out whole: cut at the tail, into blocks, or into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from phiforge.data import split
from phiforge.data.document import Document

Split = Literal["train", "validation"]
Router = Callable[[Document], Iterator[tuple[Split, Document]]]


def by_chunk(held: np.ndarray, size: int) -> Router:
    """The chunks of each side, in order, are one document of that side. held: of every chunk of the documents that will come."""
    at = 0

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        nonlocal at
        chunks = split.cut_chunks(document.text, size)
        mine = held[at : at + len(chunks)]
        at += len(chunks)
        sides: tuple[tuple[Split, bool], ...] = (("train", False), ("validation", True))
        for side, wanted in sides:
            text = "".join(document.text[a:b] for (a, b), out in zip(chunks, mine, strict=True) if out == wanted)
            if text:
                yield side, Document.of(text, f"{document.source}#chunks")

    return route


def block_name(text: str) -> str:
    """Blocks that differ only in blanks at their ends are one: they must not come to lie on both sides."""
    return hashlib.sha256(text.strip().encode("utf-8")).hexdigest()[:16]


def by_block(held: frozenset[str], size: int) -> Router:
    """Neighbouring blocks of one side stay one document, so that training text is not broken where nothing was taken out."""

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        part, first, side = 0, 0, None
        for start, end in split.cut_blocks(document.text, size):
            here: Split = "validation" if block_name(document.text[start:end]) in held else "train"
            if side is not None and here != side:
                yield side, _part(document, first, start, part)
                part, first = part + 1, start
            side = here
            if end == len(document.text):
                yield side, _part(document, first, end, part)

    return route


def _part(document: Document, start: int, end: int, number: int) -> Document:
    return Document.of(document.text[start:end], f"{document.source}#block{number}")


def by_tail(border: int, at: int = 0) -> Router:
    """Characters before `border` train, those from it on validate: the document that holds it is cut there. at: characters before these."""

    def route(document: Document) -> Iterator[tuple[Split, Document]]:
        nonlocal at
        cut = min(max(border - at, 0), len(document.text))
        at += len(document.text)
        if cut == len(document.text):
            yield "train", document
        elif cut == 0:
            yield "validation", document
        else:
            yield "train", Document.of(document.text[:cut], f"{document.source}#head")
            yield "validation", Document.of(document.text[cut:], f"{document.source}#tail")

    return route
