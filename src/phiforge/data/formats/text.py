"""Plain text: a file is a document; what is longer than max_document_bytes is cut at paragraphs. Decoding, for every format."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from phiforge.core.errors import DataError
from phiforge.data.document import Document
from phiforge.data.filters import normalise_line_ends
from phiforge.data.reading import COMPRESSED, block_borders, read_bytes, split_blocks
from phiforge.data.unit import Intake, Unit

_BINARY = "binary (contains zero bytes)"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
TEXT_FIX = "phiforge reads UTF-8 text; encoding_errors=repair reads UTF-16 and Windows-1252 too"


def plan(path: Path, size: int, limit: int, target: int) -> list[tuple[int, int, int]]:
    """(start, stop, documents before it) of pieces of about `target` bytes whose documents are those of the file read whole."""
    with path.open("rb") as stream:
        head = stream.read(1 << 13)
    if head[:2] in _UTF16 or b"\0" in head:
        return [(0, size, 0)]
    pieces, begin, first, number = [], 0, 0, 0
    for number, border in enumerate(block_borders(path, size, limit=limit), 1):
        if border - begin >= target:
            pieces.append((begin, border, first))
            begin, first = border, number
    return [*pieces, (begin, size, first)]


def read_text(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a text file, or of one piece of a large one. Raises DataError naming file and byte where the file was named."""
    path, whole = Path(unit.path), Path(unit.path).suffix.lower() in COMPRESSED
    pieces = read_bytes(path) if whole else read_bytes(path, unit.start, unit.stop)
    yield from documents_of(pieces, unit, intake)


def documents_of(pieces: Iterator[bytes], unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a stream of bytes."""
    if not unit.start and intake.encoding_errors == "repair":
        pieces = _from_utf16(pieces, intake)
    part = unit.part
    for start, block in split_blocks(pieces, limit=intake.max_document_bytes, start=unit.start):
        zero = block.find(b"\0")
        if zero >= 0:
            utf16 = block[:2] in _UTF16
            what = "UTF-16 text" if utf16 else f"not text (a zero byte at position {start + zero:,})"
            fix = "encoding_errors=repair reads it; or convert it: iconv -f UTF-16 -t UTF-8" if utf16 else TEXT_FIX
            unit.fault(intake, "UTF-16 text" if utf16 else _BINARY, f"{unit.path}: {what}", fix=fix)
            if not start:
                return
            part += 1
            continue
        text = decode(block, start, unit, intake)
        if text is not None:
            intake.cut += bool(part)
            yield Document.of(normalise_line_ends(text), unit.label + (f"#{part}" if part else ""))
        part += 1
    if part == unit.part and not unit.start:
        intake.skip("empty", unit.label)


def _from_utf16(pieces: Iterator[bytes], intake: Intake) -> Iterator[bytes]:
    head = next(pieces, b"")
    name = _UTF16.get(head[:2])
    if name is None:
        yield from chain((head,) if head else (), pieces)
        return
    intake.repaired += 1
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    for piece in chain((head[2:],), pieces):
        yield decoder.decode(piece).encode("utf-8", errors="replace")
    yield decoder.decode(b"", final=True).encode("utf-8", errors="replace")


def decode(block: bytes, start: int, unit: Unit, intake: Intake, place: Callable[[], str] = str) -> str | None:
    """Bytes as text, by `encoding_errors`; None: left out, and counted."""
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        if intake.encoding_errors in ("replace", "repair"):
            intake.repaired += 1
            return block.decode("utf-8", errors="replace" if intake.encoding_errors == "replace" else "phiforge-windows-1252")
        if intake.encoding_errors == "skip":
            intake.skip("not UTF-8", unit.label)
            return None
        raise DataError(
            f"{unit.path}{place()}: not valid UTF-8 at byte {start + error.start:,} (0x{block[error.start]:02x})",
            fix="convert the file to UTF-8, or set encoding_errors=repair, replace or skip",
        ) from None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Only the bytes that are no UTF-8 are read as Windows-1252, so a file of both comes out right."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("windows-1252", errors="replace"), error.end


codecs.register_error("phiforge-windows-1252", _as_windows_1252)
