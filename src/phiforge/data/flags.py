"""What a person should know about a text before training on it: licence hints and personal data. Counted, never dropped.

Patterns find candidates, checksums (Luhn, IBAN's mod 97) decide. It is a hint list, not legal advice and not an anonymiser.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tiktoken

from phiforge.data.document import Document

# name -> words that give it away, lower case
LICENCES: dict[str, tuple[str, ...]] = {
    "SPDX tag": ("spdx-license-identifier",),
    "Creative Commons": ("creative commons", "creativecommons.org", "cc-by", "cc by-"),
    "Project Gutenberg License": ("project gutenberg license", "project gutenberg-tm license", "project gutenberg™ license"),
    "All rights reserved": ("all rights reserved",),
    "GPL": ("general public license", "gplv2", "gplv3", "gpl-2", "gpl-3"),
    "Apache License": ("apache license",),
    "MIT License": ("permission is hereby granted, free of charge", "mit license"),
    "BSD License": ("redistribution and use in source and binary forms", "bsd license"),
    "Mozilla Public License": ("mozilla public license",),
    "Python Software Foundation": ("licensed to psf", "psf license", "python software foundation license"),
    "public domain": ("public domain",),
    "copyright notice": ("copyright (c)", "copyright ©", "©"),
}
PERSONAL = ("email", "IBAN", "credit card", "IP address", "phone number")
KINDS = (*LICENCES, *PERSONAL)
_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
_EXAMPLE_DOMAINS = re.compile(r"@(?:.*\.)?(?:example|test|invalid|localhost)(?:\.\w+)?$", re.I)
_DIGITS = re.compile(r"[0-9](?:[0-9 .()-]{6,}|[0-9] ?[A-Z0-9]{4} ?[A-Z0-9]{4})")  # where a look is worth while
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.-])[2-6]\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?![\d.-])")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,8}){1,4}"
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-]|\.\d)"
)
MAX_EXAMPLES = 5
_MARGIN = 80  # bytes looked at on both sides of digits: longer than any of those numbers


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was met `count` times in a document, and where first: a position in its bytes, and what to show of it."""

    kind: str
    count: int
    at: int
    shown: str = ""

    def where(self, encoded: bytes, source: str) -> str:
        """ "book.txt, line 3: j***g"."""
        number = encoded.count(b"\n", 0, self.at) + 1
        return f"{source}, line {number}" + (f": {self.shown}" if self.shown else "")


@functools.cache
def _searcher(words: tuple[str, ...]) -> tiktoken.Encoding:
    """Many words looked for at once, whatever their case: tiktoken's engine gives tokens for what matches and nothing for the rest.

    Python's own `re` would try every position (50 MB/s), a search for each word reads the text as often (130 MB/s); this reads 570 MB/s.
    """
    pattern = f"(?i:{'|'.join(map(re.escape, words))})"
    return tiktoken.Encoding("words", pat_str=pattern, mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={})


