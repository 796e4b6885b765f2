"""The corpus engine: parts, what is decided of the whole, tokens beside documents, limits, and what goes wrong."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phiforge.core.config import build, identity
from phiforge.core.errors import ConfigError, DataError, PhiforgeError, PreflightError
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data import parts, pipeline
from phiforge.data import prepare as stage
from phiforge.data.config import DataPrepareConfig
from phiforge.data.document import Document
from phiforge.data.pack import pack
from phiforge.data.parts import Lines, Part, json_line, read_frames
from phiforge.data.prepare import packed_split, read_split
from phiforge.data.reading import read_lines
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer

WORDS = "light table wind seven stone paper morning small river quick anchor barley copper dune ember fjord".split()


def prose(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return "\n\n".join(" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(words // 8)) + "\n"


def folder_of(tmp_path: Path, texts: dict[str, str]) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def prepare(tmp_path: Path, source: Path | list[Path], tokenizer: Path | None = None, out: str = "run", **settings: Any) -> dict[str, Any]:
    sources = [str(item) for item in (source if isinstance(source, list) else [source])]
    config = build(DataPrepareConfig, {"source": sources, "min_bytes": 100, "workers": 1, "part_bytes": 4096, **settings}, where="test")
    writer = RunWriter(tmp_path / out, new_manifest("data prepare", config), config)
    writer.begin()
    stage.run(config, {"tokenizer": Run.borrow(tokenizer)} if tokenizer else {}, writer)
    assert not (tmp_path / out / "checkpoints").exists()
    return json.loads((tmp_path / out / "data.json").read_text())


def both(tmp_path: Path, out: str = "run") -> list[Document]:
    return [document for side in ("train", "validation") for document in read_split(tmp_path / out, side)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([prose(i, 800) for i in range(4)], 400).save(folder)
    return folder


@pytest.mark.parametrize("text", ["", 'a\nb\t"c" \\ \x00\x1f\x7f', "é “日本” \U0001f600\u2028", '\\n\\"\n\n', "\r\n"])
def test_a_line_is_what_json_would_write(text: str) -> None:
    record = {"id": "ab", "text": text, "source": 'x "y".txt', "reason": "z"}
    line = json_line("ab", text.encode(), 'x "y".txt', reason="z")
    assert json.loads(line) == record and line.count(b"\n") == 1
    assert line == (json.dumps(record, ensure_ascii=False) + "\n").encode()


def test_frames_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FRAME", 50)
    lines = Lines(tmp_path / "x.zst")
    for i in range(40):
        lines.write(b"line %d\n" % i)
    lines.close()
    assert len(lines.frames) > 4
    assert list(read_frames(tmp_path / "x.zst", lines.frames)) == [b"line %d" % i for i in range(40)]
    (tmp_path / "x.zst").write_bytes((tmp_path / "x.zst").read_bytes()[:-3])
    with pytest.raises(DataError, match="damaged part"):
        list(read_frames(tmp_path / "x.zst", lines.frames))


@pytest.mark.parametrize("how", ["document", "few", "tail", "chunks"])
def test_tokens_are_those_of_the_documents(tmp_path: Path, tokenizer: Path, how: str) -> None:
    """Ready in the run: the same bytes as documents packed afterwards, whichever way the text was split."""
    texts = {f"{i:02}.txt": prose(i, 300 if how != "few" else 6000) for i in range(2 if how == "few" else 30)}
    texts |= {"z.txt": texts["00.txt"]}
    settings = {} if how in ("document", "few") else {"split": how}
    report = prepare(tmp_path, folder_of(tmp_path, texts), tokenizer, **settings)
    assert report["split"]["method"] == {"few": "block"}.get(how, how)
    known = Tokenizer.load(tokenizer)
    for side in ("train", "validation"):
        ready, after = packed_split(tmp_path / "run", side, known), pack(read_split(tmp_path / "run", side), known, tmp_path / "cache")  # type: ignore[arg-type]
        assert ready.folder == tmp_path / "run" / "packed" / side and report["split"][side]["tokens"] == ready.n_tokens
        assert np.array_equal(ready.tokens, after.tokens) and ready.tokens.dtype == after.tokens.dtype
        assert np.array_equal(ready.starts, after.starts) and np.array_equal(ready.document_bytes, after.document_bytes)
        facts = [{key: made.facts[key] for key in ("n_tokens", "n_bytes", "n_documents", "dtype")} for made in (ready, after)]
        assert facts[0] == facts[1]


def test_another_tokenizer_packs_into_the_cache(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path, folder_of(tmp_path, {f"{i:02}.txt": prose(i, 300) for i in range(30)}), tokenizer)
    other = train_tokenizer([prose(99, 800)], 300)
    made = packed_split(tmp_path / "run", "train", other, tmp_path / "cache")
    assert made.folder.parent == tmp_path / "cache" / "packed" and made.n_bytes == sum(
        len(d.text) for d in read_split(tmp_path / "run", "train")
    )
    assert packed_split(tmp_path / "run", "train", other, tmp_path / "cache").folder == made.folder
    known = Tokenizer.load(tokenizer)
    ready = packed_split(tmp_path / "run", "train", known, tmp_path / "cache")
    tokens = ready.tokens.tolist()
    del ready
    (tmp_path / "run/packed/train/tokens.bin").write_bytes(b"xx")
    again = packed_split(tmp_path / "run", "train", known, tmp_path / "cache")
    assert again.tokens.tolist() == tokens and "packed again" in capsys.readouterr().err
    (tmp_path / "run/data.json").unlink()
    assert packed_split(tmp_path / "run", "train", known, tmp_path / "cache").tokens.tolist() == tokens


def test_many_documents_are_held_out_by_their_hash(tmp_path: Path) -> None:
    """No second pass is needed, the share is about what was asked, and the order of the input plays no part."""
    lines = [json.dumps({"text": prose(i, 24)}) for i in range(1500)]
    report = prepare(tmp_path, folder_of(tmp_path, {"a.jsonl": "\n".join(lines)}), validation_fraction=0.2)
    assert report["split"]["method"] == "document" and abs(report["split"]["got_fraction"] - 0.2) < 0.05
    held = {d.id for d in read_split(tmp_path / "run", "validation")}
    (tmp_path / "b").mkdir()
    source = folder_of(tmp_path / "b", {"a.jsonl": "\n".join(reversed(lines[:750])), "b.jsonl": "\n".join(lines[750:])})
    prepare(tmp_path / "b", source, validation_fraction=0.2)
    assert {d.id for d in read_split(tmp_path / "b" / "run", "validation")} == held
    prepare(tmp_path / "b", source, validation_fraction=0.2, seed=1, out="other")
    assert {d.id for d in read_split(tmp_path / "b" / "other", "validation")} != held


def test_a_repeated_document_in_another_part_is_dropped(tmp_path: Path) -> None:
    texts = {f"{i:02}.txt": prose(i, 400) for i in range(20)}
    near = texts["05.txt"].split(" ")
    near[100], near[200] = "changed", "too"
    texts |= {"z1.txt": texts["00.txt"], "z2.txt": texts["01.txt"] + "\n\n", "z3.txt": " ".join(near)}
    pytest.importorskip("rensa")
    report = prepare(tmp_path, folder_of(tmp_path, texts), near_duplicates=True, save_dropped=True)
    assert report["dropped"] == {"duplicate": 2, "near duplicate": 1} and report["documents"] == 20
    assert report["dropped_examples"] == {"duplicate": "texts/z1.txt", "near duplicate": "texts/z3.txt"}
    dropped = [json.loads(line) for _, line in read_lines(tmp_path / "run/documents/dropped.jsonl.zst", limit=1 << 20)]
    assert [(d["source"], d["reason"]) for d in dropped] == [
        ("texts/z1.txt", "duplicate"),
        ("texts/z2.txt", "duplicate"),
        ("texts/z3.txt", "near duplicate"),
    ]
    assert dropped[2]["text"] == texts["z3.txt"]


def test_what_filters_leave_out_is_counted(tmp_path: Path) -> None:
    texts = {f"{i:02}.txt": prose(i, 400) for i in range(20)}
    question = "Which of the seven copper anchors did the old fisherman of the northern fjord sell before morning came?"
    texts |= {"short.txt": "too short", "blank.txt": " \n", "leak.txt": prose(50, 100) + question + prose(51, 100)}
    long = prose(60, 4000)
    texts["long.txt"] = long[:20_000] + question + " " + long[20_000:]
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "quiz.jsonl").write_text(json.dumps({"question": question, "answer": "the third"}) + "\n")
    source = folder_of(tmp_path, texts)
    report = prepare(tmp_path, source, min_characters=20, evaluation=str(tmp_path / "items"), quality="off")
    assert report["dropped"]["shorter than 20 characters"] == 1 and report["dropped"]["empty"] == 1
    assert sum(count for reason, count in report["dropped"].items() if "item" in reason) == 1
    assert report["evaluation"]["passages_cut_out"] == 1 and report["evaluation"]["items"] == 1
    documents = {d.source: d.text for d in both(tmp_path)}
    assert "texts/leak.txt" not in documents and not any(question in text for text in documents.values())
    pieces = [text for name, text in documents.items() if name.startswith("texts/long.txt#kept")]
    assert len(pieces) == 2 and all(piece in long for piece in pieces) and sum(map(len, pieces)) > len(long) - 700


def test_a_language_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    german = "Der alte Mann ging am Morgen langsam über die Brücke und sah lange auf das Wasser, das unter ihm floss. " * 20
    english = "The old man walked slowly over the bridge in the morning and looked for a long time at the water below him. "
    texts = {f"{i:02}.txt": english * 20 + prose(i, 40) for i in range(20)}
    report = prepare(tmp_path, folder_of(tmp_path, texts | {"de.txt": german}), language="en")
    assert report["dropped"] == {"language: de": 1} and report["documents"] == 20
    with pytest.raises(ConfigError, match="klingon"):
        prepare(tmp_path, tmp_path / "texts", language="klingon", out="other")


def test_so_many_bytes_of_each_source(tmp_path: Path) -> None:
    """The first documents that fit, whatever the parts: what comes after them is neither kept nor counted."""
    texts = {f"{i:02}.txt": prose(i, 200) for i in range(30)} | {"00b.txt": " \n"}
    source = folder_of(tmp_path, texts)
    limit, kept, size = 12_000, 0, 0
    for name in sorted(texts):
        if size + len(texts[name]) > limit:
            break
        kept, size = kept + 1, size + len(texts[name])
    for part_bytes in (1024, 5000, 1 << 20):
        report = prepare(tmp_path, source, max_bytes=limit, part_bytes=part_bytes, out=f"run{part_bytes}")
        assert report["documents"] == kept - 1 and report["bytes"] == size - 2 and report["dropped"] == {"empty": 1}


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path, {f"{i:02}.txt": prose(i, 400) for i in range(20)})
    report = prepare(tmp_path, source, out="whole")
    write, allowed = Lines._flush, 12

    def full(self: Lines) -> None:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "_flush", full)
        with pytest.raises(PreflightError, match="the disk is full") as caught:
            prepare(tmp_path, source)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "run/checkpoints/checkpoint-parts"
    assert [path for path in folder.glob("*.json") if Part.find(folder, path.stem)] and not list(folder.glob(".*"))
    assert prepare(tmp_path, source) == report
    monkeypatch.setattr("phiforge.core.hardware.free_disk", lambda path: 1000)
    with pytest.raises(PreflightError, match="of disk and 1 kB is free"):
        prepare(tmp_path, source, out="none")


def test_a_mistake_in_little_text_leaves_nothing_to_resume(tmp_path: Path) -> None:
    """So that the same command can be given again when it is put right."""
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno json\n')
    source = folder_of(tmp_path, {f"{i:02}.txt": prose(i, 400) for i in range(20)})
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        prepare(tmp_path, [source, tmp_path / "bad.jsonl"])
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "documents").exists()


def test_a_worker_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path, {f"{i:02}.txt": prose(i, 400) for i in range(20)})
    death = PhiforgeError("the worker process was killed (SIGKILL)", fix="fewer jobs at once may do")
    monkeypatch.setattr(pipeline, "run_all", lambda *_, **__: (outcome for outcome in [(0, death)]))
    with pytest.raises(PhiforgeError, match="SIGKILL"):
        prepare(tmp_path, source)


def test_how_many_work_is_no_part_of_the_result() -> None:
    one, two = (build(DataPrepareConfig, {"workers": workers}, where="test") for workers in (1, 2))
    assert identity(one) == identity(two) != identity(build(DataPrepareConfig, {"seed": 1}, where="test"))
    assert new_manifest("data prepare", one).config_hash == new_manifest("data prepare", two).config_hash
