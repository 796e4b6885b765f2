"""Licence hints and personal data are found, checked and shown without giving them away."""

from __future__ import annotations

import pytest

from phiforge.data.document import Document
from phiforge.data.filters import GUTENBERG_WORDS
from phiforge.data.flags import LICENCE_WORDS, Flags, luhn, may_hold, personal_data

FOUND = {
    "write to jane.doe+x@mail.host.org, please": [("email", "jane.doe+x@mail.host.org")],
    "<a@b.de>;c@d.fr": [("email", "a@b.de"), ("email", "c@d.fr")],
    "call +49 30 1234567 now": [("phone number", "+49 30 1234567")],
    "(212) 555-0123 or 212-555-0124": [("phone number", "(212) 555-0123"), ("phone number", "212-555-0124")],
    "IBAN DE89 3704 0044 0532 0130 00.": [("IBAN", "DE89 3704 0044 0532 0130 00")],
    "GB82WEST12345698765432": [("IBAN", "GB82WEST12345698765432")],
    "card 4111 1111 1111 1111!": [],  # two different digits only: a placeholder
    "card 4539 1488 0343 6467!": [("credit card", "4539 1488 0343 6467")],
    "from 8.8.8.8 to 1.1.1.1": [("IP address", "8.8.8.8"), ("IP address", "1.1.1.1")],
}
QUIET = [
    "user@example.com, me@test, a@localhost",
    "192.168.0.1, 127.0.0.1, 10.1.2.3, 300.1.2.3, 1.2.3.4.5",
    "4539 1488 0343 6468",
    "DE89 3704 0044 0532 0130 01",
    "3.14159265358979323846, 1234567890123456, 2024-01-31 12:30:45, 0xdeadbeef00000000",
    "@decorator\ndef f(): pass",
]


@pytest.mark.parametrize("text", FOUND)
def test_found(text: str) -> None:
    assert sorted((kind, value) for kind, _, value in personal_data(text)) == sorted(FOUND[text])
    assert all(text[at:].startswith(value) for _, at, value in personal_data(text))


@pytest.mark.parametrize("text", QUIET)
def test_quiet(text: str) -> None:
    assert list(personal_data(text)) == []


@pytest.mark.parametrize("word", [*LICENCE_WORDS, *GUTENBERG_WORDS])
def test_no_hint_is_passed_over(word: str) -> None:
    """The fast look that comes first finds each word, in any case, within a word or not, beside any character."""
    marks = (*LICENCE_WORDS, *GUTENBERG_WORDS)
    for text in (word, word.upper(), word.title(), f"x{word}x", f"“{word}”\n", f"{'Éa ' * 99}{word}"):
        assert may_hold(text, marks)
    assert not may_hold("a licence, creative, of the public; GPT and Gutenberg's press, copyrighted", marks)


def test_luhn() -> None:
    assert luhn("79927398713") and not luhn("79927398710")


def test_counts_and_redacted_examples() -> None:
    flags = Flags()
    document = Document.of(
        "# SPDX-License-Identifier: MIT\n# All Rights Reserved. All rights reserved.\nmail jane@host.org joe@host.org\n", "a.py"
    )
    flags.scan_licences(document)
    flags.scan_personal(document)
    report = flags.report()
    assert report["licences"]["SPDX tag"] == {"count": 1, "documents": 1, "examples": ["a.py, line 1"]}
    assert report["licences"]["All rights reserved"]["count"] == 2
    assert report["personal_data"]["email"] == {"count": 2, "documents": 1, "examples": ["a.py, line 3: j***g"]}
    assert "jane" not in str(report)