def may_hold(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of `words` may be in a text; never False where one is."""
    return bool(_searcher(words).encode_ordinary(text))


LICENCE_WORDS = tuple(word for words in LICENCES.values() for word in words)


def licence_findings(encoded: bytes) -> list[Finding]:
    """Licence hints in a text (UTF-8) as it came, before a header is taken off."""
    lower = encoded.lower()
    found = []
    for name, words in LICENCES.items():
        places = [(lower.count(word), lower.find(word)) for word in (word.encode() for word in words) if word in lower]
        if places:
            found.append(Finding(name, sum(count for count, _ in places), min(at for _, at in places)))
    return found


def personal_findings(encoded: bytes) -> list[Finding]:
    """What looks like personal data in a text (UTF-8), the values blacked out."""
    counts: Counter[str] = Counter()
    first: dict[str, tuple[int, str]] = {}
    for kind, at, value in _personal(encoded):
        counts[kind] += 1
        first.setdefault(kind, (at, redact(value)))
    return [Finding(kind, count, *first[kind]) for kind, count in counts.items()]


@dataclass
class Flags:
    """Counts over all documents scanned so far, with places to look at."""

    counts: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def scan_licences(self, document: Document) -> None:
        """Count the licence hints of a text as it came (before a header is taken off)."""
        encoded = document.text.encode("utf-8")
        self.add(licence_findings(encoded), encoded, document.source)

    def scan_personal(self, document: Document) -> None:
        """Count what looks like personal data in a text."""
        encoded = document.text.encode("utf-8")
        self.add(personal_findings(encoded), encoded, document.source)

    def add(self, findings: Iterable[Finding], encoded: bytes, source: str) -> None:
        """Count what one document holds."""
        for finding in findings:
            self.counts[finding.kind] += finding.count
            self.documents[finding.kind] += 1
            if len(self.examples.get(finding.kind, ())) < MAX_EXAMPLES:
                self.example(finding.kind, finding.where(encoded, source))

    def example(self, kind: str, where: str) -> None:
        """Keep a place to look at, as long as there are few."""
        held = self.examples.setdefault(kind, [])
        if len(held) < MAX_EXAMPLES:
            held.append(where)

    def report(self) -> dict[str, Any]:
        """For data.json."""

        def block(kinds: Iterable[str]) -> dict[str, Any]:
            met = Counter({kind: self.counts[kind] for kind in kinds if self.counts[kind]})
            return {
                kind: {"count": count, "documents": self.documents[kind], "examples": self.examples.get(kind, [])}
                for kind, count in met.most_common()
            }

        return {"licences": block(LICENCES), "personal_data": block(PERSONAL)}


def personal_data(text: str) -> Iterator[tuple[str, int, str]]:
    """(kind, position, value) of what looks like personal data: email, IBAN, credit card, IP address, phone number.

    Addresses in domains reserved for examples, and private or reserved IP addresses, do not count.
    """
    encoded = text.encode("utf-8")
    for kind, at, value in _personal(encoded):
        yield kind, len(encoded[:at].decode("utf-8", errors="ignore")), value


def _personal(encoded: bytes) -> Iterator[tuple[str, int, str]]:
    """`personal_data` of UTF-8 bytes, positions in bytes."""
    at = encoded.find(b"@")
    while at >= 0:  # a regex over the whole text would try every word
        low, near = _window(encoded, at - 130, at + 260)
        match = next((m for m in _EMAIL.finditer(near) if _bytes(near, m.start()) < at - low < _bytes(near, m.end())), None)
        if match and not _EXAMPLE_DOMAINS.search(match.group()):
            yield "email", low + _bytes(near, match.start()), match.group()
        at = encoded.find(b"@", at + 1)
    for begin, end in _dense(encoded):
        low, near = _window(encoded, begin, end)
        for kind, start, value in _numbers(near):
            yield kind, low + _bytes(near, start), value


def _bytes(text: str, at: int) -> int:
    return len(text[:at].encode("utf-8"))


def _window(encoded: bytes, low: int, high: int) -> tuple[int, str]:
    """(where it begins, text) of a piece of `encoded`; characters that are cut at its ends are left out."""
    low = max(0, low)
    while low < len(encoded) and encoded[low] & 0xC0 == 0x80:
        low += 1
    return low, encoded[low:high].decode("utf-8", errors="ignore")


def _dense(encoded: bytes) -> list[tuple[int, int]]:
    """Where digits stand so close that a number of the kinds we look for may be there: 8 of them within 40 bytes, or d.d.d."""
    text = np.frombuffer(encoded, np.uint8)
    digits = np.flatnonzero((text - np.uint8(48)) < 10)  # wraps below "0"
    if len(digits) < 4:
        return []
    many = np.flatnonzero(digits[7:] - digits[:-7] <= 40)
    dots = digits[:-1][(np.diff(digits) == 2) & (text[np.minimum(digits[:-1] + 1, len(text) - 1)] == ord("."))]
    near = np.flatnonzero(dots[2:] - dots[:-2] <= 8)
    begins = np.concatenate([digits[many], dots[near]])
    ends = np.concatenate([digits[many + 7], dots[near + 2]])
    order = np.argsort(begins, kind="stable")
    spans: list[tuple[int, int]] = []
    for begin, end in zip((begins[order] - _MARGIN).tolist(), (ends[order] + _MARGIN).tolist(), strict=True):
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    return spans


def _numbers(text: str) -> Iterator[tuple[str, int, str]]:
    taken = -1
    for rough in _DIGITS.finditer(text):
        low, high = max(0, rough.start() - 5), rough.end() + 40  # an IBAN goes on with letters
        for kind, pattern, genuine in _NUMBERS:
            for match in pattern.finditer(text, low, high):
                if match.start() >= taken and match.start() < rough.end() and genuine(match.group()):
                    taken = match.end()
                    yield kind, match.start(), match.group()


def luhn(digits: str) -> bool:
    """Whether a card number's check digit is right (ISO/IEC 7812)."""
    values = [int(d) for d in reversed(digits)]
    return sum(values[0::2]) % 10 == -sum(sum(divmod(2 * v, 10)) for v in values[1::2]) % 10


def _is_card(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 2 and luhn(digits)


def _is_iban(value: str) -> bool:
    plain = value.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_public(value: str) -> bool:
    try:
        return ipaddress.IPv4Address(value).is_global
    except ValueError:
        return False


def _is_phone(value: str) -> bool:
    return 9 <= sum(c.isdigit() for c in value) <= 15


_NUMBERS = (
    ("IBAN", _IBAN, _is_iban),
    ("credit card", _CARD, _is_card),
    ("IP address", _IPV4, _is_public),
    ("phone number", _PHONE, _is_phone),
)


def redact(value: str) -> str:
    """The first and last characters; what lies between becomes stars.

    >>> redact("jane.doe@host.org"), redact("+49 30 1234567")
    ('j***g', '+***7')
    """
    return f"{value[0]}***{value[-1]}"
