"""JSON, one object a line. A large plain file is read in ranges; a line belongs to the range in which it begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

from phiforge.data.document import Document
from phiforge.data.formats.records import BadRecord, document_of
from phiforge.data.formats.text import TEXT_FIX, decode
from phiforge.data.reading import read_bytes, read_lines_between, split_lines
from phiforge.data.unit import Intake, Unit

_FORM = 'one object a line: {"text": "..."}'


def plan(size: int, target: int) -> list[tuple[int, int, int]]:
    """(start, stop, 0) of equal ranges of about `target` bytes; nothing is read for it."""
    count = max(1, round(size / target))
    borders = [size * n // count for n in range(count + 1)]
    return [(start, stop, 0) for start, stop in pairwise(borders)]


def read_jsonl(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a .jsonl file or of a range of one. Raises DataError naming the line where the file was named."""

    def too_long(number: int, position: int) -> None:
        message = f"{unit.path}, line {_line(unit, number):,}: longer than {intake.max_line_bytes:,} bytes"
        fix = "one JSON object a line; cut long texts or raise max_line_bytes"
        unit.fault(intake, "line too long (max_line_bytes)", message, fix=fix, where=f"{unit.label}:{number}")

    lines = read_lines_between(Path(unit.path), unit.start, unit.stop, limit=intake.max_line_bytes, too_long=too_long)
    yield from documents_of(lines, unit, intake)


def documents_of(lines: Iterator[tuple[int, int, bytes]], unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of (number, position, line)s."""
    for number, position, line in lines:
        body = line.removeprefix(b"\xef\xbb\xbf") if position == 0 else line
        if not body.strip():
            continue
        if b"\0" in body and number == 1 and not unit.start and not unit.named:
            intake.skip("binary (contains zero bytes)", unit.label)
            return
        source = f"{unit.label}:{number}"
        try:
            found = _document(body, position, source, partial(_place, unit, number), unit, intake)
        except BadRecord as bad:
            bad.tell(unit, intake, _place(unit, number), source)
            continue
        if found is not None:
            yield found


def _document(body: bytes, position: int, source: str, place: Callable[[], str], unit: Unit, intake: Intake) -> Document | None:
    if b"\0" in body:
        raise BadRecord("line with zero bytes", "not text (contains a zero byte)", TEXT_FIX)
    text = decode(body, position, unit, intake, place)
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else "a number too long")
        raise BadRecord("line that is not JSON", f"not JSON ({what})", _FORM) from None
    return document_of(record, source, intake)


def _place(unit: Unit, number: int) -> str:
    return f", line {_line(unit, number):,}" if unit.named else ""


def _line(unit: Unit, number: int) -> int:
    """The line's number in the whole file: counted only where it must be told."""
    if not unit.start or not unit.named:
        return number
    lines = split_lines(read_bytes(Path(unit.path), 0, unit.start), limit=1 << 62, too_long=lambda *_: None)
    return number + sum(1 for _ in lines)
