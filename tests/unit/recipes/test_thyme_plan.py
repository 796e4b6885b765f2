"""The thyme recipes and what is planned of them: the document's words arrive, its table stands beside a law or beside none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phiforge.cli.main import _guarded
from phiforge.cli.stages import split_words
from phiforge.core import hardware
from phiforge.core.config import build
from phiforge.core.errors import ConfigError
from phiforge.models.thyme.spec import ThymeSpec, resolve_thyme
from phiforge.recipes import plan, recipe, scaling
from phiforge.report.scaling import DOCUMENT, Point
from phiforge.train.config import PretrainConfig

NAMES = [name for name in recipe.recipe_names() if name.startswith("thyme/") and name != "thyme/memory"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed is known, so that nothing is tried, and that has room for every recipe."""
    monkeypatch.setattr(plan, "_training_rate", lambda config, shape, length, device: (1000.0, "told by the test"))
    monkeypatch.setattr(hardware, "free_disk", lambda path: 10**12)
    monkeypatch.setattr(hardware, "free_memory", lambda: 10**12)


def planned(name: str, tmp_path: Path, *words: str, against: tuple[Path, ...] = ()) -> dict[str, plan.StepPlan]:
    (tmp_path / "text.txt").write_text("word " * 200_000)
    data = {} if name in ("thyme/small", "thyme/medium", "thyme/large") else {"data": str(tmp_path / "text.txt")}
    keys = {**data, **split_words(list(words))[1]}
    resolved = recipe.override(recipe.load_recipe(name).model_dump(mode="json"), keys)
    return {step.name: step for step in plan.plan_recipe(resolved, tmp_path, against=against)}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_plans(name: str, tmp_path: Path) -> None:
    step = planned(name, tmp_path)["pretrain"]
    if name == "thyme/origin-attention":
        assert step.scaling is None and "llama.cpp" in step.facts["runs in"]
        return
    assert step.facts["runs in"].startswith("phiforge only") and step.facts["state"].startswith("2,304 bytes")
    assert step.scaling is not None and [row.corpus for row in step.scaling.rows] == list(DOCUMENT)
    assert any("20 GB stand at both" in note for note in step.scaling.notes)


def test_counts_are_the_models_own(tmp_path: Path) -> None:
    step = planned("thyme/small", tmp_path)["pretrain"]
    shape = resolve_thyme(ThymeSpec(width=512, state_layers=2, vocab_size=32_000))
    assert step.facts["parameters, counted"].startswith(f"{shape.parameters():,} ") and step.facts["vocabulary"] == "32,000"
    assert "2 x 12 x 24" in step.facts["state"]


def test_the_documents_switches_reach_their_steps(tmp_path: Path) -> None:
    words = ["--epochs", "5", "--batch-size", "32", "--lr", "1e-3", "--max-files", "100", "--language", "de"]
    keys = split_words(words)[1]
    resolved = recipe.override(recipe.load_recipe("thyme/medium").model_dump(mode="json"), keys)
    steps = {step.name: step for step in resolved.steps}
    config = build(PretrainConfig, steps["pretrain"].config, where="test")
    assert (config.num_train_epochs, config.per_device_train_batch_size, config.learning_rate) == (5, 32, 1e-3)
    assert steps["data"].config["max_files"] == 100 and steps["data"].config["language"] == "de"
    assert steps["data"].config["source"] == "gutenberg" and config.model.family == "thyme"


def test_the_documents_three_scales() -> None:
    said = {}
    for name in ("small", "medium", "large"):
        steps = {step.name: step for step in recipe.load_recipe(f"thyme/{name}").steps}
        c = build(PretrainConfig, steps["pretrain"].config, where=name)
        said[name] = (c.num_train_epochs, c.per_device_train_batch_size, c.learning_rate, steps["data"].config.get("max_files"))
        assert (c.gradient_accumulation_steps, c.precision, c.model.width, c.model.state_layers) == (4, "bf16", 512, 2)
        assert steps["tokenizer"].config["vocab_size"] == 32_000
    assert said == {"small": (5, 32, 1e-3, 100), "medium": (20, 16, 1e-3, None), "large": (50, 8, 5e-4, None)}


@pytest.mark.parametrize(("words", "form"), [((), "literal"), (("form=outer",), "outer"), (("pretrain.model.form=outer",), "outer")])
def test_the_origin_in_either_form(words: tuple[str, ...], form: str, tmp_path: Path) -> None:
    assert planned("thyme/origin", tmp_path, *words)["pretrain"].facts["layout"] == f"thyme, form {form}"


