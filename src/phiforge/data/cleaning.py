"""What is done to one document by itself: headers off, hints noted, and a reason to leave it out where there is one.

Made once a process, from the config alone; the same document always comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.filters import strip_gutenberg
from phiforge.data.flags import Finding, licence_findings, personal_findings

Check = Callable[[str], str | None]  # a text -> why it is left out, or None


@dataclass(slots=True)
class Cleaned:
    """A document after its cleaning. reason: why it is left out, "" when it comes through. encoded: its UTF-8 bytes."""

    text: str
    encoded: bytes
    raw_bytes: int
    stripped: bool
    reason: str
    licences: list[Finding]
    personal: list[Finding]


class Cleaner:
    """Call it with a document."""

    def __init__(self, config: DataPrepareConfig) -> None:
        self._gutenberg = config.strip_gutenberg
        self._checks = checks(config)

    def __call__(self, document: Document) -> Cleaned:
        """The cleaned text, or the reason why it is left out."""
        text, encoded = document.text, document.text.encode("utf-8")
        licences = licence_findings(encoded)
        raw, stripped = len(encoded), False
        if self._gutenberg:
            text, stripped = strip_gutenberg(text)
            encoded = text.encode("utf-8") if stripped else encoded
        reason = "empty" if not text or text.isspace() else next(filter(None, (check(text) for check in self._checks)), "")
        return Cleaned(text, encoded, raw, stripped, reason, licences, [] if reason else personal_findings(encoded))


def checks(config: DataPrepareConfig) -> list[Check]:
    """The checks that the config asks for, the cheap ones first."""
    found: list[Check] = []
    if config.min_characters:
        found.append(_at_least(config.min_characters))
    return found


def _at_least(characters: int) -> Check:
    reason = f"shorter than {characters:,} characters"
    return lambda text: reason if len(text) < characters else None
