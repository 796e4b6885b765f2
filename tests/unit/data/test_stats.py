"""What `data stats` counts: words, growth, scripts, lengths, sources; in bounded memory, in a sample, and the same every time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from phiforge.data import stats, stats_tables, stats_words
from phiforge.data.document import Document
from phiforge.data.stats_pass import Languages, Pass, blocks, group_of, sample_share
from phiforge.data.stats_words import Scripts, Vocabulary, script
from phiforge.report.corpus import corpus_page, render_corpus

HOSTILE = '</pre><script>document.title="taken"</script><img src="http://example.invalid/x.png">'


def prose(count: int, seed: int = 0) -> str:
    """Words drawn as in a text: a few often, many once."""
    generator = np.random.default_rng(seed)
    return " ".join(f"w{rank}x" for rank in generator.zipf(1.3, count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources below one folder, a duplicate, and a hostile name."""
    root = tmp_path / "texts"
    for name, text in {
        "novels/one.txt": "The happy mother kissed her child; stone walls and iron gates stood in the dark valley.\n" * 300,
        "novels/two.txt": "The happy mother kissed her child; stone walls and iron gates stood in the dark valley.\n" * 300,
        "science/a.txt": "Infinite galaxies and tiny atoms: a theory of justice for countless armies.\n" * 300,
        f"science/{re.sub('[/]', '_', HOSTILE)[:60]}.txt": HOSTILE * 40 + "\nЗвезда и атом.\n" * 50,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("batch", [7, 100, 1 << 19])
def test_the_vocabulary_is_that_of_a_dictionary(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Whatever the size of the batches."""
    monkeypatch.setattr(stats_words, "_BATCH", batch)
    text = prose(3000)
    vocabulary = Vocabulary()
    for start in range(0, 3000, 50):
        vocabulary.add(" ".join(text.split()[start : start + 50]))
    found = vocabulary.report()
    counts = Counter(text.split())
    assert found["words"] == 3000 and found["distinct"] == len(counts) and found["once"] == sum(n == 1 for n in counts.values())
    for read, different in found["growth"]:
        assert different == len(set(text.split()[:read])), read
    assert found["growth"][-1] == [3000, len(counts)] and len(found["growth"]) > 10
    ranked = sorted(counts.values(), reverse=True)
    assert all(ranked[rank - 1] == count for rank, count in found["ranks"])
    assert found["top"][0] == [counts.most_common(1)[0][0], ranked[0]]
    assert {tuple(pair) for pair in found["top"]} <= set(counts.items())


def test_the_exponents_are_those_of_the_law_that_made_the_text() -> None:
    frequent, growing = Vocabulary(), Vocabulary()
    ranks = np.arange(1, 3001)
    frequent.add(" ".join(f"w{rank}x" for rank in np.repeat(ranks, 30_000 // ranks)))
    assert frequent.report()["zipf"] == pytest.approx(-1, abs=0.05)
    different = (np.arange(1, 50_001) ** 0.6).astype(int)  # a new word wherever this rises
    growing.add(" ".join(f"w{n}x" if new else "old" for n, new in enumerate(np.diff(different, prepend=0))))
    assert growing.report()["heaps"] == pytest.approx(0.6, abs=0.01)


def test_no_words_no_laws() -> None:
    assert Vocabulary().report() == {
        "words": 0,
        "distinct": 0,
        "once": 0,
        "growth": [],
        "ranks": [],
        "top": [],
        "heaps": None,
        "zipf": None,
    }


def test_scripts_are_counted_character_by_character() -> None:
    text = "Stone 12, камень; 石 και é\u0301\n\t\x07"
    scripts = Scripts()
    scripts.add(text)
    scripts.add("ascii alone")
    assert scripts.report() == dict(Counter(script(c) for c in text + "ascii alone").most_common())
    assert {"Latin", "Cyrillic", "Cjk", "Greek", "digits", "accents", "control characters"} <= set(scripts.report())


def test_blocks_are_the_text() -> None:
    text = prose(40_000) + "y" * 200_000
    pieces = list(blocks(text))
    assert "".join(pieces) == text and len(pieces) > 3 and max(map(len, pieces)) < 66_000
    assert all(piece[-1] != "w" for piece in pieces[:2]), "words are not cut where there are blanks"


def test_a_sample_is_drawn_evenly_and_the_same_each_time() -> None:
    documents = [Document.of(prose(60_000, seed), f"books/{seed}.txt") for seed in range(12)]
    whole, one, two = Pass(), Pass(0.3), Pass(0.3)
    for passed in (whole, one, two):
        for document in documents:
            passed.add(document)
    full, sampled = whole.report(0.02), one.report(0.02)
    assert sampled == two.report(0.02) and sampled["bytes"] == full["bytes"] and sampled["lengths"] == full["lengths"]
    assert 0.15 < sampled["sample"]["bytes"] / full["bytes"] < 0.45 and full["sample"] == {
        "share": 1.0,
        "bytes": full["bytes"],
        "full": False,
    }
    assert 0.15 < sampled["vocabulary"]["words"] / full["vocabulary"]["words"] < 0.45
    assert (sample_share(100, 50), sample_share(10, 50), sample_share(None, 50)) == (0.5, 1.0, 1.0)


def test_where_no_size_is_known_the_first_of_the_text_is_the_sample() -> None:
    passed = Pass(limit=100_000)
    for seed in range(4):
        passed.add(Document.of(prose(30_000, seed), f"hub:a/b/{seed}.txt"))
    found = passed.report(0.02)
    assert found["sample"]["full"] and 100_000 <= found["sample"]["bytes"] < 180_000 < found["bytes"]
    assert "the first of it" in stats_tables.sampled(found)


def test_languages_are_those_of_a_bounded_draw() -> None:
    english, german = (
        "All human beings are born free and equal in dignity, number ",
        "Alle Menschen sind frei und gleich an Würde geboren, Nummer ",
    )
    whole, few, again = Languages(), Languages(40), Languages(40)
    for number in range(120):
        document = Document.of((german if number % 3 == 0 else english) + str(number), "x")
        for languages in (whole, few, again):
            languages.add(document, 100)
    assert whole.report() == {"looked_at": 120, "documents": {"en": 80, "de": 40}, "bytes": {"en": 8000, "de": 4000}}
    found = few.report()
    assert found["looked_at"] == 40 and found == again.report() and 5 <= found["documents"]["de"] <= 22
    whole.add(Document.of("7", "x"), 1)
    assert whole.report()["documents"]["und"] == 1


def test_sources_are_roots_or_what_lies_below_the_only_one() -> None:
    text = "stone justice mother iron " * 400
    two, one, many = Pass(), Pass(), Pass()
    for name in ("books/a.txt", "books/b.txt", "wiki.jsonl:3", "wiki.jsonl:4"):
        two.add(Document.of(text, name))
    for name in ("books/poe/a.txt", "books/poe/b.txt#block1", "books/doyle/c.txt"):
        one.add(Document.of(text, name))
    for number in range(500):
        many.add(Document.of(text, f"root{number}/a.txt"))
    assert set(two.report(0)["coverage"]["sources"]) == {"books", "wiki.jsonl"}
    assert {name: s["words"] for name, s in one.report(0)["coverage"]["sources"].items()} == {"poe": 3200, "doyle": 1600}
    found = many.report(0)["coverage"]
    assert len(found["sources"]) <= 24 and sum(s["words"] for s in found["sources"].values()) == 500 * 1600
    assert group_of("hub:owner/set/part-1.parquet:17")[0] == "hub:owner"


def test_a_folder_is_read_once_for_everything(folder: Path) -> None:
    found = stats.measure(folder)
    measured = found["measured"]
    assert found["documents"] == measured["documents"] == 3 and found["dropped"] == {"duplicate": 1}
    assert found["bytes"] == measured["bytes"] and measured["scripts"]["Cyrillic"] > 100
    assert set(measured["coverage"]["sources"]) == {"novels", "science"}
    assert sum(measured["coverage"]["suggested_mix"].values()) == pytest.approx(1)
    assert {key: found[key] for key in found if key != "measured"} == stats.describe(folder)
    text = "\n".join(f"{what}  {value}" for what, value in stats_tables.rows(found))
    for said in ("left out: duplicate", "all of the text", "words", "most frequent", "languages", "Cyrillic"):
        assert said in text
    titles = [title for title, _, _ in stats_tables.tables(found)]
    assert titles[0] == "Document lengths" and "axioms" in titles[1] and "mix" in titles[2]
    for _, columns, rows in stats_tables.tables(found):
        assert {len(row) for row in rows} == {len(columns)}


def test_what_is_short_is_said(folder: Path) -> None:
    lines = stats_tables.warnings(stats.measure(folder, least_share=0.03))
    assert any(line.startswith("novels: little about") and "unbounded" in line for line in lines)
    assert stats_tables.warnings(stats.measure(folder, least_share=0.0)) == []


def test_the_page_holds_everything_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    found = stats.measure(folder, least_share=0.05)
    page = render_corpus(found, str(folder), tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == corpus_page(found, str(folder))
    for said in (
        "The seven content axioms",
        "Short of",
        "Vocabulary",
        "Document lengths",
        "Characters by script",
        "Left out",
        "Sample lines",
    ):
        assert said in page
    assert "<script" not in page and page.count("<svg") == 2 and "&lt;script&gt;" in page
    assert len(page) < 200_000


def test_an_almost_empty_corpus_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7\n")
    page = corpus_page(stats.measure(tmp_path / "a.txt"), "a.txt")
    assert "Document lengths" in page and "<svg" not in page


def test_a_run_is_measured_from_its_documents(folder: Path, tmp_path: Path) -> None:
    import json

    from phiforge.data.document import write_documents

    run = tmp_path / "run"
    (run / "documents").mkdir(parents=True)
    documents = [Document.of(path.read_text(encoding="utf-8"), f"texts/{path.parent.name}/x.txt") for path in sorted(folder.rglob("*.txt"))]
    write_documents(run / "documents" / "train.jsonl.zst", documents[:2])
    write_documents(run / "documents" / "validation.jsonl.zst", documents[2:])
    (run / "data.json").write_text(json.dumps(stats.describe(folder)), encoding="utf-8")
    found = stats.measure(run, sample_bytes=10)
    assert found["measured"]["documents"] == 4 and found["measured"]["sample"]["share"] < 0.01
    assert any("a sample:" in str(value) for _, value in stats_tables.rows(found))
