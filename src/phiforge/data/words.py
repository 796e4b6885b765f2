"""A text as a row of word hashes, so that texts can be compared whatever their case, punctuation, accents, line ends and hyphenation.

Near-duplicate removal and the check against evaluation items stand on this. numpy alone, more than 100 MB of text a second.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]
Codes = NDArray[np.uint32] | NDArray[np.uint8]

_PIECE = 1 << 15  # characters at a time: what the steps below hold then stays in a core's second-level cache
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_SOLO = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0xA4CF), (0xF900, 0xFAFF))  # written without blanks between words
# Between two letters or digits these are left out: don't = dont, well-known = wellknown. The last four are hyphens.
_JOINERS = "'’ʼ-\u00ad\u2010\u2011"
_POINTS = ".,:"  # and these between digits: 1,000 = 1000
_JOIN = np.uint64(1)
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}


@dataclass(frozen=True, slots=True)
class Words:
    """hashes (W,): one 64-bit number a word, equal for equal words. starts, ends (W,): where each lies in the text."""

    hashes: Hashes
    starts: Positions
    ends: Positions

    def __len__(self) -> int:
        return len(self.hashes)


def words(text: str) -> Words:
    """The words of `text`.

    A word is a run of letters, digits and their accents; case and accents don't count. An apostrophe or hyphen between two letters or
    digits is left out, a point, comma or colon between two digits, and a hyphen at the end of a line together with the line end. In scripts
    that are written without blanks (Chinese, Japanese, Thai, ...) each character is a word.

    >>> len(words("It's well-\\nknown.")), bool((words("ITS wellknown").hashes == words("it's well-known").hashes).all())
    (2, True)
    """
    parts, at = [], 0
    while at < len(text):
        end = _border(text, at)
        parts.append(_piece(text[at:end], at))
        at = end
    if not parts:
        return _piece("", 0)
    if len(parts) == 1:
        return parts[0]
    return Words(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("hashes", "starts", "ends")))


def grams(hashes: Hashes, n: int) -> Hashes:
    """(W - n + 1,): one number for each n words in a row; none where there are fewer than n."""
    if len(hashes) < n:
        return np.zeros(0, np.uint64)
    return mix(rolling(hashes, n))


def rolling(hashes: Hashes, n: int) -> Hashes:
    """(W - n + 1,): the polynomial sum of each n hashes in a row, built from sums of 1, 2, 4, ... of them."""
    done, built = 0, np.zeros(0, np.uint64)
    power, span = hashes, 1  # sums over `span` hashes
    factor = _BASE  # base ** span, modulo 2^64
    while span <= n:
        if n & span:
            count = len(hashes) - (done + span) + 1
            # the words already counted come first, so they are shifted by the span that is added
            built = power[:count].copy() if not done else built[:count] * np.uint64(factor) + power[done : done + count]
            done += span
        if span * 2 <= n:
            power = power[: len(power) - span] * np.uint64(factor) + power[span:]
            factor = factor * factor % (1 << 64)
        span *= 2
    return built


def mix(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _border(text: str, at: int) -> int:
    """Where the piece that begins at `at` ends: after a blank, if there is one, that does not follow a hyphen."""
    end = at + _PIECE
    if end >= len(text):
        return len(text)
    cut = end
    while (cut := text.rfind(" ", at + _PIECE // 2, cut)) > 0:
        if text[cut - 1].isalnum() and text[cut + 1].isalnum():
            return cut + 1
    return end


def _piece(text: str, offset: int) -> Words:
    if not text.isascii():
        for ligature, letters in _LIGATURES.items():
            if ligature in text:  # rare; positions then move by a character or two, which only shifts where a passage is cut
                text = text.replace(ligature, letters)
    table, powers, inverse = _tables()
    wide = not text.isascii()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32) if wide else np.frombuffer(text.encode(), np.uint8)
    if wide and len(codes) and int(codes.max()) >= len(table):
        values = np.where(codes < len(table), table[np.minimum(codes, len(table) - 1)], mix(codes.astype(np.uint64)) | np.uint64(2))
    else:
        values = table[codes]
    values, kept = _joined(values, codes)
    n = len(values)
    inside = np.zeros(n + 2, np.int8)
    inside[1:-1] = values != 0
    borders = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = borders[0::2], borders[1::2]
    if wide:
        starts, ends = _alone(codes if kept is None else codes[kept], starts, ends)
    sums = np.zeros(n + 1, np.uint64)
    np.cumsum(values * powers[:n], out=sums[1:])
    hashes = mix((sums[ends] - sums[starts]) * inverse[starts])
    if kept is not None and len(starts):
        starts, ends = kept[starts], kept[ends - 1] + 1
    return Words(hashes, starts + offset, ends + offset)


def _joined(values: Hashes, codes: Codes) -> tuple[Hashes, Positions | None]:
    """The values without the joiners that stand inside words; and which were kept, where any were left out."""
    at = np.flatnonzero(values == _JOIN)
    if not len(at):
        return values, None
    n = len(values)
    left, right = values[np.maximum(at - 1, 0)], values[np.minimum(at + 1, n - 1)]  # at the text's ends the joiner meets itself
    after_letter = left > _JOIN
    inside = after_letter & (right > _JOIN)
    sign, before, behind = codes[at], codes[np.maximum(at - 1, 0)], codes[np.minimum(at + 1, n - 1)]
    point = (sign == 0x2E) | (sign == 0x2C) | (sign == 0x3A)
    inside &= ~point | (_digits(before) & _digits(behind))
    drop = np.zeros(n, bool)
    drop[at[inside]] = True
    blank = codes[np.minimum(at + 1, n - 1)] <= 32
    sign = codes[at]
    for hyphen in at[
        after_letter & blank & ((sign == 0x2D) | (sign == 0xAD) | (sign == 0x2010) | (sign == 0x2011))
    ]:  # at the end of a line: gone, with the blanks after it
        end = int(hyphen) + 1
        while end < n and end < hyphen + 80 and codes[end] <= 32:
            end += 1
        if end < n and values[end] > _JOIN and (codes[hyphen + 1 : end] == 10).any():
            drop[hyphen:end] = True
    values = values.copy()
    values[at] = 0
    if not drop.any():
        return values, None
    kept = np.flatnonzero(~drop)
    return values[kept], kept


def _digits(codes: Codes) -> NDArray[np.bool_]:
    return (codes >= 48) & (codes <= 57)


def _alone(codes: Codes, starts: Positions, ends: Positions) -> tuple[Positions, Positions]:
    """Words of scripts without blanks cut into their characters."""
    solo = np.zeros(len(codes), bool)
    for low, high in _SOLO:
        solo |= (codes >= low) & (codes <= high)
    if not solo.any():
        return starts, ends
    inside = np.zeros(len(codes) + 1, np.int8)
    inside[starts] += 1
    inside[ends] -= 1
    letter = np.cumsum(inside[:-1]) > 0
    first = np.zeros(len(codes), bool)
    first[starts] = True
    first[1:] |= letter[1:] & letter[:-1] & (solo[1:] | solo[:-1])
    last = np.zeros(len(codes) + 1, bool)
    last[ends] = True
    last[1:-1] |= first[1:] & letter[:-1]
    return np.flatnonzero(first), np.flatnonzero(last)


@cache
def _tables() -> tuple[Hashes, Hashes, Hashes]:
    """A number for each character (0: between words, 1: joiner), powers of the base, and of its inverse."""
    folded = np.zeros(1 << 16, np.uint64)
    for code in range(1 << 16):
        if 0xD800 <= code < 0xE000:
            continue
        letter = unicodedata.normalize("NFKD", chr(code))[0].lower()[0]
        if letter.isalnum() or unicodedata.category(letter) in ("Mn", "Mc"):
            folded[code] = ord(letter)
    table = np.where(folded > 0, mix(folded * np.uint64(_BASE)) | np.uint64(2), np.uint64(0))
    table[0x300:0x370] = table[ord("^")]  # combining accents: set below
    for joiner in _JOINERS + _POINTS + "".join(map(chr, range(0x300, 0x370))):
        table[ord(joiner)] = _JOIN
    powers = _powers(_BASE, _PIECE + 1)
    return table, powers, _powers(pow(_BASE, -1, 1 << 64), _PIECE + 1)


def _powers(base: int, count: int) -> Hashes:
    values = [1]
    for _ in range(count - 1):
        values.append(values[-1] * base % (1 << 64))
    return np.array(values, np.uint64)


def spans(flags: NDArray[np.bool_], length: int) -> list[tuple[int, int]]:
    """(first, end) of the runs that windows of `length` cover, given the windows' flags.

    >>> spans(np.array([True, True, False, False, False, False, True]), 3)
    [(0, 4), (6, 9)]
    """
    found: list[tuple[int, int]] = []
    at = np.flatnonzero(flags)
    if not len(at):
        return found
    breaks = [0, *(np.flatnonzero(np.diff(at) > length) + 1), len(at)]
    for low, high in pairwise(breaks):
        found.append((int(at[low]), int(at[high - 1]) + length))
    return found
