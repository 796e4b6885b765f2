"""Bytes and lines out of plain, .gz and .zst files, in pieces; damage is one line that names the file and the place."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from phiforge.core.errors import DataError

COMPRESSED = (".gz", ".zst")
_PIECE = 1 << 18
_SIP = 1 << 10  # a zstandard block of 4 bytes may stand for 128 KiB and the library gives out all at once: so it gets little at once


def read_bytes(path: Path) -> Iterator[bytes]:
    """The file's bytes in pieces, decompressed by its suffix. Raises DataError: unreadable, corrupt or cut short."""
    try:
        with path.open("rb") as stream:
            pieces = iter(lambda: stream.read(_PIECE), b"")
            if path.suffix == ".gz":
                yield from _gunzip(path, pieces)
            elif path.suffix == ".zst":
                yield from _unzstd(path, pieces)
            else:
                yield from pieces
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    reason = {
        errno.EACCES: "no permission to read it",
        errno.ENOENT: "no such file or folder",
        errno.ELOOP: "a symbolic link that leads to itself",
    }.get(error.errno or 0, error.strerror or str(error))
    return DataError(f"{path}: {reason}", fix="give a file or folder of text that can be read")


def _gunzip(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """gzip members one after the other; their checksums are verified by zlib."""
    engine = zlib.decompressobj(wbits=31)
    fed = 0
    try:
        for piece in pieces:
            fed += len(piece)
            while piece:
                if engine.eof:
                    if not piece.strip(b"\0"):  # tar and tapes pad with zeros
                        break
                    engine = zlib.decompressobj(wbits=31)
                out = engine.decompress(piece, _PIECE * 4)
                if out:
                    yield out
                piece = engine.unused_data if engine.eof else engine.unconsumed_tail
    except zlib.error as error:
        raise DataError(f"{path}: not a sound gzip file ({str(error).split(': ')[-1]})", fix="unpack or fetch it again") from None
    if not engine.eof:
        raise DataError(f"{path}: the gzip file is cut short after {fed:,} bytes", fix="fetch it again")


def _unzstd(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """zstandard frames one after the other. The library's stream reader takes a cut file for a whole one, hence frame by frame."""
    engine: zstandard.ZstdDecompressionObj | None = None
    fed = 0
    try:
        for piece in pieces:
            fed += len(piece)
            at = 0
            while at < len(piece):
                engine = engine or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                sip = piece[at : at + _SIP]
                out = engine.decompress(sip)
                if out:
                    yield out
                at += len(sip) - (len(engine.unused_data) if engine.eof else 0)
                engine = None if engine.eof else engine
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: not a sound zstandard file ({str(error).split(': ')[-1]})", fix="unpack or fetch it again") from None
    if engine is not None or not fed:
        raise DataError(f"{path}: the zstandard file is cut short after {fed:,} bytes", fix="fetch it again")


def read_lines(path: Path, *, limit: int) -> Iterator[tuple[int, bytes]]:
    """(line number, line without its end). Raises DataError for a line of more than `limit` bytes."""
    number, size = 1, 0
    begun: list[bytes] = []  # parts of a line whose end has not come yet
    for piece in read_bytes(path):
        first, *others = piece.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > limit:
            raise DataError(
                f"{path}, line {number}: longer than {limit:,} bytes", fix="one JSON object a line; cut long texts or raise max_line_bytes"
            )
        if others:
            *whole, last = [b"".join(begun), *others]
            for line in whole:
                yield number, line
                number += 1
            begun, size = [last], len(last)
    if size:
        yield number, b"".join(begun)


def read_blocks(path: Path, *, limit: int) -> Iterator[tuple[int, bytes]]:
    """(position of its first byte, block): the whole file as one block, or blocks of about `limit` bytes cut after a line end.

    A block without a line end is cut between characters. So no block cuts a character or a CRLF in two.
    """
    start, held = 0, bytearray()
    for piece in read_bytes(path):
        held += piece
        while len(held) > limit:
            cut = _cut(held, limit)
            yield start, bytes(held[:cut])
            start += cut
            del held[:cut]
    if held:
        yield start, bytes(held)


def _cut(held: bytearray, limit: int) -> int:
    for border in (b"\n\n", b"\n\r\n", b"\n"):
        cut = held.rfind(border, limit // 2, limit)
        if cut >= 0:
            return cut + len(border)
    cut = limit
    while cut > limit - 4 and (held[cut] & 0xC0) == 0x80:  # continuation bytes belong to the character before
        cut -= 1
    return cut
