"""Comma- and tab-separated tables with a header line."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path

from phiforge.data.document import Document
from phiforge.data.formats.records import BadRecord, no_column, text_column, value_of
from phiforge.data.formats.text import TEXT_FIX, decode
from phiforge.data.reading import read_bytes, split_lines
from phiforge.data.unit import Intake, Unit

_FIX = "quote cells that hold quotes, commas or line ends, and double the quotes in them; or convert the table to .jsonl"


def read_table(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a .csv or .tsv file, one a row. Raises DataError naming the line where the file was named."""
    # The library's limit of 128 kB a cell is one for the whole process; it is only ever raised, to what a line may be.
    csv.field_size_limit(max(csv.field_size_limit(), intake.max_line_bytes))
    delimiter = "\t" if ".tsv" in Path(unit.path).suffixes[-2:] else ","
    rows = csv.reader(_lines(unit, intake), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        source = f"{unit.label}:{rows.line_num + 1}"
        before = rows.line_num + 1
        try:
            row = next(rows, None)
            if row is None:
                return
            if header is None:
                header, column = row, _column(row, intake)
                continue
            if not row:
                continue
            if len(row) != len(header):
                raise BadRecord("table row with too many or too few cells", f"{len(row)} cells where the header has {len(header)}", _FIX)
            found = value_of(row[column], header, source, intake)
        except csv.Error as error:
            BadRecord("table row with broken quotes", f"not a sound row ({error})", _FIX).tell(unit, intake, f", line {before:,}", source)
            continue
        except BadRecord as bad:
            bad.tell(unit, intake, f", line {before:,}", source)
            if header is None:
                return
            continue
        if found is not None:
            yield found


def _column(header: list[str], intake: Intake) -> int:
    name = text_column(header, intake)
    if name is None:
        raise no_column(header, intake)
    return header.index(name)


def _lines(unit: Unit, intake: Intake) -> Iterator[str]:
    """Lines as text with their ends. What breaks a line's encoding is dealt with as in every text."""

    def too_long(number: int, _: int) -> None:
        message = f"{unit.path}, line {number:,}: longer than {intake.max_line_bytes:,} bytes"
        unit.fault(intake, "line too long (max_line_bytes)", message, fix="raise max_line_bytes", where=f"{unit.label}:{number}")

    for number, position, line in split_lines(read_bytes(Path(unit.path)), limit=intake.max_line_bytes, too_long=too_long):
        body = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if b"\0" in body:
            bad = BadRecord("line with zero bytes", "not text (contains a zero byte)", TEXT_FIX)
            bad.tell(unit, intake, f", line {number:,}", f"{unit.label}:{number}")
            if number == 1:
                return
            continue
        text = decode(body, position, unit, intake, lambda number=number: f", line {number:,}")  # type: ignore[misc]
        if text is not None:
            yield text + "\n"