def test_rows_that_overlap_are_counted_as_they_are_read(tmp_path: Path) -> None:
    half, apart = (planned("thyme/origin", tmp_path, *words)["pretrain"] for words in ((), ("row_stride=128",)))
    assert half.facts["steps"] == pytest.approx(2 * apart.facts["steps"], rel=0.01)
    assert half.scaling and apart.scaling and half.scaling.rows[0].seconds == pytest.approx(2 * apart.scaling.rows[0].seconds)


def test_known_corpora_have_a_size_before_they_are_read(tmp_path: Path) -> None:
    assert planned("thyme/small", tmp_path)["data"].facts["text"].startswith("19")  # 100 of 75,570 books of 14.4 GB: 19.1 MB
    assert "GB" in planned("thyme/large", tmp_path)["data"].facts["text"]
    assert planned("thyme/small", tmp_path, "source=hub:a/b")["data"].facts["text"] == "not known before it is read"
    with pytest.raises(ConfigError, match="does not exist"):
        planned("thyme/books", tmp_path, "data=/no/such/books")


def test_few_runs_say_nothing_and_the_documents_table_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "shipped", lambda: made(3))
    table = planned("thyme/small", tmp_path)["pretrain"].scaling
    assert table is not None and all(row.bits_per_byte is None for row in table.rows) and "too few runs to say: 3" in table.notes[0]
    cells = scaling.cells(table, plan.duration)
    assert cells[0][1] == "57" and cells[0][4] == "too few runs" and {len(row) for row in cells} == {len(scaling.HEAD)}


def made(n: int, **changes: Any) -> list[Point]:
    reads = [1e6 * 4**i for i in range(n)]
    return [Point("r", "thyme/outer", 24_000_000, 1e12, read, 1.0 + 0.8 * (read / 1e6) ** -0.2, **changes) for read in reads]


def test_a_law_gives_every_size_an_interval_and_far_ones_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "shipped", lambda: made(5))  # up to 256 MB
    table = planned("thyme/small", tmp_path, "epochs=1")["pretrain"].scaling
    assert table is not None
    for row in table.rows:
        assert row.bits_per_byte is not None and row.perplexity is not None
        assert row.bits_per_byte.low <= row.bits_per_byte.value <= row.bits_per_byte.high
        assert row.perplexity.value == pytest.approx(2 ** (row.bits_per_byte.value * table.training.density))
        assert row.far == (row.corpus.bytes > 25.6e9)
    shown = {cells[0]: cells[4] for cells in scaling.cells(table, plan.duration)}
    assert shown[DOCUMENT[-1].name] == "?" and shown[DOCUMENT[1].name] == f"{table.rows[1].bits_per_byte.value:.2f}"  # type: ignore[union-attr]
    by_size = sorted(table.rows, key=lambda row: row.corpus.bytes)
    assert by_size[0].bits_per_byte.value > by_size[-1].bits_per_byte.value  # type: ignore[union-attr]
    assert table.rows[0].seconds == pytest.approx(5e6 / table.training.density / 1000)
    assert any("marked ?" in note for note in table.notes) and not any("nothing of size" in note for note in table.notes)
    monkeypatch.setattr(scaling, "shipped", lambda: made(5, unseen=False))
    other = planned("thyme/small", tmp_path)["pretrain"].scaling
    assert other is not None and any("another kind of held-out text" in note for note in other.notes)


def test_the_verb_takes_runs_to_fit_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _guarded(["plan", "thyme/small", "--runs", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert _guarded(["plan", "thyme/small", "against=a", "runs=b"]) == 2
    assert _guarded(["plan", "thyme/small", "--json"]) == 0
    found = {step["step"]: step for step in json.loads(capsys.readouterr().out)}
    assert len(found["pretrain"]["scaling"]["rows"]) == len(DOCUMENT) and "scaling" not in found["data"]


def test_bytes_of_a_token_lie_between_what_was_measured() -> None:
    known = sorted(scaling.BYTES_PER_TOKEN.items())
    assert scaling.density_of(known[0][0]) == known[0][1] and scaling.density_of(10**7) == known[-1][1]
    assert known[1][1] < scaling.density_of(known[1][0] + 100) < known[2][1]
