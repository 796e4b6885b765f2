"""Documents that are no text to learn from: tables, lists, repetitions, boilerplate, gibberish. Each left out for a named reason.

Published rules where they hold for books, verse, plays and source code as well as for web pages: Gopher's (Rae et al. 2021, arXiv
2112.11446, table A1), C4's (Raffel et al. 2020, arXiv 1910.10683, section 2.2), FineWeb's (Penedo et al. 2024, arXiv 2406.17557). Rules of
theirs that would drop such texts are left out or loosened, each where it stands below. How short a document may be is
`min_characters`' to say. A long document is judged by samples of its beginning, middle and end.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

_LONG = 16_000  # characters; of a longer document three samples are read
_SAMPLE = 4_000
# Gopher: hash signs or ellipses a word. Headings and comments begin with one too, so hashes count as #this, behind another word.
_SYMBOLS, _HASHTAG = 0.1, re.compile(r"(?<=\S )#\w")
_BULLETS, _ELLIPSES = 0.9, 0.3  # Gopher: share of the lines that begin, or end, so
# Gopher: share of the characters in the most frequent n words in a row. In a short text three times is soon so many: five, at least.
_TOP, _TIMES = {2: 0.20, 3: 0.18, 4: 0.16}, 5
# Gopher: at most 0.2 of the characters in repeated lines. Plays repeat names and verse its refrains: lines from 20 characters on, and 0.3.
_REPEATED, _LINE = 0.3, 20
# Gopher: 80 % of the words have a letter. Half of the characters are letters even in dense source code, not in tables and dumps.
_LETTERS = 0.5
# Gopher: mean word length 3 to 10. Code is written without blanks, and verse in short words.
_SHORTEST, _LONGEST = 2.0, 16.0
_VOWELS = 0.23  # of the Latin letters; English .37, Python .33, random letters .19
_ENOUGH = 50  # words or characters: of fewer a share says little
_BROKEN = 0.01  # share of characters that stand for others lost
# FineWeb: a third of the lines, at most, shorter than 30 characters, and 12 % end in a mark. That is verse, plays and code. A list is
# short lines alone: names, entries of menus.
_LIST_LINES, _LIST_WORDS, _LIST_SHARE = 20, 4, 0.9
_BULLET = ("-", "*", "•", "‣", "◦", "●", "·", "–", "o ")
_ELLIPSIS = ("...", "…", ". . .")
# C4 takes out every line that speaks so. Here a page goes of which such lines, short ones, are a quarter and three at least.
_BOILERPLATE = re.compile(
    r"\b(?:terms of (?:use|service)|privacy policy|cookie policy|uses? cookies|all rights reserved|enable javascript|log in|sign in|sign up"
    r"|javascript is required|subscribe|add to cart|share this|skip to (?:main )?content)\b|©",
    re.I,
)
_BLANKS = b" \t\n\r\x0b\x0c"
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_NO_VOWELS = bytes(code for code in range(256) if chr(code) not in "aeiouAEIOU")
_NO_LATIN = bytes(code for code in range(256) if code > 127 or not chr(code).isalpha())


def check(text: str) -> str | None:
    """Why a document is left out, in a few words that don't depend on it (so that they can be counted), or None.

    >>> check("word " * 500), check("All human beings are born free and equal in dignity and rights.")
    ('quality: the same words again and again', None)
    """
    sample = _sample(text)
    encoded = sample.encode("utf-8", "surrogatepass")
    solid = encoded.translate(None, _BLANKS)
    if len(solid) < _ENOUGH:
        return None
    words = sample.split()
    wide = len(solid) > 1.5 * sum(map(len, words))  # scripts of two and more bytes a letter, some of which know no blanks
    reason = _characters(sample, encoded, solid) or _lines(sample, wide) or _words(sample, words, wide)
    return f"quality: {reason}" if reason else None


def _sample(text: str) -> str:
    """Whole lines where that is possible: a line cut in two is no line of the text."""
    if len(text) <= _LONG:
        return text
    pieces = []
    for start in (0, (len(text) - _SAMPLE) // 2, len(text) - _SAMPLE):
        begin = text.find("\n", start, start + 500) + 1 if start else 0
        begin = begin or start
        end = text.rfind("\n", begin + 1, begin + _SAMPLE)
        pieces.append(text[begin : end if end > begin + _SAMPLE // 2 else begin + _SAMPLE])
    return "\n".join(pieces)


def _characters(sample: str, encoded: bytes, solid: bytes) -> str | None:
    if sample.count("\ufffd") + encoded.count(b"\0") > _BROKEN * len(sample):
        return "broken characters"
    if len(solid.translate(None, _NO_LETTERS)) < _LETTERS * len(solid):
        return "few letters (a table, a dump)"
    latin = len(encoded.translate(None, _NO_LATIN))
    if latin > max(200, len(solid) // 2) and len(encoded.translate(None, _NO_VOWELS)) < _VOWELS * latin:
        return "gibberish (hardly a vowel)"
    if sample.lower().count("lorem ipsum") * 1000 > len(sample):
        return "placeholder text (lorem ipsum)"
    return None


def _lines(sample: str, wide: bool) -> str | None:
    lines = [line for raw in sample.split("\n") if (line := raw.strip())]
    count = len(lines)
    long = [line for line in lines if len(line) >= _LINE]
    size = sum(map(len, lines))
    if sum(map(len, long)) - sum(map(len, set(long))) > _REPEATED * size:
        return "the same lines again and again"
    if count >= 5:
        if sum(line.startswith(_BULLET) for line in lines) > _BULLETS * count:
            return "a list (bullets)"
        if sum(line.endswith(_ELLIPSIS) for line in lines) > _ELLIPSES * count:
            return "lines that break off"
    if len(sample) < 5000 and max(3, count / 4) <= sum(len(line) < 100 and bool(_BOILERPLATE.search(line)) for line in lines):
        return "boilerplate"
    if not wide and count >= _LIST_LINES and size < 30 * count and sum(map(_entry, lines)) > _LIST_SHARE * count:
        return "a list (short lines)"
    return None


def _entry(line: str) -> bool:
    """Whether a line may be one of a list: a few words, no sentence, no code."""
    return line.count(" ") < _LIST_WORDS and line[-1] not in ".!?\"”’);:,{}'" and not any(mark in line for mark in "(=;{")


def _words(sample: str, words: list[str], wide: bool) -> str | None:
    count = len(words)
    if count < _ENOUGH and (wide or len(sample) < _LONGEST * _ENOUGH):
        return None
    size = sum(map(len, words))
    if not wide and not _SHORTEST <= size / count <= _LONGEST:
        return "no words (letters apart, or without blanks)"
    if sum(word.endswith(_ELLIPSIS) for word in words) + len(_HASHTAG.findall(sample)) > _SYMBOLS * count:
        return "symbols for words"
    if count < 2 * _ENOUGH:
        return None
    for n, share in _TOP.items():
        top, times = Counter(zip(*(islice(words, start, None) for start in range(n)), strict=False)).most_common(1)[0]
        if times < _TIMES:
            return None  # nor is anything longer frequent
        if times * sum(map(len, top)) > share * size:
            return "the same words again and again"
    return None
