"""Ranges of a file give what the whole gives; packed files come in pieces, and bombs are refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
import random
from itertools import pairwise
from pathlib import Path

import pytest

from phiforge.core.errors import DataError
from phiforge.data import sources
from phiforge.data.config import DataPrepareConfig
from phiforge.data.formats import compressed
from phiforge.data.reading import block_borders, read_blocks, read_bytes, read_lines, read_lines_between, split_lines
from phiforge.data.sources import Intake, Limits, Unit, read_unit, units

SEEDS = range(12)


def words(seed: int, count: int, ends: tuple[str, ...]) -> bytes:
    """Lines and paragraphs of random lengths, with some that are longer than any limit below."""
    source = random.Random(seed)
    lines = ["é😀word "[: source.randint(0, 8)] * source.choice([0, 1, 3, 9, 40, 400]) + source.choice(ends) for _ in range(count)]
    return "".join(lines).encode()


def refuse(number: int, position: int) -> None:
    raise AssertionError("no line is too long here")


@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_of_lines_give_every_line_once(tmp_path: Path, seed: int) -> None:
    path, source = tmp_path / "a.jsonl", random.Random(seed)
    path.write_bytes(words(seed, 60, ("\n", "\n\n", "\r\n")))
    size = path.stat().st_size
    borders = sorted({0, size, *(source.randint(0, size) for _ in range(9))})
    whole = [line for _, line in read_lines(path, limit=1 << 20)]
    parts = [list(read_lines_between(path, a, b, limit=1 << 20, too_long=refuse)) for a, b in pairwise(borders)]
    assert [line for part in parts for _, _, line in part] == whole
    data = path.read_bytes()
    assert all(data[position : position + len(line)] == line for part in parts for _, position, line in part)
    assert all([number for number, _, _ in part] == list(range(1, len(part) + 1)) for part in parts)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ends", [("\n", "\n\n"), ("\r\n", "\r\n\r\n"), (" ",)])
def test_borders_found_by_reading_little_are_those_of_reading_all(tmp_path: Path, seed: int, ends: tuple[str, ...]) -> None:
    path, limit = tmp_path / "a.txt", random.Random(seed).choice([64, 257, 1024, 4096])
    path.write_bytes(words(seed, 300, ends))
    starts = [start for start, _ in read_blocks(path, limit=limit)][1:]
    assert list(block_borders(path, path.stat().st_size, limit=limit)) == starts


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_large_file_in_units_is_the_file_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    texts = [f"text {n} é\n" * (n % 7) for n in range(400)]
    lines = [b'{"text": "%s"}\n' % text.encode().replace(b"\n", b"\\n") for text in texts]
    (tmp_path / name).write_bytes(b"".join(lines) if name == "a.jsonl" else "\n".join(texts).encode())
    config = DataPrepareConfig(source=[str(tmp_path)], max_document_bytes=1024)
    whole = [d for unit in units(str(tmp_path), config, Intake.of(config)) for d in read_unit(unit, Intake.of(config))]
    monkeypatch.setattr(sources, "UNIT_BYTES", 3000)
    intake = Intake.of(config)
    cut = units(str(tmp_path), config, intake)
    pieces = []
    for unit in reversed(cut):  # in any order, in any process
        own = Intake.of(config)
        pieces.append(list(read_unit(pickle.loads(pickle.dumps(unit)), own)))  # noqa: S301 - our own bytes
        intake.merge(own.counts())
    documents = [document for piece in reversed(pieces) for document in piece]
    assert (
        len(cut) > 3 and len({unit.key for unit in cut}) == len(cut) and sum(unit.size for unit in cut) == (tmp_path / name).stat().st_size
    )
    assert [d.id for d in documents] == [d.id for d in whole] and intake.files == 1
    if name == "a.txt":
        assert [d.source for d in documents] == [d.source for d in whole] and intake.cut == len(whole) - 1


def test_an_error_in_a_range_names_the_line_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 500 + "broken\n")
    monkeypatch.setattr(sources, "UNIT_BYTES", 1000)
    with pytest.raises(DataError, match=r"a\.jsonl, line 501: not JSON"):
        list(sources.read_source(path, Intake()))


def test_a_line_without_end_is_never_held(tmp_path: Path) -> None:
    def endless() -> object:
        yield b"first\n"
        for _ in range(8_000):
            yield piece
        yield b"\nlast"

    piece, told = b"x" * (1 << 18), []  # 2 GB in all, one piece of it in memory
    lines = list(split_lines(endless(), limit=1 << 20, too_long=lambda *at: told.append(at)))  # type: ignore[arg-type]
    assert [(number, line) for number, _, line in lines] == [(1, b"first"), (3, b"last")] and told == [(2, 6)]
    assert lines[1][1] == 6 + 8_000 * len(piece) + 1


def test_a_sparse_line_of_a_quarter_of_a_gigabyte_is_one_counted_drop(tmp_path: Path) -> None:
    path = tmp_path / "texts" / "a.jsonl"
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.write(b'{"text": "before"}\n{"text": "')
        stream.seek(1 << 28)  # a hole: zeros that take no room
        stream.write(b'"}\n{"text": "after"}\n')
    config = DataPrepareConfig(source=[str(path.parent)], max_line_bytes=1 << 20)
    intake = Intake.of(config)
    found = [document.text for unit in units(str(path.parent), config, intake) for document in read_unit(unit, intake)]
    assert found == ["before", "after"] and intake.skipped == {"line too long (max_line_bytes)": 1}


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".bz2", bz2.compress), (".gz", gzip.compress)])
def test_members_padding_damage_and_cuts(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    data = os.urandom(300_000)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(data) + pack(b"second"))
    assert b"".join(read_bytes(path)) == data + b"second"
    path.write_bytes(pack(data)[:-40])
    with pytest.raises(DataError, match="cut short after"):
        list(read_bytes(path))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="not a sound"):
        list(read_bytes(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cut short after 0 bytes"):
        list(read_bytes(path))
    path.write_bytes(pack(b"a" * 9_000_000))
    assert max(map(len, read_bytes(path))) <= 1 << 20 and sum(map(len, read_bytes(path))) == 9_000_000


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".bz2", bz2.compress), (".gz", gzip.compress)])
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, pack: object) -> None:
    assert callable(pack)
    monkeypatch.setattr(compressed, "BOMB_BYTES", 1 << 20)
    path = tmp_path / "texts" / f"a.txt{suffix}"
    path.parent.mkdir()
    path.write_bytes(pack(b"\0" * 8_000_000))
    with pytest.raises(DataError, match="decompression bomb"):
        list(read_bytes(path))
    (path.parent / "b.txt").write_text("kept")
    intake = Intake(max_document_bytes=1 << 24)
    assert [d.text for d in sources.read_source(path.parent, intake)] == ["kept"]
    assert intake.skipped == {"decompression bomb": 1}


def test_a_header_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 27, "mf": lzma.MF_HC3, "nice_len": 3}]
    engine = lzma.LZMACompressor(filters=filters)
    path.write_bytes(engine.compress(b"x") + engine.flush())
    assert b"".join(read_bytes(path)) == b"x"  # 128 MiB is what is granted
    old = compressed._XZ_MEMORY
    try:
        compressed._XZ_MEMORY = 1 << 26
        with pytest.raises(DataError, match="not a sound xz file"):
            list(read_bytes(path))
    finally:
        compressed._XZ_MEMORY = old


def test_limits_hold_for_a_group_in_the_order_of_its_units() -> None:
    first, second, other = (
        Unit("s", key, "text", "p", "l", group=group, max_documents=3, max_bytes=10) for key, group in ("ag", "bg", "co")
    )
    limits = Limits()
    assert [limits.admit(first, 4), limits.admit(second, 4), limits.admit(second, 4), limits.admit(first, 1)] == [True, True, False, False]
    assert limits.full(first) and limits.full(second) and not limits.full(other)
    assert [limits.admit(other, 1) for _ in range(4)] == [True, True, True, False]


def test_max_files_and_max_bytes_of_a_folder(tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"{n}.txt").write_text(f"{n}" * 100)
    config = DataPrepareConfig(source=[str(tmp_path)], max_files=4, max_bytes=1024)
    listed = units(str(tmp_path), config, Intake())
    assert [unit.label[-5:] for unit in listed] == ["0.txt", "1.txt", "2.txt", "3.txt"] and {unit.max_bytes for unit in listed} == {1024}


def test_a_file_that_changes_or_vanishes_is_told(tmp_path: Path) -> None:
    config = DataPrepareConfig(source=[str(tmp_path)])
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("as it was")
    listed = units(str(tmp_path), config, Intake())
    (tmp_path / "a.txt").write_text("as it is now")
    (tmp_path / "b.txt").unlink()
    intake = Intake()
    found = [d.text for unit in listed for d in read_unit(unit, intake)]
    assert "as it was" in found and intake.skipped == {"changed while it was read": 1, "no such file or folder": 1}
    named = units(str(tmp_path / "c.txt"), config, Intake())
    (tmp_path / "c.txt").write_text("other")
    with pytest.raises(DataError, match="changed while it was read"):
        list(read_unit(named[0], Intake()))


def test_a_damaged_file_in_a_folder_is_counted_and_what_came_before_is_kept(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "line %d %s"}\n' % (n, os.urandom(40).hex().encode()) for n in range(4000))
    packed = bytearray(gzip.compress(lines))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\nbroken\n{"text": 5}\n{"text": null}\n{"text": "also fine"}\n')
    intake = Intake()
    found = [document.text for document in sources.read_source(tmp_path, intake)]
    assert 1000 < len(found) < 4000 and found[0].startswith("line 0 ") and found[-2:] == ["fine", "also fine"]
    assert intake.skipped["corrupt gzip"] == 1  # what the damage turned into before it was noticed may be counted as bad lines too
    assert intake.skipped["record without a text column"] >= 1 and intake.skipped["record without a text (null)"] == 1
    with pytest.raises(DataError, match=r"not a sound gzip file|not JSON|not valid UTF-8"):
        list(sources.read_source(tmp_path / "a.jsonl.gz", Intake()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_in_a_folder_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "b.txt").write_text("open")
    (tmp_path / "a.txt").chmod(0)
    intake = Intake()
    assert [d.text for d in sources.read_source(tmp_path, intake)] == ["open"]
    assert intake.skipped == {"no permission to read it": 1}


def test_mixed_encodings_are_repaired_where_they_are_broken(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve ".encode() + "caf\xe9 \x93quoted\x94".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("gr\u00fc\u00dfe 😀\n".encode("utf-16"))
    intake = Intake(encoding_errors="repair")
    assert [d.text for d in sources.read_source(tmp_path, intake)] == ["naïve café “quoted”", "grüße 😀\n"]
    assert intake.repaired == 2
    plain = Intake()
    (tmp_path / "a.txt").unlink()
    (tmp_path / "c.txt").write_text("fine")
    assert [d.text for d in sources.read_source(tmp_path, plain)] == ["fine"] and plain.skipped == {"UTF-16 text": 1}


def test_folders_nested_two_hundred_deep(tmp_path: Path) -> None:
    path = tmp_path
    os.chdir(tmp_path)
    try:
        for _ in range(200):
            Path("d").mkdir()
            os.chdir("d")
        Path("deep.txt").write_text("deep")
    finally:
        os.chdir(path)
    (tmp_path / "top.txt").write_text("top")
    intake = Intake()
    assert [d.text for d in sources.read_source(tmp_path, intake)][-1] == "top"
