"""Runs held against each other question by question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from phiforge.core.errors import DataError
from phiforge.lab.items import compare_items, read_items
from phiforge.lab.sources import compare_existing
from phiforge.train.chat_format import chat_format
from phiforge.train.chat_rows import Example
from phiforge.train.chat_scores import Answer, items, reference
from tests.unit.lab.existing import make_run, noise
from tests.unit.train.chat_parts import OWN, borrowed, chat, ours


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.core.atomic._fsync", lambda path: None)


def keep(folder: Path, outcomes: dict[str, bool]) -> Path:
    (folder / "items.jsonl").write_text("".join(json.dumps({"item": k, "correct": v}) + "\n" for k, v in outcomes.items()))
    return folder


def test_with_one_seed_it_is_mcnemar() -> None:
    base = {f"q{i}": i < 4 for i in range(20)}
    arm = {f"q{i}": i >= 2 and i < 12 for i in range(20)}
    found, notes = compare_items([(base, arm)])
    assert found is not None and notes == []
    assert (found["n01"], found["n10"], found["items"], found["seeds"]) == (2, 8, 20, 1)
    assert found["p"] == pytest.approx(2 * sum(np.array([1, 10, 45]) / 2**10))


def test_over_seeds_an_item_counts_once() -> None:
    """The same outcome with every seed is one piece of evidence, not six."""
    base, arm = {f"q{i}": False for i in range(5)}, {f"q{i}": i < 3 for i in range(5)}
    one, _ = compare_items([(base, arm)])
    six, _ = compare_items([(base, arm)] * 6)
    assert one is not None and six is not None
    assert one["p"] == pytest.approx(0.25) and six["p"] == pytest.approx(0.25) and six["n10"] == 18


def test_items_that_not_all_answered_are_left_out_and_told() -> None:
    base = {"a": True, "b": False, "c": False}
    found, notes = compare_items([(base, {"a": True, "b": True}), (base, base), ({}, {})])
    assert found is not None and found["items"] == 2 and found["seeds"] == 2 and found["n10"] == 1
    assert notes == [
        "items: 1 of 3 pairs keep no outcomes of single items",
        "items: 2 of up to 3 items were answered by every run, and these count",
    ]
    assert compare_items([({"a": True}, {"b": True})]) == (
        None,
        ["items: the runs answered different items, so they can't be compared item by item"],
    )
    assert compare_items([({}, {})]) == (None, [])


@pytest.mark.parametrize(
    "line", ['{"item": "a"}', '{"item": "a", "correct": 1}', '{"item": true, "correct": true}', '{"item": "b", "correct": true}', "[1]"]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "items.jsonl").write_text('{"item": "b", "correct": true}\n' + line + "\n")
    with pytest.raises(DataError, match=r"items.jsonl, line 2: "):
        read_items(tmp_path)


@pytest.mark.parametrize("template", ["ours", "borrowed"])
def test_a_reference_is_the_first_answer_as_text(template: str) -> None:
    form = chat_format(ours() if template == "ours" else borrowed(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), chat_template=OWN))

    def example(answer: str, cut: int = 0) -> Example:
        ids, trained = form.encode(chat("2 a", answer, "and b?", " second "))
        end = len(ids) - cut if not cut else int(np.argmax(trained)) + cut
        return Example(ids[:end].astype(np.int32), trained[:end], "2 a", answer.encode())

    assert reference(example(" naïve <b>\n\nyes "), form) == "naïve <b>\n\nyes"
    assert reference(example("aa", cut=2), form) is None
    asked = [example("aa"), example("bb"), example("cc"), example("dd", cut=1)]
    answers = [Answer("2 a", "aa", True), Answer("2 a", "bb", False), Answer("2 a", "c", True), Answer("2 a", "d", True)]
    assert items(asked, answers, form) == [{"item": key, "correct": key == "6161"} for key in ("6161", "6262", "6363")]


def test_a_verdict_shows_them_and_is_not_decided_by_them(tmp_path: Path) -> None:
    base = [keep(make_run(tmp_path / "a" / f"seed-{s}", s, 2.0 + noise(s)), {str(i): i % 3 == 0 for i in range(30)}) for s in (1, 2)]
    arm = [keep(make_run(tmp_path / "b" / f"seed-{s}", s, 1.9 + noise(s + 9)), {str(i): i % 3 != 1 for i in range(30)}) for s in (1, 2)]
    row = compare_existing(arm, base, metric="eval_loss")["comparisons"][0]
    assert row["items"] == {"n01": 0, "n10": 20, "p": 2 / 2**10, "items": 30, "seeds": 2}
    assert row["verdict"] == "too few seeds to say"
    keep(arm[0], {})
    (arm[0] / "items.jsonl").write_text("{}\n")
    row = compare_existing(arm, base, metric="eval_loss")["comparisons"][0]
    assert row["items"] is None and any("line 1: needs an item" in note for note in row["notes"])
