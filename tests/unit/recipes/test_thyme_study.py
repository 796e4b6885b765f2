"""The study's document: read from real, tiny runs; its claims are the test's, whatever the figures."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phiforge.core.runs import Run
from phiforge.recipes import recipe
from phiforge.recipes.runner import run_recipe

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = {"width": 16, "threads": 1, "precision": "fp32", "compile": False, "num_train_epochs": None, "max_steps": 4, "eval_steps": 1}
SMALL |= {"per_device_train_batch_size": 2, "final_eval_tokens": 500, "eval_tokens": 200, "baselines": False, "max_tokens": 2000}
PEOPLE, DEEDS = (
    ("The captain", "My sister", "A stranger", "Old Tom", "Nobody"),
    ("sailed", "wrote a letter", "laughed", "slept", "ran away"),
)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("thyme_study")


def made(folder: Path, name: str, keys: dict[str, Any]) -> dict[str, Run]:
    keys = {**keys, "pretrain": {"max_tokens": None}, "evaluate": {"max_tokens": keys.get("max_tokens")}}
    keys.pop("max_tokens", None)
    return run_recipe(recipe.override(recipe.load_recipe(name).model_dump(mode="json"), keys), folder, draw=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms of the origin's protocol on a made-up text, each four steps of a model of 16 units."""
    root = tmp_path_factory.mktemp("study")
    lines = [f"{PEOPLE[i % 5]} {DEEDS[i * i % 5]} on day {i}, and said that {i * 7 % 97} was no good number.\n\n" for i in range(1200)]
    (root / "text").mkdir()
    (root / "text" / "book.txt").write_text("".join(lines))
    first = made(root / "runs" / "literal", "thyme/origin", {**SMALL, "data": str(root / "text"), "tokenizer": {"vocab_size": 400}})
    shared = {role: str(first[role].path) for role in ("data", "tokenizer")}
    made(root / "runs" / "outer", "thyme/origin", {**SMALL, **shared, "form": "outer", "depth": 0})
    attention = {key: value for key, value in SMALL.items() if key != "width"}
    made(root / "runs" / "attention", "thyme/origin-attention", {**attention, **shared, "size": "1M", "width": 16, "depth": 1, "heads": 2})
    return root / "runs"


def test_the_page_of_real_runs(study: ModuleType, folder: Path) -> None:
    results = study.read_results(folder)
    assert sorted(result.arm for result in results) == ["attention", "literal", "outer"]
    page = study.document(results, "A note by hand.")
    for result in results:
        assert f"**{result.arm}** ends at perplexity {result.value():.1f}" in page
        assert result.value() == result.metrics["protocol_perplexity"] and len(result.curve) >= 3
    assert all(said in page for said in ("A note by hand.", "## 4 steps", "| trigram |"))
    assert ("Nothing here came to 57.1" in page) == all(result.value() > 57.1 for result in results)  # of a text of five people and deeds
    assert page.count("```text") == 3 and "different splits" not in page and str(folder) not in page
    assert page.count("too few seeds to say") == 2
    for line in page.splitlines():
        assert not line.startswith("|") or (line.endswith("|") and line.count("|") in (8, 12)), line


def test_pairs_are_judged_by_their_seeds(study: ModuleType) -> None:
    def result(arm: str, seed: int, bits: float) -> Any:
        row = {"perplexity": 2.0**bits, "perplexity_per_token": 2.0**bits, "bits_per_byte": {"value": bits}}
        rows = {("model", False): row, ("model", True): row}
        return study.Result(
            name=f"{arm}-{seed}", arm=arm, seed=seed, budget="4 minutes", seconds_asked=240, parameters=7, rows=rows, curve=[],
            metrics={"tokens": 10, "cpu_seconds": 60.0}, machine="m", data="d",
        )  # fmt: skip

    group = [result(arm, seed, bits + 0.001 * seed) for arm, bits in (("outer", 1.6), ("literal", 1.9)) for seed in range(1, 8)]
    group += [result("attention", seed, 1.6 + 0.01 * (-1) ** seed) for seed in range(1, 8)]
    text = study.pairs(group)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| outer")}
    assert "**better** | 7 | -0.3000" in rows["outer against literal"]
    assert "**no detectable difference** | 7 |" in rows["outer against attention"]
    assert study.pairs([result("outer", 1, 1.0)]) == ""
    page = study.document([result("outer", 1, 5.0)])
    assert re.search(r"57.1 or less was reached by outer \(32.0\)", page)


def test_nothing_to_say(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished evaluation"):
        study.document(study.read_results(tmp_path))
