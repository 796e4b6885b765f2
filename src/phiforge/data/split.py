"""Which text is held out: pure functions of sizes and names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence

import numpy as np

# A heading that opens a chapter, act or section, alone on its line.
_HEADING = re.compile(
    r"\n\n+(?=[ \t]*(?:(?:CHAPTER|Chapter|BOOK|Book|PART|Part|ACT|SCENE|LETTER|Letter|STAVE|VOLUME)\b[^\n]{0,80}"
    r"|#{1,3} [^\n]{1,80}|[IVXLC]+\.?)\n)"
)
_PARAGRAPH = re.compile(r"\n\s*\n[ \t]*")
_BORDERS = (re.compile(r"\n[ \t]*\n+"), re.compile(r"\n"), re.compile(r"[.!?]\s"), re.compile(r"\s"))
_SLACK = 0.3  # how far past the asked share one document may carry us


def order(seed: int, name: Hashable) -> bytes:
    """A place in a shuffled order that depends on the seed and the name alone."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def place(seed: int, name: Hashable) -> int:
    """`order` as a number below 2^64: the share of names below f * 2^64 is about f."""
    return int.from_bytes(order(seed, name)[:8], "big")


def hold_out(items: Sequence[tuple[str, int]], fraction: float, seed: int) -> set[str] | None:
    """Names whose sizes make up about `fraction` of all; None when whole items give no fair share.

    items: (name, size); items of one name (equal texts) go together. Names are drawn in a shuffled order, without those that would
    carry the share too far. Fair: between a half and one and a half times what was asked, with something left on the other side.
    """
    sizes: dict[str, int] = {}
    for name, size in items:
        sizes[name] = sizes.get(name, 0) + size
    target = fraction * sum(sizes.values())
    held: set[str] = set()
    got = 0
    for name in sorted(sizes, key=lambda name: order(seed, name)):
        if got >= target:
            break
        if got + sizes[name] <= (1 + _SLACK) * target and len(held) + 1 < len(sizes):
            held.add(name)
            got += sizes[name]
    return held if held and 0.5 * target <= got <= 1.5 * target else None


def block_size(characters: int, fraction: float) -> int:
    """Length of the blocks that documents are cut into when whole ones give no fair share: some four of them are held out."""
    return max(200, min(65_536, int(characters * fraction / 4)))


def cut_blocks(text: str, size: int) -> list[tuple[int, int]]:
    """(start, end) of blocks of about `size` characters that make up `text`.

    Cut before a chapter, else after a paragraph, line, sentence, word, whichever comes first in this list.
    """
    blocks, start = [], 0
    while len(text) - start > 1.5 * size:
        end = _border(text, start + size // 2, start + size, start + size + size // 2)
        blocks.append((start, end))
        start = end
    return [*blocks, (start, len(text))]


def _border(text: str, low: int, middle: int, high: int) -> int:
    for pattern in (_HEADING, *_BORDERS):
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    return middle


def cut_chunks(text: str, size: int) -> list[tuple[int, int]]:
    """(start, end) of chunks that make up `text`: paragraphs are joined until the next would carry the chunk past `size` characters.

    A paragraph that is longer by itself is a chunk by itself. The blank line after a paragraph belongs to it and does not count.
    """
    chunks: list[tuple[int, int]] = []
    start = end = 0  # of the chunk so far; `held` is its length without the blanks at its end
    held = 0
    borders = [(match.start(), match.end()) for match in _PARAGRAPH.finditer(text)]
    for stop, after in [*borders, (len(text), len(text))]:
        if held and stop - start > size:
            chunks.append((start, end))
            start = end
        held, end = stop - start, after
    return [*chunks, (start, len(text))] if text[start:].strip() or not chunks else [*chunks[:-1], (chunks[-1][0], len(text))]


def hold_out_chunks(count: int, fraction: float, seed: int) -> np.ndarray:
    """(count,) bool: a random `fraction` of `count` chunks, as if they were shuffled and the first ones taken; at least one.

    The draws are the bit generator's own, which numpy keeps from version to version, so the same seed holds out the same chunks.
    """
    held = np.zeros(count, dtype=bool)
    draws = np.random.PCG64(seed).random_raw(count)
    held[np.argsort(draws, kind="stable")[: max(1, int(count * fraction))]] = True
    return held


def tail_border(characters: int, fraction: float) -> int:
    """How many characters come before the last `fraction`: int(n * (1 - fraction)), as nanoGPT cuts tiny-shakespeare.

    >>> tail_border(1_115_394, 0.1)
    1003854
    """
    return int(characters * (1 - fraction))
