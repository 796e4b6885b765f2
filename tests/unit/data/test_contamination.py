"""Evaluation items are found in training text however they are written there, and other text is left alone."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from phiforge.core.errors import DataError
from phiforge.data.contamination import LONG, EvaluationSet, Hit, decontaminate, excise
from phiforge.data.evaluation_items import find_items, item_files

QUESTION = (
    "Janet's well-known ducks lay 1,600 eggs a day; she eats three, bakes muffins with four, and sells the rest at the farmers' market"
    " for $2 an egg. How much does she make every day?"
)
SHORT = "Why don't half-grown ducks fly?"
CHANGES: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "upper case": str.upper,
    "blanks": lambda text: "  \n\t".join(text.split()),
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "blanks for punctuation": lambda text: re.sub(r"[^\w\s]", " ", text),
    "typographic": lambda text: text.replace("'", "’").replace("-", "\u2011"),
    "quoted": lambda text: "> " + text.replace(", ", ",\n> "),
    "hyphenated": lambda text: re.sub(r"(muf|mark|half-gr|mo|ev)(fins|et|own|re|ery)", "\\1-\n   \\2", text),
    "run into what follows": lambda text: text[:-1] + ".Then",
    "accents": lambda text: text.replace("e", "é"),
}


def filler(seed: int, words: int) -> str:
    rng = random.Random(seed)
    known = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "eo", "ui", "o") for c in ("n", "st", "rk", "l")]
    return " ".join(rng.choice(known) for _ in range(words))


def evaluation(tmp_path: Path, *records: object, name: str = "set.jsonl") -> EvaluationSet:
    path = tmp_path / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return EvaluationSet.from_paths([path])


@pytest.mark.parametrize("change", CHANGES)
def test_planted_items_are_found(tmp_path: Path, change: str) -> None:
    held = evaluation(tmp_path, {"question": QUESTION, "answer": "3,184"}, {"question": SHORT})
    for question, line in ((QUESTION, "line 1"), (SHORT, "line 2")):
        text = f"{filler(1, 300)} {CHANGES[change](question)} {filler(2, 300)}"
        hit = held.hit(text)
        assert hit is not None and hit.item == line and hit.set.endswith("set.jsonl")
        assert text[hit.start : hit.end].split()[0].lower().startswith(question[:2].lower())
    assert held.hit(filler(3, 5000)) is None


def test_thirteen_words_in_a_row_and_no_fewer(tmp_path: Path) -> None:
    held = evaluation(tmp_path, {"question": QUESTION})
    parts = QUESTION.split()
    assert held.hit(" ".join([filler(1, 50), *parts[5:18], filler(2, 50)]))
    assert not held.hit(" ".join([filler(1, 50), *parts[5:17], filler(2, 50)]))
    assert not held.hit(" ".join([*parts[5:11], "other", *parts[11:18]]))


def test_short_items_count_as_a_whole(tmp_path: Path) -> None:
    records = [{"question": "Which of the ducks can fly?", "choices": ["none of the old ducks at all"]}, {"question": "Which ducks?"}]
    held = evaluation(tmp_path, *records)
    assert held.report() == {"sets": {str(tmp_path / "set.jsonl"): {"items": 2, "too_short": 1}}, "items": 2, "passages": 1}
    assert held.hit("He asked which of the ducks can fly, and left.")
    assert not held.hit("Which of the ducks can swim? Which ducks? There are none of the old ducks at all.")


def test_the_words_of_a_template_are_no_item(tmp_path: Path) -> None:
    template = "Please read the following short text with care and choose the one correct answer to the question: "
    held = evaluation(tmp_path, *({"instruction": f"{template}{filler(seed, 9)}"} for seed in range(40)))
    assert not held.hit(f"{filler(100, 20)} {template} {filler(101, 20)}")
    assert all(held.hit(f"{filler(100, 20)} {template} {filler(seed, 9)} and on") for seed in range(40))
    # where a set has nothing but one text, that is what is looked for; numbers alone are not, unless there is nothing else
    same = evaluation(tmp_path, *({"text": QUESTION} for _ in range(40)))
    assert same.hit(QUESTION)
    counting = " ".join(map(str, range(20)))
    assert not evaluation(tmp_path, {"text": f"{QUESTION} {counting}"}).hit(counting)
    assert evaluation(tmp_path, {"text": counting}).hit(counting)


def test_a_long_document_loses_the_passage_alone(tmp_path: Path) -> None:
    held = evaluation(tmp_path, {"question": QUESTION}, {"question": SHORT})
    front, middle, back = filler(1, 3000), filler(2, 1000), filler(3, 3000)
    book = f"{front}\n\n{QUESTION}\n\n{middle}\n\n{SHORT}\n\n{back}"
    pieces, hits = decontaminate(book, held)
    assert [hit.item for hit in hits] == ["line 1", "line 2"] and len(book) > LONG
    assert len(pieces) == 3 and not any(held.hit(piece) for piece in pieces)
    assert front.startswith(pieces[0].strip()) and pieces[1].strip() in middle and back.endswith(pieces[2])
    assert len(book) - sum(map(len, pieces)) < len(QUESTION) + len(SHORT) + 4 * 200 + 100
    page = f"{filler(1, 300)} {QUESTION}"
    assert decontaminate(page, held)[0] == []
    assert decontaminate(front, held) == ([front], [])


def test_pieces() -> None:
    text = " ".join(f"word{n:04}" for n in range(1000))  # 9 characters each with its blank
    cut = excise(text, [Hit("s", "i", 4500, 4540)])
    assert len(cut) == 2 and cut[0].endswith("word0476 ") and cut[1].startswith("word0527 ")
    assert excise(text, [Hit("s", "i", 100, 140)]) == [text[342:]]  # what is left before it is too little
    assert excise(text, [Hit("s", "i", at, at + 1) for at in range(0, 9000, 620)]) == []  # more than ten pieces
    assert excise("x" * 3000, [Hit("s", "i", 1500, 1501)]) == ["x" * 1300, "x" * 1299]  # no blanks to cut at
    assert excise(text, [Hit("s", "i", 0, len(text))]) == []


def test_every_format_is_read(tmp_path: Path) -> None:
    record = {"meta": {"id": 7}, "question": {"stem": QUESTION, "choices": [{"label": "A", "text": "none of the five old ducks"}]}}
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((json.dumps(record) + "\n\n").encode()))
    (folder / "b.json").write_text(json.dumps({"version": 1, "data": [record, record]}))
    (folder / "c.csv").write_text(f'id,Question,Answer\n1,"{QUESTION}",x\n')
    (folder / "d.txt").write_text(f"Some heading of the file here\n\nQuestion: {QUESTION}\nAnswer:\n")
    (folder / "e.tsv").write_text(f"id\tfoo\n1\t{QUESTION}\n")
    (folder / "README.md").write_text(filler(0, 50))
    files = item_files([folder])
    assert [file.name for file in files] == ["a.jsonl.gz", "b.json", "c.csv", "d.txt", "e.tsv"]
    assert [item.name for file in files for item in find_items(file)] == [
        *("line 1", "item 1", "item 2", "row 1", "paragraph 1", "paragraph 2", "row 1")
    ]
    for file in files:
        held = EvaluationSet.from_paths([file])
        assert held.hit(f"{filler(1, 20)} {QUESTION} {filler(2, 20)}") and not held.hit("none of the five old ducks")
    held = EvaluationSet.from_paths([folder])
    assert held.sha256 == ForkingPickler.loads(ForkingPickler.dumps(held)).sha256  # as it goes to a worker process


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"question": "a"}\n{"question"\n')
    (tmp_path / "small.jsonl").write_text('{"question": "too few"}\n')
    (tmp_path / "latin.csv").write_bytes(b"Question\ncaf\xe9\n")
    (tmp_path / "model.bin").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name, says in {
        "broken.jsonl": "line 2: not JSON",
        "small.jsonl": "no item of at least 5 words",
        "latin.csv": "byte 12: not UTF-8",
        "model.bin": "not a format that is read",
        "empty": "no evaluation items in this folder",
        "absent": "no such file or folder",
    }.items():
        with pytest.raises(DataError, match=re.escape(says)) as error:
            EvaluationSet.from_paths([tmp_path / name])
        assert name in str(error.value) and "\n" not in str(error.value)


def test_real_items_in_a_real_book(shared_data: Path) -> None:
    """Every kind of set: all planted items are found in a book, and the book itself holds none."""
    paths = [shared_data / name for name in ("code", "truthfulqa", "hellaswag-sample")]
    held = EvaluationSet.from_paths(paths)
    book = gzip.decompress((shared_data / "books-58" / "emma--jane-austen.md.gz").read_bytes()).decode()
    assert held.hits(book) == []
    rng = random.Random(0)
    planted = [item for path in item_files(paths) for item in rng.sample(list(find_items(path)), 8)]
    for item in planted:
        text = next((text for text, asks in item.texts if asks and len(re.findall(r"[^\W_]+(?:['.,:-][^\W_]+)*", text)) >= 5), None)
        if text is not None:
            at = book.index(" ", rng.randrange(len(book) - 2000))
            change = CHANGES[rng.choice(list(CHANGES)[:3])]
            assert held.hit(book[at : at + 900] + " " + change(text) + " " + book[at + 900 : at + 1800]), item
