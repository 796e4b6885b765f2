"""Every format gives its texts; every kind of damage is one line for a named file and a counted drop in a folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from phiforge.core.errors import DataError
from phiforge.data import sources
from phiforge.data.config import DataPrepareConfig
from phiforge.data.formats.html import to_text
from phiforge.data.formats.optional import need
from phiforge.data.sources import Intake, read_source, read_unit, units

TEXTS = [f"text {n} é 😀\nof two lines\n" for n in range(10)]


def read(path: Path, **settings: object) -> tuple[list[str], Intake]:
    intake = Intake(**settings)  # type: ignore[arg-type]
    return [document.text for document in read_source(path, intake)], intake


def parquet(rows: dict[str, list[object]], group: int = 4) -> bytes:
    arrow, tables = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    tables.write_table(arrow.table(rows), out, row_group_size=group)
    return out.getvalue()


def arrow_file(kind: str) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    table, out = arrow.table({"text": TEXTS, "id": list(range(10))}), io.BytesIO()
    with (arrow.ipc.new_stream if kind == "stream" else arrow.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return out.getvalue()


def archive(pages: int = 4, packed: bool = False, **headers: str) -> bytes:
    """A web archive made by hand: requests, pages (one of them not found, one packed), a picture."""
    out = b""
    for n in range(pages):
        body = f"<html><head><title>Page {n}</title></head><body><p>Text &eacute; {n}</p></body></html>".encode()
        status, more = ("404 Not Found", "") if n == 1 else ("200 OK", "")
        if n == 2:
            body, more = gzip.compress(body, mtime=0), "Content-Encoding: gzip\r\n"
        http = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body
        out += record("response", f"http://a.example/{n}", "application/http; msgtype=response", http, packed)
    out += record(
        "response", "http://a.example/p.png", "application/http", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89PNG", packed
    )
    return out + record("conversion", "http://a.example/c", "text/plain", b"Plain text.\r\n", packed)


def record(kind: str, uri: str, content: str, body: bytes, packed: bool) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body + b"\r\n\r\n"
    return gzip.compress(whole, mtime=0) if packed else whole


def lines() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


FORMATS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lines,
    "a.ndjson": lines,
    "a.jsonl.zst": lambda: zstandard.compress(lines()),
    "a.json": lambda: json.dumps([{"text": text} for text in TEXTS], indent=1).encode(),
    "b.json": lines,
    "a.json.gz": lambda: gzip.compress(json.dumps([{"text": text} for text in TEXTS]).encode()),
    "a.csv": lambda: ("\ufeffid,Text\n" + "".join(f'{n},"{text}"\r\n' for n, text in enumerate(TEXTS))).encode(),
    "a.tsv": lambda: ("text\tid\n" + "".join(f'"{text}"\t{n}\n' for n, text in enumerate(TEXTS))).encode(),
    "a.csv.gz": lambda: gzip.compress(("text,id\n" + "".join(f'"{text}",{n}\n' for n, text in enumerate(TEXTS))).encode()),
    "a.parquet": lambda: parquet({"id": list(range(10)), "text": list(TEXTS)}),
    "a.arrow": lambda: arrow_file("stream"),
    "b.arrow": lambda: arrow_file("file"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_its_texts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name]())
    assert read(tmp_path / name)[0] == TEXTS
    found, intake = read(tmp_path)
    assert found == TEXTS and not intake.skipped and intake.files == 1


def test_a_parquet_file_in_units_is_the_file_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"text": list(TEXTS)}, group=2))
    config = DataPrepareConfig(source=[str(tmp_path)])
    whole = list(read_source(tmp_path, Intake()))
    monkeypatch.setattr(sources, "UNIT_BYTES", 200)
    listed = units(str(tmp_path), config, Intake())
    assert len(listed) > 2 and [d for unit in listed for d in read_unit(unit, Intake())] == whole
    assert whole[7].source.endswith("a.parquet:7")


@pytest.mark.parametrize("column", ["content", "body", "article", "story", "Text"])
def test_the_text_column_is_found(tmp_path: Path, column: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,{column},title\n1,the text,a title\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, column: "the text", "title": "a title"}))
    (tmp_path / "a.parquet").write_bytes(parquet({"id": [1], column: ["the text"]}))
    assert read(tmp_path)[0] == ["the text"] * 3


def test_the_text_column_can_be_named_and_a_missing_one_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"text": ["no"], "poem": ["yes"]}))
    (tmp_path / "b.csv").write_text("text,poem\nno,yes\n")
    assert read(tmp_path, text_column="poem")[0] == ["yes", "yes"]
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(DataError, match=r"no column 'verse' with text \(has: text, poem\)"):
            read(tmp_path / name, text_column="verse")
    (tmp_path / "c.parquet").write_bytes(parquet({"title": ["no"], "rows": ["no"]}))
    with pytest.raises(DataError, match=r"\(has: title, rows\) -> text_column=NAME"):
        read(tmp_path / "c.parquet")


def test_lists_of_lines_nulls_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"text": [["one", "two"], None]}))
    (tmp_path / "b.parquet").write_bytes(parquet({"text": [b"three", b"caf\xe9"]}))
    found, intake = read(tmp_path)
    assert found == ["one\ntwo", "three", "caf\ufffd"] and intake.skipped == {"record without a text (null)": 1}


PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>A &amp; B</title><style>p { color: red }</style>
<script>if (a < b && c > d) document.write("<p>never</p>")</script></head>
<body><nav><a href="/">Home</a></nav><h1>Heading</h1><p class="x > y">One
<b>bold</b>&nbsp;word<br>next line</p><ul><li>first<li>second</ul>
<table><tr><td>a</td><td>b</td></tr></table><!-- a comment with <p>tags</p> --><p>Last &#233;</body></html>"""


