"""Evaluation items out of the files that evaluation sets come in, whatever their fields are called."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiforge.core.errors import DataError
from phiforge.data.reading import COMPRESSED, read_bytes, read_lines

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
_LINE = 1 << 26
# Fields that pose an item. A short text counts as a whole only in these: "buy more food" as one of four choices is no item.
_ASKING = frozenset(
    "question query prompt text context context_options passage goal ctx ctx_a stem input instruction instructions sentence problem body"
    " squestion premise story title task turns content value".split()
)
_ANSWERING = frozenset(
    "choices options answers answer endings aliases target targets label labels output outputs response responses".split()
)
_LABELS = ("question:", "query:", "problem:", "context:", "passage:", "input:", "q:")


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its name (line or row) and its texts, each with whether it poses the item (a question, not one of its answers)."""

    name: str
    texts: tuple[tuple[str, bool], ...]


def item_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name, those of folders in order of their names. Raises DataError."""
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _format(file) and file.is_file()]
            if not inside:
                raise DataError(f"evaluation={given}: no evaluation items in this folder", fix=f"files of {', '.join(FORMATS)} are read")
            files += inside
        elif not path.exists():
            raise DataError(f"evaluation={given}: no such file or folder", fix="give the files that hold the evaluation items")
        elif not _format(path):
            raise DataError(f"evaluation={given}: not a format that is read", fix=f"give {', '.join(FORMATS)}, plain, .gz or .zst")
        else:
            files.append(path)
    return files


def find_items(path: Path) -> Iterator[Item]:
    """The items of one file. Raises DataError naming the line."""
    yield from _READERS[_format(path)](path)


def _format(path: Path) -> str:
    suffix = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return suffix.lower() if suffix.lower() in FORMATS else ""


def _jsonl(path: Path) -> Iterator[Item]:
    for number, line in read_lines(path, limit=_LINE):
        if line.strip():
            yield _item(f"line {number}", _parsed(line, f"{path}, line {number}"))


def _json(path: Path) -> Iterator[Item]:
    content = _parsed(b"".join(read_bytes(path)), str(path))
    if isinstance(content, dict):  # {"version": ..., "data": [...]}: the longest list of it holds the items
        lists = [value for value in content.values() if isinstance(value, list)]
        content = max(lists, key=len) if lists else [content]
    for number, record in enumerate(content if isinstance(content, list) else [content], 1):
        yield _item(f"item {number}", record)


def _table(path: Path) -> Iterator[Item]:
    csv.field_size_limit(_LINE)
    text = _text(b"".join(read_bytes(path)), path)
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if _format(path) == ".tsv" else ","), 1):
            yield _item(f"row {number}", {key: value for key, value in row.items() if key})
    except csv.Error as error:
        raise DataError(f"{path}: not a table that can be read ({error})", fix="quote fields that hold commas or line ends") from None


def _plain(path: Path) -> Iterator[Item]:
    text = _text(b"".join(read_bytes(path)), path).replace("\r\n", "\n").strip()
    blocks = text.split("\n\n") if "\n\n" in text else text.split("\n")
    for number, block in enumerate((block for block in blocks if block.strip()), 1):
        yield Item(f"paragraph {number}", ((_bare(block), True),))


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _table, ".tsv": _table, ".txt": _plain}


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON", fix="repair it, or leave the file out of evaluation") from None


def _text(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}: not UTF-8", fix="convert it (iconv -f ... -t utf-8)") from None


def _item(name: str, record: Any) -> Item:
    found = list(_strings(record, asks=not isinstance(record, dict)))
    if found and not any(asks for _, asks in found):  # no field of a known name: the longest poses the item
        longest = max(range(len(found)), key=lambda at: len(found[at][0]))
        found[longest] = (found[longest][0], True)
    return Item(name, tuple(found))


def _strings(value: Any, asks: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(value, str):
        if value.strip():
            yield _bare(value), asks
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = str(key).lower()
            if name in _ANSWERING:
                yield from ((text, False) for text, _ in _strings(inner, False))
            else:
                yield from _strings(inner, name in _ASKING)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, asks)


def _bare(text: str) -> str:
    """Without the label before a question and the empty one behind it: neither is in a book that holds the question."""
    text = text.strip()
    for label in _LABELS:
        if text.lower().startswith(label):
            text = text[len(label) :].strip()
    head, _, last = text.rpartition("\n")
    return head.strip() if last.strip().lower() in ("answer:", "a:") else text
