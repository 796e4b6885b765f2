"""What is taken off a text before it is a document."""

from __future__ import annotations

import re

# Project Gutenberg's own markers; the wording changed over the years ("EBOOK", "ETEXT", with and without "THE").
_START = re.compile(
    r"^[ \t]*\*{3} ?START OF (?:THE |THIS )?PROJECT GUTENBERG (?:EBOOK|ETEXT)\b[^\n]*(?:(?<!\*\*\*)\n[^\n*]+\*{3})?[ \t]*\n?", re.M | re.I
)
_SMALL_PRINT = re.compile(r"^\*END[* ]*THE SMALL PRINT![^\n]*\n?", re.M | re.I)
_END = re.compile(r"^[ \t]*\*{3} ?END OF (?:THE |THIS )?PROJECT GUTENBERG (?:EBOOK|ETEXT)\b", re.M | re.I)
_END_OLD = re.compile(r"^[ \t]*End of (?:the |this )?Project Gutenberg(?:'s|’s)?\b[^\n]*$", re.M | re.I)

# Who typed the book in, as a paragraph of its own at the front; the note of whoever did, in brackets, under a heading or after one.
_CREDIT = re.compile(
    r"\s*(?:This (?:eBook|etext|file) was )?(?:Produced|Prepared|Transcribed|Scanned|E-?text prepared|HTML version) (?:by|from)\b"
    r"(?:[^\n]+\n){1,8}\s*\n",
    re.I,
)
_NOTE = re.compile(
    r"^[ \t]*(?:\[(?:Original )?Transcriber['’]?s?['’]? notes?\b[^\]]{0,3000}\]"
    r"|(?:Original )?Transcriber['’]?s?['’]? notes?[:.]?[ \t]*\n(?:[ \t]*\n){0,3}(?:[^\n]*\S[^\n]*\n){1,30}"
    r"|(?:Original )?Transcriber['’]?s?['’]? notes?: *\S(?:[^\n]*\S[^\n]*\n){1,30})[ \t]*\n?",
    re.I | re.M,
)
GUTENBERG_WORDS = ("project gutenberg ebook", "project gutenberg etext", "the small print!")  # one is in every marker of a beginning
_NEAR = 20_000  # characters at either end of a book, where such notes stand


def normalise_line_ends(text: str) -> str:
    """CRLF and lone CR become LF; a byte-order mark at the front goes."""
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def strip_gutenberg(text: str) -> tuple[str, bool]:
    """The book without Project Gutenberg's header, licence and footer, and whether there were any; credits and transcribers' notes go too.

    Only a text with a start marker is touched. Blank lines at the new borders go too.
    """
    start = _START.search(text) or _SMALL_PRINT.search(text)
    if start is None:
        return text, False
    end = _END.search(text, start.end())
    body = text[start.end() : end.start() if end else len(text)]
    old = _END_OLD.search(body, max(0, len(body) - 2000))
    if old is not None:
        body = body[: old.start()]
    return _without_notes(body).strip("\n \t") + "\n", True


def _without_notes(body: str) -> str:
    """The book alone: nothing between is touched, where a writer may speak of transcribers."""
    credit = _CREDIT.match(body)
    body = body[credit.end() :] if credit else body
    if len(body) <= 2 * _NEAR:
        return _NOTE.sub("", body)
    return _NOTE.sub("", body[:_NEAR]) + body[_NEAR:-_NEAR] + _NOTE.sub("", body[-_NEAR:])