def test_a_page_becomes_what_a_reader_sees() -> None:
    assert to_text(PAGE) == "A & B\n\nHeading\n\nOne bold word\nnext line\n\nfirst\nsecond\n\na b\n\nLast é\n"


@pytest.mark.parametrize("piece", ["<", "<a ", '<a "', "<!--", "<title", "<script>", "</", "<a '\"", "&", "<nav>", "<p x=\"'>"])
def test_markup_that_never_ends_takes_no_time(piece: str) -> None:
    """Quadratic time would be hours here."""
    assert isinstance(to_text(piece * (2_000_000 // len(piece))), str)


def test_html_files_by_their_charset(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "b.htm").write_bytes('<meta charset="iso-8859-1"><p>caf\u00e9'.encode("latin-1"))
    (tmp_path / "c.html").write_text("<script>nothing to see</script>")
    found, intake = read(tmp_path)
    assert found[1] == "café\n" and len(found) == 2 and intake.skipped == {"page without text": 1}


@pytest.mark.parametrize("packed", [False, True])
def test_web_archives(tmp_path: Path, packed: bool) -> None:
    pytest.importorskip("fastwarc")
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(archive(packed=packed))
    intake = Intake()
    found = list(read_source(path, intake))
    assert [d.text for d in found] == ["Page 0\n\nText é 0\n", "Page 2\n\nText é 2\n", "Page 3\n\nText é 3\n", "Plain text.\n"]
    assert found[0].source == f"{path.name}:http://a.example/0"
    assert intake.skipped == {"web page with status 404": 1, "web record that is no page of text": 1}


def test_web_archives_with_lying_lengths(tmp_path: Path) -> None:
    pytest.importorskip("fastwarc")
    whole, path = archive(), tmp_path / "a.warc"
    last = whole.rindex(b"Content-Length: ")
    path.write_bytes(whole[:last] + b"Content-Length: 9999" + whole[last + 18 :])
    with pytest.raises(DataError, match="longer than what is left of the file"):
        read(path)
    (tmp_path / "b.txt").write_text("kept")
    found, intake = read(tmp_path)
    assert len(found) == 4 and found[-1] == "kept" and intake.skipped["corrupt WARC"] == 1
    path.write_bytes(whole.replace(b"Content-Length: ", b"Content-Length: -"))
    assert read(tmp_path)[1].skipped["corrupt WARC"] == 1
    path.write_bytes(os.urandom(4000))
    with pytest.raises(DataError, match="not a web archive"):
        read(path)


def test_mangled_web_archives_never_raise_but_in_our_words(tmp_path: Path) -> None:
    pytest.importorskip("fastwarc")
    whole, source, path = archive(), random.Random(0), tmp_path / "a.warc"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(source.randint(1, 6)):
            at = source.randrange(len(data))
            data[at : at + source.choice([0, 1, 60])] = source.randbytes(source.choice([0, 1, 30]))
        path.write_bytes(data)
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


BROKEN: dict[str, tuple[Callable[[], bytes], str, str, int]] = {
    # name -> (bytes, the line for a named file, the reason in a folder, texts that are still read there)
    "cut.parquet": (lambda: parquet({"text": list(TEXTS)})[:-20], "not a sound parquet file at its end", "corrupt parquet file", 0),
    "holed.parquet": (
        lambda: (d := parquet({"text": list(TEXTS)}))[:40] + bytes(30) + d[70:],
        "not a sound parquet file",
        "corrupt parquet file",
        0,
    ),
    "no.parquet": (lambda: b"PAR1", "not a sound parquet file", "corrupt parquet file", 0),
    "packed.parquet.gz": (lambda: gzip.compress(parquet({"text": list(TEXTS)})), "a packed parquet file", "packed parquet file", 0),
    "cut.arrow": (lambda: arrow_file("stream")[:-300], "not a sound Arrow file at row", "corrupt Arrow file", 6),
    "open.csv": (lambda: b'id,text\n1,ok\n2,"never closed\n3,x\n', "line 3: not a sound row", "table row with broken quotes", 1),
    "quote.csv": (lambda: b'id,text\n1,ok\n2,"bad"quote\n3,fine\n', "line 3: not a sound row", "table row with broken quotes", 2),
    "cells.csv": (lambda: b"id,text\n1,ok\n2\n3,fine\n", "line 3: 1 cells", "table row with too many or too few cells", 2),
    "huge.csv": (
        lambda: b'id,text\n1,ok\n2,"' + (b"word " * 1000 + b"\n") * 300 + b'"\n3,fine\n',
        "line 3: not a sound row .field larger than field limit",
        "table row with broken quotes",
        -1,
    ),
    "nul.csv": (lambda: b"id,text\n1,ok\n2,a\0b\n3,fine\n", "line 3: not text", "line with zero bytes", 2),
    "columns.csv": (lambda: b"id,words\n1,ok\n", r"\(has: id, words\)", "record without a text column", 0),
    "open.json": (lambda: b'[{"text": "a"}, {"text": "b"}', "record 3: not JSON .the list has no end", "broken .json", 2),
    "cut.json": (lambda: b'[{"text": "a"}, {"text": ', "record 2: not JSON", "broken .json", 1),
    "deep.json": (lambda: b'[{"text":' + b"[" * 200_000, "record 1: not JSON .nested too deeply", "broken .json", 0),
    "nul.json": (lambda: b'[{"text": "a\0"}]', "not text .contains a zero byte", "binary (contains zero bytes)", 0),
    "giant.json": (lambda: b'[{"text": "' + b"x" * 3_000_000 + b'"}]', "more than 1,048,576 characters", "broken .json", 0),
    "settings.json": (lambda: b'{"name": "package", "files": {}}', r"\(has: name, files\)", "record without a text column", 0),
    "long.html": (lambda: b"<p>" + b"x" * 3_000_000, "a page of more than 2,097,152 bytes", "page too long (max_document_bytes)", 0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_one_line_or_a_counted_drop(tmp_path: Path, name: str) -> None:
    make, message, reason, kept = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(make())
    limits = {"max_line_bytes": 1 << 20, "max_document_bytes": 1 << 21}
    if name == "huge.csv":
        import csv

        csv.field_size_limit(1 << 17)  # the limit is the process's and only ever raised: another test may have raised it
    with pytest.raises(DataError, match=message) as caught:
        read(path, **limits)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    (tmp_path / "z.txt").write_text("the good one")
    found, intake = read(tmp_path, **limits)
    assert found[-1] == "the good one" and intake.skipped[reason] >= 1
    assert kept < 0 or len(found) == kept + 1


def test_a_library_that_is_missing_is_one_line_that_says_what_to_install() -> None:
    with pytest.raises(DataError, match=r'\.thing needs the library nosuchlibrary, .* -> pip install "phiforge\[corpus\]"'):
        need("nosuchlibrary.part", ".thing")


def test_a_folder_as_datasets_leaves_it_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": TEXTS[:6]}).train_test_split(test_size=2, shuffle=False)
    rows.save_to_disk(str(tmp_path / "set"))
    found, intake = read(tmp_path / "set")
    assert found == TEXTS[:4] and intake.skipped["another split or config of the set"] == 1


def hub_folder(root: Path, layout: str) -> None:
    names = {
        "shards": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        "readme": ["en/a.jsonl.zst", "en/b.jsonl.zst", "de/a.jsonl.zst"],
        "infos": ["train-00000-of-00001-0123456789abcdef.parquet", "validation-00000-of-00001-0123456789abcdef.parquet"],
    }[layout]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{name} {n}" for n in range(2)]
        jsonl = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(parquet({"text": list(texts)}) if name.endswith("parquet") else zstandard.compress(jsonl))
    front = "---\nconfigs:\n- config_name: de\n  data_files: de/*\n"
    front += "- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/*.zst\n---\n"
    (root / "README.md").write_text((front if layout == "readme" else "") + "# The set\n")
    (root / "dataset_infos.json").write_text("{}")
    (root / ".gitattributes").write_text("")


@pytest.mark.parametrize("layout", ["shards", "readme", "infos"])
def test_a_folder_laid_out_as_the_hub_does_gives_its_training_split(tmp_path: Path, layout: str) -> None:
    hub_folder(tmp_path / "set", layout)
    found, intake = read(tmp_path / "set")
    wanted = {"shards": "data/train-", "readme": "en/", "infos": "train-"}[layout]
    assert found and all(text.startswith(wanted) for text in found)
    assert intake.skipped == {"another split or config of the set": 1, "the hub's own file": 2, "hidden": 1}
