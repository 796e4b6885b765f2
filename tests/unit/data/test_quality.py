"""Real books, verse, plays, specifications and code come through; tables, lists and gibberish don't, each for its own reason."""

from __future__ import annotations

import base64
import gzip
import json
import random
from pathlib import Path

import pytest

from phiforge.data.filters import strip_gutenberg
from phiforge.data.python_corpus import read_python
from phiforge.data.quality import check

RNG = random.Random(0)
NAMES = (
    "emma olivia ava isabella sophia charlotte mia amelia harper evelyn abigail emily elizabeth mila ella avery sofia camila aria scarlett"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GIBBERISH = " ".join("".join(RNG.choices(LETTERS, k=RNG.randrange(2, 9))) for _ in range(500))
POOR = {
    "a list (short lines)": "\n".join(f"{a} {b}" for a in NAMES for b in NAMES[:3]),
    "a list (bullets)": "\n".join(f"- the house of {name} by the river" for name in NAMES),
    "few letters (a table, a dump)": "\n".join(f"{n},{n * 7},{n * n},{n / 7:.5f}" for n in range(200)),
    "the same lines again and again": "Buy now! The best price of today, only here!\n" * 30,
    "the same words again and again": "I will not be late again, " * 60,
    "gibberish (hardly a vowel)": GIBBERISH,
    "no words (letters apart, or without blanks)": " ".join("the letters of this page stand apart " * 30),
    "boilerplate": "Home of the best shoes\nPrivacy Policy\nTerms of Use\nSign in\nSubscribe to us\n© 2020 Shoes and more\nAll about shoes",
    "placeholder text (lorem ipsum)": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt.",
    "lines that break off": "\n".join(f"The news of {name} had come to the old house when..." for name in NAMES),
    "broken characters": "Der gro\ufffde B\ufffdr ging \ufffdber die Br\ufffdcke und fra\ufffd die s\ufffd\ufffden Fr\ufffdchte. " * 5,
    "symbols for words": " ".join(f"look at my new shoes, #style #{name}" for name in NAMES * 2),
}


@pytest.mark.parametrize("reason", POOR)
def test_each_kind_has_its_reason(reason: str) -> None:
    assert check(POOR[reason]) == f"quality: {reason}"


def test_dumps_are_dropped() -> None:
    raw = RNG.randbytes(3000)
    for text in (base64.b64encode(raw).decode(), base64.encodebytes(raw).decode(), raw.hex(" ")):
        assert check(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        "The sea, the sea!\nThe open sea!\nThe blue, the fresh, the ever free!",
        "HAMLET.\nTo be, or not to be, that is the question:\n\nOPHELIA.\nMy lord?\n\nHAMLET.\nNymph!\n\nOPHELIA.\nMy lord?\n" * 1,
        "def add(a, b):\n    return a + b\n\n\nx = {'a': [1, 2, 3]}\nprint(add(1, 2))  # three\n",
        "太阳落山以后，老人关上了大门，慢慢地走回家去。\n第二天早上，他又打开了大门。\n" * 1,
    ],
)
def test_short_texts_of_all_kinds_stay(text: str) -> None:
    assert check(text) is None


def test_a_long_document_is_judged_by_samples_of_it() -> None:
    """A table in the middle of a book is not the book, and a book before a table is no reason to keep the table."""
    known = [a + b for a in ("ka", "lo", "mi", "tu", "re", "san", "bel", "dor") for b in ("n", "st", "va", "rdo", "l", "ke", "ni", "ra")]
    story = "".join(f"{' '.join(RNG.choices(known, k=12)).capitalize()}.\n" for _ in range(800))
    assert check(story) is None and len(story) > 40_000
    table = POOR["few letters (a table, a dump)"]
    assert check(story[:20_000] + table[:1500] + story[20_000:]) is None
    assert check(POOR["few letters (a table, a dump)"] * 20) == "quality: few letters (a table, a dump)"


def test_real_texts_come_through(shared_data: Path) -> None:
    def read(name: str) -> str:
        return gzip.decompress((shared_data / name).read_bytes()).decode()

    books = [gzip.decompress(path.read_bytes()).decode() for path in sorted((shared_data / "books-58").glob("*.md.gz"))]
    raw = [path.read_text(encoding="utf-8") for path in sorted((shared_data / "eight-books").glob("*.txt"))]
    texts = [*books, *raw, *(strip_gutenberg(text)[0] for text in raw)]
    texts += [json.loads(line)["text"] for line in read("peps/peps.jsonl.gz").splitlines()]
    stories = read("tinystories-sample/tiny_stories.txt.gz")
    texts += [
        stories,
        *(stories[at : at + 1200] for at in range(0, len(stories), 12_000)),
        (shared_data / "tiny-shakespeare" / "input.txt").read_text(),
    ]
    texts += [json.loads(line)["text"] for line in read("udhr/udhr2.jsonl.gz").splitlines()[::4]]
    assert len(texts) > 66 + 8 + 500
    assert [(check(text), text[:60]) for text in texts if check(text)] == []


def test_source_code_comes_through() -> None:
    reasons = [check(document.text) for document in read_python()]
    assert sum(reason is not None for reason in reasons) <= 0.02 * len(reasons)  # tables of operators, lists of re-exports
