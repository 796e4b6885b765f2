"""Web archives: pages (response records) as text, and the text records (conversion) of .wet files. Standard: ISO 28500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiforge.data.document import Document
from phiforge.data.filters import normalise_line_ends
from phiforge.data.formats.compressed import Damaged
from phiforge.data.formats.html import charset_of, to_text
from phiforge.data.formats.optional import need
from phiforge.data.reading import read_bytes
from phiforge.data.unit import Intake, Unit

_PAGES = ("text/html", "application/xhtml+xml")


class _Stream:
    """The file's bytes as fastwarc asks for them: unpacked by our own readers, which know damage and bombs."""

    def __init__(self, path: Path) -> None:
        self._pieces, self._held, self._at = read_bytes(path), b"", 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        if not self._held:
            self._held = next(self._pieces, b"")
        out, self._held = (self._held, b"") if size < 0 else (self._held[:size], self._held[size:])
        if not self._at and not out.lstrip(b"\r\n").startswith(b"WARC/"[: len(out)]):
            raise Damaged("not a web archive", reason="corrupt WARC")
        self._at += len(out)
        return out

    def tell(self) -> int:
        """How many bytes were given."""
        return self._at


def read_warc(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a web archive, one a page. Raises Damaged, DataError: no archive, cut short, a record without a sound length."""
    warc = need("fastwarc.warc", ".warc")
    kinds = warc.WarcRecordType.response | warc.WarcRecordType.conversion | warc.WarcRecordType.resource
    stream, number, end, found = _Stream(Path(unit.path)), 0, 0, None
    try:
        for number, record in enumerate(warc.ArchiveIterator(stream, record_types=kinds, auto_decode="all", stream_detect=False), 1):
            if found is not None:  # kept until the next record shows that it was whole
                yield found
            end = record.stream_pos + record.content_length
            found = _document(record, number, unit, intake)
        if end > stream.tell():
            raise Damaged(f"record {number:,} is longer than what is left of the file", reason="corrupt WARC")
        if found is not None:
            yield found
    except Damaged as damage:
        if found is not None and end <= stream.tell():
            yield found
        what = damage.what if damage.what.startswith(unit.path) else f"{unit.path}: {damage.what}"
        raise Damaged(what, reason=damage.reason, fix=damage.fix or "fetch it again") from None
    except BaseException as error:
        if not isinstance(error, OSError | ValueError | EOFError) and type(error).__name__ != "PanicException":  # fastwarc's own faults
            raise
        if found is not None and end <= stream.tell():
            yield found
        what = f"{unit.path}: not a sound web archive after record {number:,} ({str(error)[:100]})"
        raise Damaged(what, reason="corrupt WARC", fix="fetch it again") from None


def _document(record: Any, number: int, unit: Unit, intake: Intake) -> Document | None:
    source = f"{unit.label}:{record.headers.get('WARC-Target-URI') or number}"
    kind = (record.http_content_type if record.http_headers is not None else record.headers.get("Content-Type") or "") or ""
    kind = kind.split(";")[0].strip().lower()
    status = getattr(record.http_headers, "status_code", None)
    if status is not None and status != 200:
        intake.skip(f"web page with status {status}", source)
        return None
    if kind not in _PAGES and kind != "text/plain":
        intake.skip("web record that is no page of text", source)
        return None
    try:
        body = record.reader.read(intake.max_document_bytes + 1)
    except (OSError, ValueError):
        intake.skip("web page that can't be unpacked", source)
        return None
    if len(body) > intake.max_document_bytes:
        intake.skip("page too long (max_document_bytes)", source)
        return None
    text = body.decode(charset_of(body if kind in _PAGES else b"", record.http_charset), errors="replace")
    text = to_text(text) if kind in _PAGES else normalise_line_ends(text.replace("\0", ""))
    if not text.strip():
        intake.skip("page without text", source)
        return None
    return Document.of(text, source)
