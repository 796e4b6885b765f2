"""HTML to text: what a reader would see, a paragraph a block. No library: one pass of one regular expression over the markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from phiforge.data.document import Document
from phiforge.data.formats.compressed import Damaged
from phiforge.data.formats.text import decode
from phiforge.data.reading import read_bytes
from phiforge.data.unit import Intake, Unit

# Every alternative begins with "<" and none can be matched in two ways, so time grows with length alone.
_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|<[!?][^>]*>?|<(?P<end>/?)(?P<name>[a-zA-Z][a-zA-Z0-9:-]*)(?:[^>\"']|\"[^\"]*\"|'[^']*')*+>?", re.S)
_RAW = {name: re.compile(f"</{name}(?![a-z0-9])", re.I) for name in ("script", "style", "title", "textarea", "iframe", "noscript")}
_UNSEEN = frozenset("template svg math object select button nav".split())
_BLOCKS = frozenset(
    "p div section article main aside header footer h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote figure figcaption hr body form".split()
)
_LINES = frozenset("br li tr dt dd option".split())
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]{2,40})", re.I)
_TITLE = re.compile(r"<title[^>]{0,200}>(.{1,1000}?)</title", re.S | re.I)


def to_text(markup: str) -> str:
    """The text of a page: its title, then its blocks, a blank line between them.

    >>> to_text("<title>T</title><p>a &amp; <b>b</b></p><script>x</script><p>c<br>d")
    'T\\n\\na & b\\n\\nc\\nd\\n'
    """
    title = _TITLE.search(markup)
    out: list[str] = [title[1], "\n\n"] if title else []
    out += _seen(markup)
    text = html.unescape("".join(out)).replace("\0", "").replace("\xa0", " ")
    lines = (" ".join(line.split()) for line in text.split("\n"))
    blocks = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    return blocks + "\n" if blocks else ""


def _seen(markup: str) -> Iterator[str]:
    """Runs of visible text and the breaks between them."""
    at, hidden, depth = 0, "", 0
    while True:
        found = _MARKUP.search(markup, at)
        if not hidden:
            yield markup[at : found.start() if found else len(markup)].replace("\n", " ").replace("\r", " ")
        if found is None:
            return
        at, name = found.end(), (found["name"] or "").lower()
        begins = not found["end"] and not found[0].endswith("/>")
        if name in _RAW and begins:  # "<" means nothing in there
            end = _RAW[name].search(markup, at)
            at = end.start() if end else len(markup)
        elif hidden:
            depth += 0 if name != hidden else 1 if begins else -1
            hidden = hidden if depth > 0 else ""
        elif name in _UNSEEN and begins:
            hidden, depth = name, 1
        elif name in _BLOCKS:
            yield "\n\n"
        elif name in _LINES:
            yield "\n"
        elif name in ("td", "th"):
            yield " "


def charset_of(page: bytes, declared: str | None = None) -> str:
    """The page's encoding: as its server or its own head says, else UTF-8."""
    found = _CHARSET.search(page, 0, 2048)
    for name in (declared, found[1].decode("ascii") if found else None):
        try:
            if name and not "".encode(name):
                return name
        except (LookupError, ValueError):
            continue
    return "utf-8"


def read_html(unit: Unit, intake: Intake) -> Iterator[Document]:
    """A page as a document. Raises DataError, Damaged: a page of more than `max_document_bytes`."""
    page = bytearray()
    for piece in read_bytes(Path(unit.path)):
        page += piece
        if len(page) > intake.max_document_bytes:
            what = f"{unit.path}: a page of more than {intake.max_document_bytes:,} bytes"
            raise Damaged(what, reason="page too long (max_document_bytes)", fix="raise max_document_bytes")
    name = charset_of(bytes(page))
    text = decode(bytes(page), 0, unit, intake) if name.lower().replace("-", "") == "utf8" else page.decode(name, errors="replace")
    if text is None:
        return
    body = to_text(text)
    if body:
        yield Document.of(body, unit.label)
    else:
        intake.skip("page without text", unit.label)
