"""What a person should know about a text before training on it: licence hints and personal data. Counted, never dropped.

Patterns find candidates, checksums (Luhn, IBAN's mod 97) decide. It is a hint list, not legal advice and not an anonymiser.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from phiforge.data.document import Document

# name -> words that give it away, lower case (str.count is many times faster than a regex that ignores case)
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


@dataclass
class Flags:
    """Counts over all documents scanned so far, with places to look at."""

    licences: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def scan_licences(self, document: Document) -> None:
        """Count the licence hints of a text as it came (before a header is taken off)."""
        lower = document.text.lower()
        for name, words in LICENCES.items():
            count = sum(lower.count(word) for word in words)
            if count:
                self.licences[name] += count
                first = min(at for at in (lower.find(word) for word in words) if at >= 0)
                self._example(name, document, first, "")

    def scan_personal(self, document: Document) -> None:
        """Count what looks like personal data in a text."""
        found: Counter[str] = Counter()
        for kind, at, value in personal_data(document.text):
            found[kind] += 1
            self._example(kind, document, at, redact(value), first=found[kind] == 1)
        self.personal.update(found)

    def _example(self, name: str, document: Document, at: int, shown: str, *, first: bool = True) -> None:
        if first:
            self.documents[name] += 1
        held = self.examples.setdefault(name, [])
        if first and len(held) < MAX_EXAMPLES:
            line = document.text.count("\n", 0, at) + 1
            held.append(f"{document.source}, line {line}" + (f": {shown}" if shown else ""))

    def report(self) -> dict[str, Any]:
        """For data.json."""

        def block(counts: Counter[str]) -> dict[str, Any]:
            return {
                name: {"count": count, "documents": self.documents[name], "examples": self.examples.get(name, [])}
                for name, count in counts.most_common()
            }

        return {"licences": block(self.licences), "personal_data": block(self.personal)}


def personal_data(text: str) -> Iterator[tuple[str, int, str]]:
    """(kind, position, value) of what looks like personal data: email, IBAN, credit card, IP address, phone number.

    Addresses in domains reserved for examples, and private or reserved IP addresses, do not count.
    """
    at = text.find("@")
    while at >= 0:  # a regex over the whole text would try every word
        near = _EMAIL.finditer(text, max(0, at - 65), at + 260)
        match = next((m for m in near if m.start() < at < m.end()), None)
        if match and not _EXAMPLE_DOMAINS.search(match.group()):
            yield "email", match.start(), match.group()
        at = text.find("@", at + 1)
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
