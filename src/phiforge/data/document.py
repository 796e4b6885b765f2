"""A document, and files of documents (one JSON object a line, zstandard)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from phiforge.core.errors import DataError
from phiforge.data.reading import read_lines

_AGAIN = "run `phiforge data prepare` again"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that belongs together. `id` names its content, `source` says where it came from."""

    id: str
    text: str
    source: str

    @classmethod
    def of(cls, text: str, source: str) -> Document:
        """A document whose id is made from its content: equal texts, equal ids."""
        return cls(content_id(text), text, source)


def content_id(text: str) -> str:
    """64 bits of sha256 of the text, as hex.

    >>> content_id("a")
    'ca978112ca1bbdca'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class DocumentFile:
    """A file of documents that can be read any number of times, one document in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Document]:
        """Raises DataError for a missing, damaged or foreign file, naming the line."""
        read = 0
        try:
            for _, line in read_lines(self.path, limit=1 << 31):
                record = json.loads(line)
                yield Document(record["id"], record["text"], record["source"])
                read += 1
        except DataError as error:
            raise DataError(f"{error.what} (after document {read})", fix=_AGAIN) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path}: damaged after document {read} ({type(error).__name__})", fix=_AGAIN) from None


class DocumentWriter:
    """Appends documents to an open file and counts them."""

    def __init__(self, stream: io.RawIOBase | io.BufferedIOBase | zstandard.ZstdCompressionWriter) -> None:
        self._stream = stream
        self.documents = self.characters = self.bytes = 0
        self._digest = hashlib.sha256()

    def write(self, document: Document) -> None:
        """Append one document."""
        record = {"id": document.id, "text": document.text, "source": document.source}
        self._stream.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))
        text = document.text.encode("utf-8")
        self.documents += 1
        self.characters += len(document.text)
        self.bytes += len(text)
        self._digest.update(len(text).to_bytes(8, "little") + text)

    @property
    def sha256(self) -> str:
        """Of all texts so far, in order, each preceded by its length: ids and sources do not count."""
        return self._digest.hexdigest()


@contextmanager
def writing_documents(path: Path, *, level: int = 3) -> Iterator[DocumentWriter]:
    """Open `path` for documents (zstandard `level`)."""
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=level, write_checksum=True).stream_writer(raw) as stream:
        yield DocumentWriter(stream)


def write_documents(path: Path, documents: Iterable[Document]) -> DocumentWriter:
    """Write all of `documents`; returns the writer with its counts."""
    with writing_documents(path) as writer:
        for document in documents:
            writer.write(document)
    return writer
