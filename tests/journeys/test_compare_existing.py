"""`phiforge compare` as a person types it for trainings that exist already: CSV, transformers, W&B exports, run folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab.existing import make_sides, noise

SEEDS = range(1, 8)


def phiforge(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phiforge.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "results.csv"
    rows = [
        f"{arm},{s},{2.0 - 0.1 * (arm == 'golden') + noise(s + len(arm))},{0.4 + noise(s)}" for arm in ("golden", "standard") for s in SEEDS
    ]
    file.write_text("\n".join(["arm,seed,eval_loss,eval_accuracy", *rows]) + "\n")
    return file


def test_a_table_as_json_is_one_document_on_stdout(table: Path, tmp_path: Path) -> None:
    said = phiforge("compare", table.name, "--metric", "eval_loss", "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    verdict: dict[str, Any] = json.loads(said.stdout)
    assert verdict["baseline"] == "standard" and verdict["comparisons"][0]["verdict"] == "better"
    assert verdict["comparisons"][0]["p"] == 2 / 2**7
    assert verdict["command"] == ["phiforge", "compare", "results.csv", "--metric", "eval_loss", "--json"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["results.csv"]


def test_a_table_with_a_report(table: Path, tmp_path: Path) -> None:
    said = phiforge("compare", table, "--metric", "eval_accuracy", "--against", "golden", "--out", tmp_path / "out", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("standard against golden, by eval_accuracy\n")
    assert "no detectable difference" in said.stdout
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["baseline"] == "golden"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "eval_accuracy" in page and "no detectable difference" in page


def test_mistakes_are_one_line_and_exit_code_2(table: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("arm,seed,loss\na,1,2.0\nb,1,x\n")
    mistakes = {
        ("compare", "results.csv"): "2 columns hold numbers: eval_loss, eval_accuracy -> --metric eval_loss",
        ("compare", "nope.csv"): "nope.csv: does not exist",
        ("compare", "results.csv", "--jobs", "2", "--plan"): "--plan, --jobs: runs that exist are read, not run",
        ("compare", "results.csv", "--cluster", "local:2"): "--cluster: runs that exist",
        ("compare", "bad.csv"): "bad.csv, line 3: loss is 'x'",
        ("compare", "results.csv", "--metric", "eval_loss", "alpha=often"): "alpha=often must be a number",
    }
    for words, line in mistakes.items():
        said = phiforge(*words, cwd=tmp_path)
        assert said.returncode == 2 and said.stdout == "" and line in said.stderr and said.stderr.count("\n") == 1, said.stderr


def test_runs_against_runs_and_a_poisoned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.core.atomic._fsync", lambda path: None)
    arm, base = make_sides(tmp_path, 7)
    said = phiforge("compare", *arm, "--against", *base, "--metric", "eval_loss", "--out", "out", cwd=tmp_path)
    assert said.returncode == 0 and "golden is better than standard" in " ".join(said.stdout.split()), said.stderr
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["warnings"] == [] and Path(verdict["arms"][1]["trials"][0]["path"]) == arm[0].resolve()
    manifest = json.loads((arm[0] / "run.json").read_text())
    manifest["decisions"]["streams"]["train_text"] = manifest["decisions"]["streams"]["validation_text"]
    (arm[0] / "run.json").write_text(json.dumps(manifest))
    said = phiforge("compare", "golden", "--against", "standard", "--metric", "eval_loss", cwd=tmp_path)
    assert said.returncode == 0 and "seed 1: it trained on the validation text itself; not counted" in " ".join(said.stderr.split())
    assert "so golden is not called better" in " ".join(said.stdout.split())


def test_transformers_output_folders(tmp_path: Path) -> None:
    for arm, drop in (("stock", 0.0), ("phi", 0.2)):
        for s in SEEDS:
            folder = tmp_path / f"{arm}-seed-{s}" / "checkpoint-30"
            folder.mkdir(parents=True)
            history = [{"step": step, "eval_loss": 3 - drop - step / 100 + noise(s + len(arm))} for step in (10, 20, 30)]
            (folder / "trainer_state.json").write_text(json.dumps({"log_history": history, "global_step": 30, "max_steps": 30}))
    sides = [sorted(tmp_path.glob(f"{arm}-seed-*")) for arm in ("phi", "stock")]
    said = phiforge("compare", *sides[0], "--against", *sides[1], "--until-clear", "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    verdict = json.loads(said.stdout)
    assert [arm["name"] for arm in verdict["arms"]] == ["stock", "phi"] and verdict["until_clear"]
    assert verdict["metric"] == {"name": "eval_loss", "lower_is_better": True}
    assert verdict["comparisons"][0]["e_value"] > 1 and verdict["comparisons"][0]["n"] == 7
    assert verdict["curves"]["phi"][0]["points"][-1][0] == 30
