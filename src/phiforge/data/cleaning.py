"""What is done to one document by itself: headers off, hints noted, and a reason to leave it out where there is one.

Made once a process, from the config alone; the same document always comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from phiforge.data import quality
from phiforge.data.config import DataPrepareConfig
from phiforge.data.contamination import EvaluationSet, decontaminate
from phiforge.data.document import Document
from phiforge.data.filters import GUTENBERG_WORDS, strip_gutenberg
from phiforge.data.flags import LICENCE_WORDS, Finding, licence_findings, may_hold, personal_findings
from phiforge.data.language import language_check

_MARKS = (*LICENCE_WORDS, *GUTENBERG_WORDS)
Check = Callable[[str], str | None]  # a text -> why it is left out, or None


@dataclass(slots=True)
class Cleaned:
    """A document after its cleaning. reason: why it is left out, "" when it comes through. encoded: its UTF-8 bytes."""

    text: str
    encoded: bytes
    source: str
    raw_bytes: int = 0  # as it was read; 0 for the second and later pieces of a document
    begins: bool = True  # False for those
    stripped: bool = False
    reason: str = ""
    cut: int = 0  # passages that were taken out of the document
    licences: list[Finding] = field(default_factory=list)
    personal: list[Finding] = field(default_factory=list)


class Cleaner:
    """Call it with a document."""

    def __init__(self, config: DataPrepareConfig) -> None:
        self._gutenberg = config.strip_gutenberg
        self._checks = checks(config)
        self._evaluation = EvaluationSet.from_paths(config.evaluation) if config.evaluation else None

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What evaluation items are looked for, with a sha256 of them; None where none are."""
        return {**self._evaluation.report(), "sha256": self._evaluation.sha256} if self._evaluation else None

    def __call__(self, document: Document) -> list[Cleaned]:
        """The document cleaned, or with the reason why it is left out; several pieces where passages were taken out of a long one."""
        text, encoded = document.text, document.text.encode("utf-8")
        made = Cleaned(text, encoded, document.source, len(encoded))
        marked = may_hold(text, _MARKS)  # most texts hold nothing to look at twice
        made.licences = licence_findings(encoded) if marked else []
        if self._gutenberg and marked:
            made.text, made.stripped = strip_gutenberg(text)
            made.encoded = made.text.encode("utf-8") if made.stripped else encoded
        empty = not made.text or made.text.isspace()
        made.reason = "empty" if empty else next(filter(None, (check(made.text) for check in self._checks)), "")
        found = self._without_items(made) if self._evaluation is not None and not made.reason else [made]
        for piece in found:
            piece.personal = [] if piece.reason else personal_findings(piece.encoded)
        return found

    def _without_items(self, made: Cleaned) -> list[Cleaned]:
        """What is left of a document when the evaluation items in it are taken out."""
        assert self._evaluation is not None
        kept, hits = decontaminate(made.text, self._evaluation)
        if not hits:
            return [made]
        pieces = [text for text in kept if not text.isspace()]
        if not pieces:
            made.reason = f"holds an item of {hits[0].set}"
            return [made]
        found = [Cleaned(text, text.encode("utf-8"), f"{made.source}#kept{n}", begins=not n) for n, text in enumerate(pieces)]
        found[0].raw_bytes, found[0].stripped, found[0].licences, found[0].cut = made.raw_bytes, made.stripped, made.licences, len(hits)
        return found


def checks(config: DataPrepareConfig) -> list[Check]:
    """The checks that the config asks for, the cheap ones first. A library is loaded where its check is asked for."""
    found: list[Check] = []
    if config.min_characters:
        found.append(_at_least(config.min_characters))
    if config.language:
        found.append(language_check(config.language))
    if config.quality == "standard":
        found.append(quality.check)
    return found


def _at_least(characters: int) -> Check:
    reason = f"shorter than {characters:,} characters"
    return lambda text: reason if len(text) < characters else None
