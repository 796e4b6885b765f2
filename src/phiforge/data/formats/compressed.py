"""gzip, zstandard, xz and bzip2 in pieces of bounded size: several members, damage and bombs included."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from phiforge.core.errors import DataError

PIECE = 1 << 18
_OUT = 1 << 16  # unpacked at once: what is unpacked together with damage is lost
_SIP = 1 << 10  # a zstandard block of 4 bytes may stand for 128 KiB and the library gives out all at once: so it gets little at once
_XZ_MEMORY = 1 << 28  # xz -9 wants 65 MiB to unpack; a header may claim 4 GiB
BOMB_RATIO, BOMB_BYTES = 250, 1 << 30  # text packs 2 to 10 times, tables and logs up to 60


class Damaged(DataError):
    """A file that can't be read, or not to its end. `reason` is what a report counts it under."""

    def __init__(self, what: str, *, reason: str = "damaged", fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.reason = reason

    def __reduce__(self) -> tuple[Callable[..., Damaged], tuple[str, str, str]]:
        """Workers send it home."""
        return _damaged, (self.what, self.reason, self.fix)


def _damaged(what: str, reason: str, fix: str) -> Damaged:
    return Damaged(what, reason=reason, fix=fix)


def _unsound(path: Path, name: str, why: str) -> Damaged:
    return Damaged(f"{path}: not a sound {name} file ({why})", reason=f"corrupt {name}", fix="unpack or fetch it again")


def _short(path: Path, name: str, fed: int) -> Damaged:
    return Damaged(f"{path}: the {name} file is cut short after {fed:,} bytes", reason=f"{name} file cut short", fix="fetch it again")


def _gunzip(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """gzip members one after the other; their checksums are verified by zlib."""
    engine = zlib.decompressobj(wbits=31)
    fed = given = 0
    try:
        for piece in pieces:
            fed += len(piece)
            while piece:
                if engine.eof:
                    if not piece.strip(b"\0"):  # tar and tapes pad with zeros
                        break
                    engine = zlib.decompressobj(wbits=31)
                out = engine.decompress(piece, _OUT)
                if out:
                    given += len(out)
                    _refuse_bomb(path, fed, given)
                    yield out
                piece = engine.unused_data if engine.eof else engine.unconsumed_tail
    except zlib.error as error:
        raise _unsound(path, "gzip", str(error).split(": ")[-1]) from None
    if not engine.eof:
        raise _short(path, "gzip", fed)


def _unzstd(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """zstandard frames one after the other. The library's stream reader takes a cut file for a whole one, hence frame by frame."""
    engine: zstandard.ZstdDecompressionObj | None = None
    fed = given = 0
    try:
        for piece in pieces:
            fed += len(piece)
            at = 0
            while at < len(piece):
                engine = engine or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                sip = piece[at : at + _SIP]
                out = engine.decompress(sip)
                if out:
                    given += len(out)
                    _refuse_bomb(path, fed, given)
                    yield out
                at += len(sip) - (len(engine.unused_data) if engine.eof else 0)
                engine = None if engine.eof else engine
    except zstandard.ZstdError as error:
        raise _unsound(path, "zstandard", str(error).split(": ")[-1]) from None
    if engine is not None or not fed:
        raise _short(path, "zstandard", fed)


def _members(
    name: str, make: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor], pad: bytes
) -> Callable[[Path, Iterator[bytes]], Iterator[bytes]]:
    """A reader of the two formats whose engines share one way of speaking."""

    def decode(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
        engine = make()
        fed = given = 0
        begun = False
        try:
            for piece in pieces:
                fed += len(piece)
                while piece or (begun and not engine.eof and not engine.needs_input):
                    if engine.eof:
                        piece = piece.lstrip(pad)
                        if not piece:
                            break
                        engine = make()
                    out = engine.decompress(piece, _OUT)
                    begun = True
                    if out:
                        given += len(out)
                        _refuse_bomb(path, fed, given)
                        yield out
                    piece = engine.unused_data if engine.eof else b""
        except (lzma.LZMAError, OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the disk's complaint, not bzip2's
            raise _unsound(path, name, str(error)) from None
        if not engine.eof:
            raise _short(path, name, fed)

    return decode


def _refuse_bomb(path: Path, fed: int, given: int) -> None:
    if given > BOMB_BYTES and given > BOMB_RATIO * fed:
        raise Damaged(
            f"{path}: {fed:,} bytes unpack to more than {given:,} (a decompression bomb?)",
            reason="decompression bomb",
            fix="unpack it yourself if that is right",
        )


DECODERS: dict[str, Callable[[Path, Iterator[bytes]], Iterator[bytes]]] = {
    ".gz": _gunzip,
    ".zst": _unzstd,
    ".xz": _members("xz", lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), b"\0"),
    ".bz2": _members("bzip2", bz2.BZ2Decompressor, b""),
}
