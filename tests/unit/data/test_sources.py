"""Files and folders become documents; what can't be read is one line that names the place."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from phiforge.core.errors import DataError
from phiforge.data.reading import read_blocks, read_bytes, read_lines
from phiforge.data.sources import Intake, find_files, read_source


def texts(source: Path, intake: Intake | None = None) -> list[str]:
    return [document.text for document in read_source(source, intake or Intake())]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_folder_is_read_in_the_order_of_names_and_the_rest_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "b.md", "# two\n")
    put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\nline\rlast")
    put(tmp_path / "sub" / "c.py.gz", gzip.compress(b"three = 3\n"))
    put(tmp_path / "sub" / "d.rst.zst", zstandard.compress(b"four\n"))
    put(tmp_path / "e.jsonl", '\ufeff{"text": "five"}\n\n{"content": "six\\r\\nseven"}')
    put(tmp_path / "picture.png", b"\x89PNG\0")
    put(tmp_path / "zero.txt", b"a\0b")
    put(tmp_path / "empty.txt", b"")
    put(tmp_path / ".git" / "x.txt", "hidden")
    intake = Intake()
    documents = list(read_source(tmp_path, intake))
    assert [d.text for d in documents] == ["one\nline\nlast", "# two\n", "five", "six\nseven", "three = 3\n", "four\n"]
    assert documents[3].source == f"{tmp_path.name}/e.jsonl:3"
    assert intake.skipped == {"hidden": 1, "unknown extension .png": 1, "binary (contains zero bytes)": 1, "empty": 1}
    assert intake.examples["unknown extension .png"].endswith("picture.png")


def test_equal_texts_have_equal_ids_wherever_they_lie(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "same")
    put(tmp_path / "b.txt", "same")
    first, second = read_source(tmp_path, Intake())
    assert first.id == second.id and first.source != second.source


def test_several_members_of_gzip_and_frames_of_zstandard(tmp_path: Path) -> None:
    put(tmp_path / "a.txt.gz", gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 512)
    put(tmp_path / "b.txt.zst", zstandard.compress(b"three ") + zstandard.compress(b"four"))
    assert texts(tmp_path) == ["one two", "three four"]


def test_a_long_text_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "\n\n".join(f"paragraph {i} é😀" * 3 for i in range(400))
    intake = Intake(max_document_bytes=2048)
    parts = texts(put(tmp_path / "long.txt", text), intake)
    assert "".join(parts) == text and len(parts) > 5 and intake.cut == len(parts) - 1
    assert all(part.endswith("\n\n") for part in parts[:-1])


@pytest.mark.parametrize("limit", [1024, 1025, 1026, 1027, 1999])
def test_a_text_without_line_ends_is_cut_between_characters(tmp_path: Path, limit: int) -> None:
    data = ("😀é" * 3000).encode()
    blocks = list(read_blocks(put(tmp_path / "a.txt", data), limit=limit))
    assert b"".join(block for _, block in blocks) == data
    assert all(block.decode() for _, block in blocks)
    assert [start for start, _ in blocks] == [sum(len(b) for _, b in blocks[:i]) for i in range(len(blocks))]


def test_giant_pieces_of_compressed_files_come_in_pieces(tmp_path: Path) -> None:
    path = put(tmp_path / "zeros.txt.gz", gzip.compress(b"a" * 5_000_000))
    pieces = list(read_bytes(path))
    assert sum(map(len, pieces)) == 5_000_000 and max(map(len, pieces)) <= 1 << 20


def test_encoding_errors_can_be_skipped_or_replaced_and_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "bad.txt", b"caf\xe9 au lait")
    put(tmp_path / "good.txt", "fine")
    skip, replace = Intake(encoding_errors="skip"), Intake(encoding_errors="replace")
    assert texts(tmp_path, skip) == ["fine"] and skip.skipped["not UTF-8"] == 1
    assert texts(tmp_path, replace) == ["caf\ufffd au lait", "fine"] and replace.repaired == 1


BAD = {
    "invalid utf-8": ("a.txt", b"0123456789\xff", r"a\.txt: not valid UTF-8 at byte 10 \(0xff\)"),
    "utf-16": ("a.txt", "text".encode("utf-16"), r"UTF-16 text .*iconv"),
    "binary": ("a.txt", b"abc\0def", r"not text \(a zero byte at position 3\)"),
    "invalid utf-8 in jsonl": ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"line 2: not valid UTF-8 at byte 24"),
    "not json": ("a.jsonl", b'{"text": "a"}\n{"text": ', r"line 2: not JSON"),
    "deep json": ("a.jsonl", b'{"text":' + b"[" * 200_000, r"line 1: not JSON \(nested too deeply\)"),
    "a list": ("a.jsonl", b"[1, 2]", r"line 1: a list, not an object"),
    "no text": ("a.jsonl", b'{"title": "x", "rows": "y"}', r'line 1: no "text" of type string \(has: title, rows\) -> text_column=NAME'),
    "text is a number": ("a.jsonl", b'{"text": 5}', r'no "text" of type string'),
    "chat data": ("a.jsonl", b'{"messages": []}', r"phiforge finetune"),
    "half a character": ("a.jsonl", rb'{"text": "\ud800"}', r"half of a character"),
    "corrupt gzip": ("a.txt.gz", b"no gzip at all", r"not a sound gzip file"),
    "cut gzip": ("a.txt.gz", gzip.compress(os.urandom(5000))[:-30], r"gzip file is cut short after"),
    "corrupt zstandard": ("a.txt.zst", b"no zstandard", r"not a sound zstandard file"),
    "cut zstandard": ("a.txt.zst", zstandard.compress(os.urandom(5000))[:-30], r"zstandard file is cut short after"),
    "empty gzip": ("a.txt.gz", b"", r"cut short after 0 bytes"),
    "an empty list": ("a.json", b"[]", r"no document could be read"),
    "parquet": ("a.parquet", b"PAR1", r"not a sound parquet file at its end"),
    "a book reader's file": ("a.epub", b"PK", r"\.epub is not a text format"),
    "empty": ("a.txt", b"", r"no document could be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(tmp_path: Path, name: str) -> None:
    file, data, message = BAD[name]
    path = put(tmp_path / file, data)
    with pytest.raises(DataError, match=message) as caught:
        texts(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and caught.value.exit_code == 2


def test_a_giant_line_of_jsonl(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"text": "a"}\n' + b"x" * 1_000_000)
    with pytest.raises(DataError, match=r"line 2: longer than 65,536 bytes"):
        texts(path, Intake(max_line_bytes=1 << 16))


def test_missing_paths_empty_folders_and_folders_of_binaries(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        texts(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="an empty folder"):
        texts(tmp_path / "empty")
    put(tmp_path / "pictures" / "a.png", b"\x89PNG")
    with pytest.raises(DataError, match=r"none of its 1 files is text .*1 unknown extension \.png"):
        texts(tmp_path / "pictures")
    put(tmp_path / "binaries" / "a.txt", b"\0\0")
    with pytest.raises(DataError, match=r"no document could be read \(1 binary"):
        texts(tmp_path / "binaries")


def test_links(tmp_path: Path) -> None:
    put(tmp_path / "books" / "a.txt", "one")
    put(tmp_path / "more" / "b.txt", "two")
    (tmp_path / "books" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "books" / "again").symlink_to(tmp_path / "more")
    (tmp_path / "books" / "gone.txt").symlink_to(tmp_path / "nothing")
    intake = Intake()
    assert texts(tmp_path / "books", intake) == ["one", "two"]
    assert intake.skipped == {"link to nothing": 1, "folder reached twice through a link": 1}


def test_loops_of_links_are_counted_and_named_ones_are_errors(tmp_path: Path) -> None:
    put(tmp_path / "books" / "a.txt", "one")
    (tmp_path / "books" / "loop").symlink_to(tmp_path / "books")
    (tmp_path / "books" / "self.txt").symlink_to(tmp_path / "books" / "self.txt")
    intake = Intake()
    assert texts(tmp_path / "books", intake) == ["one"]
    assert intake.skipped["link to a folder that contains it (a loop)"] == intake.skipped["a symbolic link that leads to itself"] == 1
    with pytest.raises(DataError, match="leads to itself"):
        texts(tmp_path / "books" / "self.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "secret")
    path.chmod(0)
    with pytest.raises(DataError, match="no permission to read it"):
        texts(path)


def test_pipes_and_names_that_are_no_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        texts(tmp_path / "pipe.txt")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("coffee")
    intake = Intake()
    assert [d.source for d in read_source(tmp_path, intake)] == [f"{tmp_path.name}/caf\ufffd.txt"]
    assert intake.skipped == {"not a regular file": 1}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_lines_across_pieces(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    lines = [os.urandom(size).replace(b"\n", b"x") for size in (0, 5, 300_000, 1_000_000, 0, 262_144, 1)]
    suffix = {bytes: "", gzip.compress: ".gz", zstandard.compress: ".zst"}[compress]
    path = put(tmp_path / f"a{suffix}", compress(b"\n".join(lines)))
    assert list(read_lines(path, limit=1 << 20)) == list(enumerate(lines, 1))


def test_a_zstandard_bomb_comes_in_pieces(tmp_path: Path) -> None:
    path = put(tmp_path / "zeros.txt.zst", zstandard.compress(b"\n" * 200_000_000))
    sizes = [len(piece) for piece in read_bytes(path)]
    assert sum(sizes) == 200_000_000 and max(sizes) <= 40_000_000


def test_a_sibling_whose_name_begins_alike_is_no_loop(tmp_path: Path) -> None:
    put(tmp_path / "book" / "a.txt", "one")
    put(tmp_path / "books" / "b.txt", "two")
    (tmp_path / "books" / "other").symlink_to(tmp_path / "book")
    assert texts(tmp_path / "books") == ["two", "one"]


def test_a_named_file_with_another_extension_is_text(tmp_path: Path) -> None:
    assert texts(put(tmp_path / "notes.log", "a line")) == ["a line"]
    assert [file.named for file in find_files(tmp_path / "notes.log", Intake())] == [True]
