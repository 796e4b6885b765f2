"""Points come out of run folders as they are; what can't be said is said to be unsayable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phiforge.cli.main import _guarded
from phiforge.core.errors import RunError
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data.config import DataPrepareConfig, TokenizerTrainConfig
from phiforge.report.scaling import DOCUMENT, Point, effective_bytes, law_of, laws_of, points_in, shipped
from phiforge.report.scaling_page import markdown, scaling_page
from phiforge.train.config import PretrainConfig


def finished(path: Path, stage: str, config: Any, metrics: dict[str, Any], **parents: Run) -> Run:
    run = RunWriter(path, new_manifest(stage, config), config)
    run.manifest.parents = {role: parent.as_parent() for role, parent in parents.items()}
    run.begin()
    return run.end("complete", metrics=metrics)


def training(folder: Path, tokens: int, bits: float, split: str = "document", **settings: Any) -> Path:
    data = finished(folder / "data", "data prepare", DataPrepareConfig(split=split), {"train_bytes": 1_000_000})
    tokenizer = finished(folder / "tokenizer", "tokenizer train", TokenizerTrainConfig(), {"bytes_per_token": 4.0})
    config = PretrainConfig(model={"family": "thyme", "form": "outer"}, **settings)
    metrics = {"tokens": tokens, "eval_bits_per_byte": bits, "parameters": 5_000}
    finished(folder / "pretrain", "pretrain", config, metrics, data=data, tokenizer=tokenizer)
    return folder


def on_a_law(read: float) -> float:
    return 1.2 + 0.9 * (read / 1e5) ** -0.4


def points(*amounts: float) -> list[Point]:
    return [Point(f"r{i}", "thyme/outer", 5_000, 1e9, read, on_a_law(read)) for i, read in enumerate(amounts)]


def test_a_run_is_a_point(tmp_path: Path) -> None:
    training(tmp_path / "a", 50_000, 2.5)
    training(tmp_path / "b", 500_000, 2.0, context_length=128, row_stride=64, split="chunks")
    found, skipped = points_in([tmp_path])
    assert [(p.run, p.kind, p.text_bytes, p.read_bytes, p.unseen) for p in found] == [
        ("a/pretrain", "thyme/outer", 1e6, 200_000, True),
        ("b/pretrain", "thyme/outer", 1e6, 1_000_000, False),  # rows that overlap by half read the text once, not twice
    ]
    assert found[0].effective == 200_000 and not skipped and found[0].parameters == 5_000


def test_a_moved_run_finds_what_lies_beside_it_and_others_are_told(tmp_path: Path) -> None:
    training(tmp_path / "old", 50_000, 2.5)
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(points_in([tmp_path / "new"])[0]) == 1
    for name in ("data", "tokenizer"):
        (tmp_path / "new" / name).rename(tmp_path / f"{name}-gone")
    found, skipped = points_in([tmp_path / "new"])
    assert not found and "can't be found" in skipped[0]
    with pytest.raises(RunError, match="does not exist"):
        points_in([tmp_path / "nothing"])


def test_text_read_again_counts_for_less() -> None:
    assert effective_bytes(1e6, 4e5) == 4e5 and effective_bytes(1e6, 1e6) == 1e6
    assert 1.9e6 < effective_bytes(1e6, 2e6) < 2e6 and effective_bytes(1e6, 1e12) == pytest.approx(16.4e6)


def test_the_law_of_a_kind_and_no_law_of_few() -> None:
    law = law_of(points(1e5, 3e5, 1e6, 3e6, 1e7), "thyme/outer")
    said = law.at(1e8)
    assert said is not None and said.low < on_a_law(1e8) < said.high and law.largest == 1e7
    assert "from 5 runs that read up to 10 MB" in law.sentence()
    few = law_of(points(1e5, 1e6, 1e7), "thyme/outer")
    assert few.at(1e8) is None and "too few runs to say" in few.sentence()
    assert law_of(points(1e5, 1e6), "thyme/literal").points == ()


def test_the_page_sets_runs_beside_the_law_and_the_document() -> None:
    laws = laws_of([*points(1e5, 3e5, 1e6, 3e6, 1e7), Point("x", "llama", 9, 1e6, 1e6, 2.0)])
    page, text = scaling_page(laws, ["y: is failed"]), markdown(laws, ["y: is failed"])
    assert page.count("<svg") == 1 and "too few runs to say" in page and "y: is failed" in page
    for corpus in DOCUMENT:
        assert corpus.name in page and f"| {corpus.name} |" in text
    assert "20 GB stand at both" in text and text.count("a guess: over 100 times") == 5  # all past 1 GB
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, tokens in enumerate((10_000, 30_000, 90_000, 240_000)):
        training(tmp_path / f"r{i}", tokens, on_a_law(4 * tokens))
    assert _guarded(["report", str(tmp_path), "--scaling"]) == 0
    assert "r2/pretrain" in capsys.readouterr().out and (tmp_path / "scaling.html").read_text().startswith("<!doctype")
    assert _guarded(["report", str(tmp_path), "--scaling", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["points"]) == 4 and found["laws"][0]["law"]["exponent"] == pytest.approx(0.4, abs=0.02)
    assert [Point(**point).run for point in found["points"]] == [f"r{i}/pretrain" for i in range(4)]
    assert _guarded(["report", str(tmp_path / "r0"), str(tmp_path / "r1")]) == 2
    assert _guarded(["report", str(tmp_path / "r0" / "data"), "--scaling"]) == RunError.exit_code


def test_what_ships_can_be_read() -> None:
    points = shipped()
    assert all(point.where and point.bits_per_byte > 0 for point in points)
    law = law_of(points, "thyme/outer")
    said = law.at(5e9)
    assert said is not None and said.high > 1.5 * said.low  # four runs of a few MB don't know what GBs bring
