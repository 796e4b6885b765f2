"""A .json file: a list of objects, or objects one after the other, parsed one at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from phiforge.core.errors import DataError
from phiforge.data.document import Document
from phiforge.data.formats.records import BadRecord, document_of
from phiforge.data.formats.text import TEXT_FIX
from phiforge.data.reading import read_bytes
from phiforge.data.unit import Intake, Unit

_BETWEEN = re.compile(r"[\s,]*")
_FORM = '[{"text": "..."}, ...], or .jsonl with one object a line'


def read_json(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a .json file, one an object. Raises DataError naming the record where the file was named."""
    number = 0
    try:
        for number, record in enumerate(_values(unit, intake), 1):
            source = f"{unit.label}:{number}"
            try:
                found = document_of(record, source, intake)
            except BadRecord as bad:
                bad.tell(unit, intake, f", record {number:,}", source)
                continue
            if found is not None:
                yield found
    except BadRecord as bad:  # what comes after it can't be found
        bad.tell(unit, intake, f", record {number + 1:,}", unit.label)


def _values(unit: Unit, intake: Intake) -> Iterator[object]:
    """The values of the list (or of the sequence); the list's brackets need not be matched by the parser, so memory stays flat."""
    decoder = json.JSONDecoder()
    pieces = _decoded(unit, intake)
    held = next(pieces, "").lstrip()
    at, in_list, ended = 0, held.startswith("["), False
    at = int(in_list)
    while True:
        at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]
        if in_list and held.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(held, at) if at < len(held) else (None, -1)
            if end == len(held) and not ended:
                end = -1  # a number may go on
        except (ValueError, RecursionError) as error:
            if ended or isinstance(error, RecursionError):
                what = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
                raise BadRecord("broken .json", f"not JSON ({what})", _FORM) from None
            if len(held) - at > intake.max_line_bytes:
                what = f"an object of more than {intake.max_line_bytes:,} characters, or not JSON"
                raise BadRecord("broken .json", what, "raise max_line_bytes, or convert it to .jsonl: jq -c '.[]'") from None
            end = -1
        if end >= 0:
            yield value
            at = end
            continue
        if ended:
            if in_list:
                raise BadRecord("broken .json", "not JSON (the list has no end)", _FORM)
            return
        more = []
        wanted = max(1 << 18, len(held) - at)  # twice as much each time: a large object is tried few times
        while wanted > 0 and not ended:
            piece = next(pieces, None)
            ended = piece is None
            more.append(piece or "")
            wanted -= len(piece or "")
        held, at = held[at:] + "".join(more), 0


def _decoded(unit: Unit, intake: Intake) -> Iterator[str]:
    errors = "strict" if intake.encoding_errors in ("error", "skip") else "replace" if intake.encoding_errors == "replace" else None
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors or "phiforge-windows-1252")
    try:
        for piece in read_bytes(Path(unit.path)):
            if b"\0" in piece:
                raise BadRecord("binary (contains zero bytes)", "not text (contains a zero byte)", TEXT_FIX)
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        if intake.encoding_errors == "skip":
            intake.skip("not UTF-8", unit.label)
            return
        fix = "convert the file to UTF-8, or set encoding_errors=repair, replace or skip"
        raise DataError(f"{unit.path}: not valid UTF-8 (0x{error.object[error.start]:02x})", fix=fix) from None
