"""Parquet by row groups, and the Arrow files that `datasets` leaves on disk. A few rows at a time, only the text's column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phiforge.data.document import Document
from phiforge.data.formats.compressed import Damaged
from phiforge.data.formats.optional import need
from phiforge.data.formats.records import BadRecord, no_column, text_column, value_of
from phiforge.data.unit import Intake, Unit

_BATCH_BYTES = 1 << 22
_BUFFER = 1 << 20
_MOST_ROWS = 4096


def plan(path: Path, size: int, target: int) -> list[tuple[int, int, int]]:
    """(first row group, row group after the last, rows before them) of runs of row groups of about `target` unpacked bytes.

    Raises Damaged.
    """
    with _opened(path) as file:
        pieces, begin, first, rows, held = [], 0, 0, 0, 0
        for group in range(file.metadata.num_row_groups):
            about = file.metadata.row_group(group)
            if held and held + about.total_byte_size > target:
                pieces.append((begin, group, first))
                begin, first, held = group, rows, 0
            rows, held = rows + about.num_rows, held + about.total_byte_size
        return [*pieces, (begin, file.metadata.num_row_groups, first)]


def read_parquet(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of a parquet file, or of some row groups of it, one a row. Raises Damaged, DataError."""
    path = Path(unit.path)
    arrow = need("pyarrow", ".parquet")
    with _opened(path) as file:
        names = file.schema_arrow.names
        column = text_column(names, intake)
        if column is None:
            no_column(names, intake).tell(unit, intake, "", unit.label)
            return
        groups = list(range(unit.start, file.metadata.num_row_groups if unit.stop is None else unit.stop))
        row = unit.part
        try:
            for batch in file.iter_batches(_rows(file, column), row_groups=groups, columns=[column], use_threads=False):
                for value in batch.column(0):
                    yield from _document(value, names, row, unit, intake)
                    row += 1
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(path, error, f"row {row:,}", "parquet") from None


def _opened(path: Path) -> Any:
    arrow, parquet = need("pyarrow", ".parquet"), need("pyarrow.parquet", ".parquet")
    try:
        return parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, memory_map=False, page_checksum_verification=True)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error, "its end", "parquet") from None


def _rows(file: Any, column: str) -> int:
    """Rows that make about 4 MiB of text, by what the file says of itself."""
    where = [n for n in range(len(file.schema.names)) if file.schema.column(n).path.split(".")[0] == column]
    about = file.metadata
    size = sum(about.row_group(g).column(n).total_uncompressed_size for g in range(about.num_row_groups) for n in where)
    return max(1, min(_MOST_ROWS, _BATCH_BYTES * max(about.num_rows, 1) // max(size, 1)))


def read_arrow(unit: Unit, intake: Intake) -> Iterator[Document]:
    """The documents of an Arrow file (stream or file format), one a row. Raises Damaged, DataError."""
    path = Path(unit.path)
    arrow = need("pyarrow", ".arrow")
    row = 0
    try:
        with arrow.OSFile(str(path)) as stream:
            for batch in _batches(stream):
                names = batch.schema.names
                column = text_column(names, intake)
                if column is None:
                    no_column(names, intake).tell(unit, intake, "", unit.label)
                    return
                for value in batch.column(names.index(column)):
                    yield from _document(value, names, row, unit, intake)
                    row += 1
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error, f"row {row:,}", "Arrow") from None


def _batches(stream: Any) -> Iterator[Any]:
    ipc = need("pyarrow.ipc", ".arrow")
    if stream.read(6) == b"ARROW1":
        stream.seek(0)
        reader = ipc.open_file(stream)
        for n in range(reader.num_record_batches):
            yield reader.get_batch(n)
    else:
        stream.seek(0)
        yield from ipc.open_stream(stream)


def _document(value: Any, names: list[str], row: int, unit: Unit, intake: Intake) -> Iterator[Document]:
    source = f"{unit.label}:{row}"
    try:
        found = value_of(_plain(value), names, source, intake)
    except BadRecord as bad:
        bad.tell(unit, intake, f", row {row:,}", source)
        return
    if found is not None:
        yield found


def _plain(value: Any) -> Any:
    """An Arrow cell as Python holds it; bytes that are no UTF-8 come out as U+FFFD."""
    try:
        got = value.as_py()
    except UnicodeDecodeError:
        got = bytes(value.as_buffer())
    return got.decode("utf-8", errors="replace") if isinstance(got, bytes) else got


def _damaged(path: Path, error: Exception, place: str, kind: str) -> Damaged:
    said = " ".join(str(error).split())[:120]
    return Damaged(f"{path}: not a sound {kind} file at {place} ({said})", reason=f"corrupt {kind} file", fix="fetch it again")
