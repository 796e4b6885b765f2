"""Bytes and lines out of plain and compressed files, in pieces; damage is one line that names the file and the place."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from phiforge.core.errors import DataError
from phiforge.data.formats.compressed import DECODERS, PIECE, Damaged

COMPRESSED = tuple(DECODERS)
LongLine = Callable[[int, int], None]


def why(error: OSError) -> str:
    """An operating system's refusal in words."""
    return {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "no permission to read it",
        errno.ELOOP: "a symbolic link that leads to itself",
        errno.ENAMETOOLONG: "too long for a path",
        errno.EIO: "the disk could not read it",
    }.get(error.errno or 0, error.strerror or str(error))


def read_bytes(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The file's bytes in pieces, decompressed by its suffix; a plain file's from `start` to `stop`.

    Raises DataError (Damaged): unreadable, corrupt, cut short, or a decompression bomb.
    """
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{path}: neither a file nor a folder", fix="write its text to a file first")
            decode = DECODERS.get(path.suffix.lower())
            if decode is not None:
                yield from decode(path, iter(lambda: stream.read(PIECE), b""))
                return
            stream.seek(start)
            left = None if stop is None else stop - start
            while left is None or left > 0:
                piece = stream.read(PIECE if left is None else min(PIECE, left))
                if not piece:
                    break
                left = None if left is None else left - len(piece)
                yield piece
    except OSError as error:
        raise Damaged(f"{path}: {why(error)}", reason=why(error), fix="give a file or folder of text that can be read") from None


def read_lines(path: Path, *, limit: int) -> Iterator[tuple[int, bytes]]:
    """(line number, line without its end). Raises DataError for a line of more than `limit` bytes."""

    def refuse(number: int, _: int) -> NoReturn:
        raise DataError(
            f"{path}, line {number}: longer than {limit:,} bytes", fix="one JSON object a line; cut long texts or raise max_line_bytes"
        )

    for number, _, line in split_lines(read_bytes(path), limit=limit, too_long=refuse):
        yield number, line


def read_lines_between(path: Path, start: int, stop: int | None, *, limit: int, too_long: LongLine) -> Iterator[tuple[int, int, bytes]]:
    """(number counted from `start`, position, line) of the lines that begin in [start, stop) of a plain file; a compressed one whole.

    So neighbouring ranges give every line once, wherever the borders fall.
    """
    begin = max(start - 1, 0)
    cut = start > 0  # what comes before the first line end belongs to the range before
    pieces = read_bytes(path, begin)
    lines = split_lines(pieces, limit=limit, too_long=too_long, position=begin, first=int(not cut), drop_first=cut, stop=stop)
    for number, position, line in lines:
        if stop is not None and position >= stop:
            return
        yield number, position, line


def split_lines(
    pieces: Iterator[bytes],
    *,
    limit: int,
    too_long: LongLine,
    position: int = 0,
    first: int = 1,
    drop_first: bool = False,
    stop: int | None = None,
) -> Iterator[tuple[int, int, bytes]]:
    """(number, position of its first byte, line without its end).

    A line of more than `limit` bytes is never held: `too_long(number, position)` is told once, and may raise; else it is left out.
    Of a line that is left out nothing from `stop` on is read, so that many ranges of one giant line do not each read all of it.
    """
    number, size, lost = first, 0, drop_first
    begun: list[bytes] = []  # parts of a line whose end has not come yet
    for piece in pieces:
        if lost and b"\n" not in piece:  # on to the end of a line that is left out
            size += len(piece)
            if stop is not None and position + size >= stop:
                return
            continue
        head, *others = piece.split(b"\n")
        size += len(head)
        begun.append(head)
        if size > limit and not lost:
            too_long(number, position)
            lost, begun = True, []
        if not others:
            continue
        if not lost:
            yield number, position, b"".join(begun)
        number, position = number + 1, position + size + 1
        *whole, last = others
        for line in whole:
            if len(line) > limit:
                too_long(number, position)
            else:
                yield number, position, line
            number, position = number + 1, position + len(line) + 1
        begun, size, lost = [last], len(last), len(last) > limit
        if lost:
            too_long(number, position)
            begun = []
    if size and not lost:
        yield number, position, b"".join(begun)


def read_blocks(path: Path, *, limit: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(position of its first byte, block): the whole file as one block, or blocks of about `limit` bytes cut after a line end.

    A block without a line end is cut between characters. So no block cuts a character or a CRLF in two.
    """
    return split_blocks(read_bytes(path, start, stop), limit=limit, start=start)


def split_blocks(pieces: Iterator[bytes], *, limit: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """`read_blocks` of bytes that come from elsewhere."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) > limit:
            cut = _cut(held, limit)
            yield start, bytes(held[:cut])
            start += cut
            del held[:cut]
    if held:
        yield start, bytes(held)


def _cut(held: bytes | bytearray, limit: int) -> int:
    for border in (b"\n\n", b"\n\r\n", b"\n"):
        cut = held.rfind(border, limit // 2, limit)
        if cut >= 0:
            return cut + len(border)
    cut = limit
    while cut > limit - 4 and (held[cut] & 0xC0) == 0x80:  # continuation bytes belong to the character before
        cut -= 1
    return cut


def block_borders(path: Path, size: int, *, limit: int) -> Iterator[int]:
    """Where `read_blocks` cuts a plain file of `size` bytes, found by reading little: the end of each half-block is enough as a rule."""
    at, tail = 0, min(limit // 2, 1 << 16)
    with path.open("rb") as stream:
        while size - at > limit:
            stream.seek(at + limit - tail)
            found = stream.read(tail).rfind(b"\n\n")
            if found >= 0:
                at += limit - tail + found + 2
            else:
                half = limit // 2
                stream.seek(at + half)
                window = stream.read(limit - half + 1)
                if len(window) <= limit - half:
                    return  # it shrank since it was listed: reading will say so
                at += half + _cut_window(window, limit - half)
            yield at


def _cut_window(window: bytes, limit: int) -> int:
    """`_cut` of a block whose first half is not at hand."""
    for border in (b"\n\n", b"\n\r\n", b"\n"):
        cut = window.rfind(border, 0, limit)
        if cut >= 0:
            return cut + len(border)
    cut = limit
    while cut > limit - 4 and (window[cut] & 0xC0) == 0x80:
        cut -= 1
    return cut
