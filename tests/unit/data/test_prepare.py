"""The corpus stage: what is held out is unseen, what is dropped is counted, and the report tells it."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.data import prepare as stage
from phiforge.data import split, stats, stats_tables
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document, DocumentFile, content_id, write_documents
from phiforge.data.prepare import read_split
from phiforge.data.stages import STAGES

WORDS = ["light", "table", "wind", "seven", "stone", "paper", "morning", "small", "river", "quick"]


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    sentences = [" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(words // 8)]
    return "\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)) + "\n"


def folder_of(tmp_path: Path, texts: dict[str, str]) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def prepare(tmp_path: Path, source: Path, **settings: Any) -> tuple[dict[str, Any], list[Document], list[Document]]:
    config = build(DataPrepareConfig, {"source": str(source), "min_bytes": 1000, **settings}, where="test")
    out = tmp_path / "run"
    writer = RunWriter(out, new_manifest("data prepare", config), config)
    writer.begin()
    metrics = stage.run(config, {}, writer)
    report = json.loads((out / "data.json").read_text())
    train, validation = list(read_split(out, "train")), list(read_split(out, "validation"))
    assert metrics["train_characters"] == sum(len(d.text) for d in train) == report["split"]["train"]["characters"]
    assert sorted(path.name for path in (out / "documents").iterdir()) == ["train.jsonl.zst", "validation.jsonl.zst"]
    return report, train, validation


def test_whole_documents_are_held_out(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {f"{i:02}.txt": prose(i, 400) for i in range(30)})
    report, train, validation = prepare(tmp_path, source, validation_fraction=0.2)
    assert report["split"]["method"] == "document" and abs(report["split"]["got_fraction"] - 0.2) < 0.05
    assert {d.text for d in train + validation} == {path.read_text() for path in source.iterdir()}
    assert not {d.id for d in train} & {d.id for d in validation}
    assert all(d.id == content_id(d.text) for d in train)


def test_the_split_depends_on_seed_and_content_alone(tmp_path: Path) -> None:
    texts = {f"{i:02}.txt": prose(i, 400) for i in range(30)}
    first = {d.text for d in prepare(tmp_path, folder_of(tmp_path, texts))[2]}
    renamed = {f"z{99 - i}.txt": text for i, text in enumerate(texts.values())}
    (tmp_path / "b").mkdir()
    assert {d.text for d in prepare(tmp_path / "b", folder_of(tmp_path / "b", renamed))[2]} == first
    assert {d.text for d in prepare(tmp_path, tmp_path / "texts", seed=1)[2]} != first


def test_duplicates_are_dropped_once_and_named(tmp_path: Path) -> None:
    texts = {f"{i:02}.txt": prose(i, 200) for i in range(20)}
    texts |= {"x1.txt": texts["03.txt"], "x2.txt": texts["03.txt"] + "\n\n", "blank.txt": " \n\n"}
    source = folder_of(tmp_path, texts)
    report, train, validation = prepare(tmp_path, source)
    assert report["dropped"] == {"duplicate": 2, "empty": 1} and report["documents"] == 20 == len(train) + len(validation)
    assert report["dropped_examples"]["duplicate"] == "texts/x1.txt"
    kept, train, validation = prepare(tmp_path, source, deduplicate=False)
    assert kept["documents"] == 22 and not {d.text for d in train} & {d.text for d in validation}


def test_one_file_is_split_into_blocks_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapters = "\n\n\n".join(f"CHAPTER {i}\n\n{prose(i, 700)}" for i in range(12))
    source = folder_of(tmp_path, {"book.txt": chapters})
    report, train, validation = prepare(tmp_path, source)
    assert report["split"]["method"] == "block" and "chapters and blocks" in report["split"]["why"]
    assert "chapters and blocks" in capsys.readouterr().err
    assert 0.05 <= report["split"]["got_fraction"] <= 0.15
    parts = sorted(train + validation, key=lambda d: int(d.source.partition("#block")[2]))
    assert "".join(d.text for d in parts) == chapters
    sides = [d in validation for d in parts]
    assert all(a != b for a, b in itertools.pairwise(sides)), "neighbouring blocks of one side stay together"
    assert all(d.text.startswith("CHAPTER") or d.text[0].islower() for d in parts)


def test_equal_blocks_never_lie_on_both_sides(tmp_path: Path) -> None:
    refrain = prose(99, 60)
    source = folder_of(tmp_path, {"song.txt": "\n\n".join(prose(i, 60) + "\n\n" + refrain for i in range(60))})
    _, train, validation = prepare(tmp_path, source, validation_fraction=0.3)
    size = split.block_size(sum(len(d.text) for d in train + validation), 0.3)
    blocks = {
        side: {d.text[a:b].strip() for d in docs for a, b in split.cut_blocks(d.text, size)}
        for side, docs in (("t", train), ("v", validation))
    }
    assert not blocks["t"] & blocks["v"]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_tail_is_exact(tmp_path: Path, fraction: float) -> None:
    texts = {f"{i}.txt": prose(i, 150 + 17 * i) + "é" for i in range(5)}
    report, train, validation = prepare(tmp_path, folder_of(tmp_path, texts), split="tail", validation_fraction=fraction)
    whole = "".join(texts.values())
    border = int(len(whole) * (1 - fraction))
    assert "".join(d.text for d in train) == whole[:border] and "".join(d.text for d in validation) == whole[border:]
    assert report["split"]["method"] == "tail"


def test_chunks_are_packed_by_paragraph(tmp_path: Path) -> None:
    texts = {f"{i}.txt": "\n" * (i % 3) + prose(i, 900).replace("\n\n", "\n \n\n") + "x" * 900 * (i % 2) for i in range(6)}
    settings = {"split": "chunks", "chunk_characters": 300, "validation_fraction": 0.2, "seed": 42}
    report, train, validation = prepare(tmp_path, folder_of(tmp_path, texts), **settings)
    assert report["split"]["method"] == "chunks" and "trained on" in report["split"]["why"]
    chunks = {i: [text[a:b] for a, b in split.cut_chunks(text, 300)] for i, text in enumerate(texts.values())}
    held = {d.source: d.text for d in validation}
    for i, ours in chunks.items():
        kept = next(d.text for d in train if d.source == f"texts/{i}.txt#chunks")
        sides = "".join("t" if chunk in kept else "v" for chunk in ours)
        assert kept == "".join(c for c, side in zip(ours, sides, strict=True) if side == "t"), "training chunks in their order"
        assert held.get(f"texts/{i}.txt#chunks", "") == "".join(c for c, side in zip(ours, sides, strict=True) if side == "v")
    count = sum(len(ours) for ours in chunks.values())
    assert report["split"]["chunks"] == count and report["split"]["held_out_chunks"] == int(0.2 * count)
    (tmp_path / "b").mkdir()
    other = prepare(tmp_path / "b", tmp_path / "texts", **{**settings, "seed": 43})[2]
    assert {d.text for d in other} != set(held.values())


@pytest.mark.parametrize("size", [50, 300, 500])
def test_a_chunk_is_as_many_paragraphs_as_fit(size: int) -> None:
    for text in (prose(1, 3000), "\n\n\n" + prose(2, 300) + " \n\n \n", "x" * 20_000, "a\n\n" * 500, "", " \n"):
        chunks = [text[a:b] for a, b in split.cut_chunks(text, size)]
        assert "".join(chunks) == text and (len(chunks) == 1 or all(chunk.strip() for chunk in chunks))
        for chunk, follows in itertools.pairwise(chunks):
            paragraph = follows.split("\n\n")[0].strip()
            assert len(chunk.strip()) <= size or "\n\n" not in chunk.strip()
            assert len(chunk + paragraph) > size, "the next paragraph would have passed the size"


def test_tiny_shakespeare_is_cut_where_everyone_cuts_it(tmp_path: Path, shared_data: Path) -> None:
    _, train, validation = prepare(tmp_path, shared_data / "tiny-shakespeare" / "input.txt", split="tail")
    assert (sum(len(d.text) for d in train), sum(len(d.text) for d in validation)) == (1_003_854, 111_540)


def test_real_books_are_unseen_books(tmp_path: Path, shared_data: Path) -> None:
    report, train, validation = prepare(tmp_path, shared_data / "eight-books")
    assert report["gutenberg_stripped"] == 8 and report["split"]["method"] == "document"
    assert 0.05 <= report["split"]["got_fraction"] <= 0.15
    assert not any("\r" in d.text or "\ufeff" in d.text or "PROJECT GUTENBERG" in d.text for d in train + validation)
    assert report["licences"]["Project Gutenberg License"]["documents"] == 8


def test_too_little_text_says_how_much_is_needed(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {"a.txt": "x" * 200})
    with pytest.raises(DataError, match=r"too little text: 200 bytes, 16,384 are needed"):
        prepare(tmp_path, source, min_bytes=16_384)
    assert not (tmp_path / "run" / "documents").exists()


def test_text_that_only_repeats_itself_can_not_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be split"):
        prepare(tmp_path, folder_of(tmp_path, {"a.txt": "x" * 20_000}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": []}, "source"),
        ({"source": [""]}, "a source is the path"),
        ({"validation_fraction": 0}, "validation_fraction"),
        ({"validation_fraction": 0.9}, "validation_fraction"),
        ({"split": "random"}, "split"),
        ({"encoding_errors": "ignore"}, "encoding_errors"),
        ({"sources": ["a"]}, "did you mean 'source'"),
        ({"seed": -1}, "seed"),
        ({"min_bytes": "many"}, "min_bytes"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(DataPrepareConfig, settings, where="test")
    assert "\n" not in str(caught.value)


def test_the_report_and_its_table(tmp_path: Path) -> None:
    texts = {f"{i:02}.md": f"# {i}\n\nmail me{i}@host.org, Creative Commons\n\n" + prose(i, 200) for i in range(20)}
    report, *_ = prepare(tmp_path, folder_of(tmp_path, texts))
    lengths = sorted(len(text) for text in texts.values())
    assert report["lengths"]["longest"] == lengths[-1] and report["lengths"]["shortest"] == lengths[0]
    assert report["personal_data"]["email"]["count"] == 20 and report["licences"]["Creative Commons"]["documents"] == 20
    assert "me3@host" not in json.dumps(report["personal_data"]) and len(report["samples"]) == 5
    assert stats.describe(tmp_path / "run") == report
    fresh = stats.describe(tmp_path / "texts")
    assert {key: fresh[key] for key in ("documents", "characters", "bytes", "personal_data")} == {
        key: report[key] for key in ("documents", "characters", "bytes", "personal_data")
    }
    table = {row[0]: row[1] for row in stats_tables.rows(report)}
    assert table["documents"] == "20" and "held out" in table["split"] and "20 in 20 documents" in table["personal data: email"]


def test_the_same_twice(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {f"{i:02}.txt": prose(i, 200) for i in range(20)})
    first = prepare(tmp_path, source)[0]
    (tmp_path / "again").mkdir()
    second = prepare(tmp_path / "again", source)[0]
    assert first == second and len(first["sha256"]) == 64


def test_the_stage_names_its_files(tmp_path: Path) -> None:
    source = folder_of(tmp_path, {"a.txt": "x", "b.png": "y"})
    by_name = {s.name: s for s in STAGES}
    data = by_name["data prepare"]
    assert data.inputs(DataPrepareConfig(source=[str(source), "python"])) == [source / "a.txt"]  # type: ignore[call-arg]
    assert data.load() is stage.run and by_name["tokenizer train"].load()


def test_damaged_document_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "documents" / "train.jsonl.zst"
    with pytest.raises(DataError, match="no train documents"):
        read_split(tmp_path, "train")
    path.parent.mkdir()
    made = [Document.of(prose(i, 100), "a") for i in range(50)]
    write_documents(path, made)
    assert list(DocumentFile(path)) == made
    for data in (path.read_bytes()[: path.stat().st_size // 2], b"nonsense", zstandard.compress(b'{"id": 1}\n')):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train\.jsonl\.zst: .*after document.*data prepare"):
            list(read_split(tmp_path, "train"))


def test_hold_out_is_fair_or_nothing() -> None:
    even = [(str(i), 100) for i in range(50)]
    held = split.hold_out(even, 0.1, 0)
    assert held is not None and len(held) == 5
    assert split.hold_out([("a", 100)], 0.1, 0) is None
    assert split.hold_out([("a", 50), ("b", 50)], 0.1, 0) is None
    assert split.hold_out([("a", 1000), ("b", 1)], 0.1, 0) is None, "a thousandth is no tenth"
    uneven = [(str(i), size) for i, size in enumerate([25, 17, 13, 12, 12, 9, 6, 4, 2])]
    for seed in range(20):
        share = split.hold_out(uneven, 0.1, seed)
        assert share is not None and 5 <= sum(size for name, size in uneven if name in share) <= 15


@pytest.mark.parametrize("size", [200, 1000, 5000])
def test_blocks_make_up_the_text(size: int) -> None:
    for text in (prose(1, 3000), "x" * 20_000, "", "word " * 5000, prose(2, 2000) + "\n\n\nCHAPTER II\n\n" + prose(3, 2000)):
        blocks = split.cut_blocks(text, size)
        assert "".join(text[a:b] for a, b in blocks) == text
        assert all(b - a <= 1.5 * size for a, b in blocks)
