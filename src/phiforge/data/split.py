"""Which text is held out: pure functions of sizes and names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Sequence

# A heading that opens a chapter, act or section, alone on its line.
_HEADING = re.compile(
    r"\n\n+(?=[ \t]*(?:(?:CHAPTER|Chapter|BOOK|Book|PART|Part|ACT|SCENE|LETTER|Letter|STAVE|VOLUME)\b[^\n]{0,80}"
    r"|#{1,3} [^\n]{1,80}|[IVXLC]+\.?)\n)"
)
_BORDERS = (re.compile(r"\n[ \t]*\n+"), re.compile(r"\n"), re.compile(r"[.!?]\s"), re.compile(r"\s"))
_SLACK = 0.3  # how far past the asked share one document may carry us


def order(seed: int, name: Hashable) -> bytes:
    """A place in a shuffled order that depends on the seed and the name alone."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


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


def tail_border(characters: int, fraction: float) -> int:
    """How many characters come before the last `fraction`: int(n * (1 - fraction)), as nanoGPT cuts tiny-shakespeare.

    >>> tail_border(1_115_394, 0.1)
    1003854
    """
    return int(characters * (1 - fraction))
