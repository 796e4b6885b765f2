"""`phiforge compare` as a person types it, on models that train in a second."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phiforge.cli.main import _guarded
from phiforge.core.runs import Run

RECIPE = """
description: a model of 22 thousand parameters
steps:
  - name: data
    stage: data prepare
    config: {source: texts, min_bytes: 1000}
  - name: tokenizer
    stage: tokenizer train
    parents: {data: data}
    config: {template: plain, vocab_size: 300}
  - name: pretrain
    stage: pretrain
    parents: {data: data, tokenizer: tokenizer}
    config:
      model: {width: 32, depth: 1, heads: 1, context_length: 32, dropout: 0.1}
      per_device_train_batch_size: 4
      learning_rate: 1.0e-2
      load_best_model_at_end: false
      sample_prompts: []
      precision: fp32  # a probe could choose otherwise the second time
"""
EXPERIMENT = """
description: is a tenth of the rate too little?
recipe: recipe.yaml
baseline: standard
arms:
  standard: {}
  slow: {about: a tenth of the rate, settings: {learning_rate: 1.0e-3}}
seeds: 2
budget: {tokens: 1280}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with texts, a recipe and an experiment; commands are typed there."""
    words = "the golden river spiral shell sea grows slowly under light stone old child asks why stars turn and leaves fall".split()
    draw = random.Random(1)
    (tmp_path / "texts").mkdir()
    for number in range(20):
        lines = (" ".join(draw.choice(words) for _ in range(12)) for _ in range(15))
        (tmp_path / "texts" / f"{number}.txt").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_experiment_from_plan_to_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _guarded(["compare", "experiment.yaml", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["runs"], plan["tokens_per_run"], plan["shared"]) == (4, 1280, ["data", "tokenizer"]) and plan["seconds"] > 0
    assert not (folder / "runs").exists(), "a look ahead writes nothing"

    assert _guarded(["compare", "experiment.yaml"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("experiment: against standard, by eval_bits_per_byte\n") and "too few seeds to say" in shown.out
    assert "[4/4] slow, seed 2: eval_bits_per_byte" in shown.err and "Report: runs/experiment/report.html" in shown.err
    out = folder / "runs" / "experiment"
    verdict: dict[str, Any] = json.loads((out / "verdict.json").read_text())
    assert verdict["shared"] == [
        "the first weights", "the order of the training rows", "the seed of dropout", "the training text, packed", "the validation text",
        "the tokenizer",
    ]  # fmt: skip
    assert verdict["not_shared"] == [] and verdict["failures"] == []
    assert verdict["warnings"] == ["2 seeds can't decide anything over 1 arm: it takes at least 6"]
    for arm in verdict["arms"]:
        for trial in arm["trials"]:
            assert trial["metrics"]["tokens"] == 1280 and trial["metrics"]["cpu_seconds"] > 0
            assert Run.open(out / trial["path"]).manifest.metrics["eval_bits_per_byte"] == trial["value"]
    assert len(verdict["curves"]["slow"]) == 2 and len(verdict["curves"]["slow"][0]["points"][0]) == 3
    assert (out / "report.html").is_file() and (out / "report.md").is_file()

    before = {file: file.stat().st_mtime_ns for file in out.glob("trials/*/*/run.json")}
    assert _guarded(["compare", "experiment.yaml", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {key: again[key] for key in ("arms", "comparisons")} == {key: verdict[key] for key in ("arms", "comparisons")}
    assert before == {file: file.stat().st_mtime_ns for file in out.glob("trials/*/*/run.json")}, "nothing was run again"


WRONG: dict[str, tuple[list[str], str]] = {
    "an unknown experiment": (["phi/tinny"], "phi/tinny: is no experiment, run or file; did you mean 'phi/tiny'?"),
    "a file that isn't there": (["gone.yaml"], "gone.yaml: does not exist -> `phiforge compare` lists"),
    "two experiments": (["experiment.yaml", "phi/tiny"], "one word too many"),
    "a setting without a name": (["seeds=3"], "no experiment is named"),
    "an unknown setting": (["experiment.yaml", "sedes=3"], "unknown key 'sedes'"),
    "an arm that isn't one": (["experiment.yaml", "baseline=gone"], "baseline 'gone' is not an arm"),
    "an arm's bad value": (["experiment.yaml", "arms.slow.learning_rate=fast"], "arm slow: "),
    "no seed": (["experiment.yaml", "seeds=0"], "must be 1 to 1000 seeds"),
    "an unknown metric": (["experiment.yaml", "--metric", "charm"], "which way is better for 'charm'"),
    "against nothing": (["a", "--against"], "--against needs the runs"),
    "text that isn't there": (["experiment.yaml", "data=nowhere"], "nowhere"),
    "no cluster there": (["experiment.yaml", "--cluster", "local:none"], "no number of processes"),
}


@pytest.mark.parametrize("out", ["recipe.yaml/x", "/proc/x"])
def test_a_folder_that_cannot_be_made_is_refused(out: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ok.csv").write_text("arm,seed,loss\na,1,2.0\nb,1,1.0\n")
    for what in ("experiment.yaml", "ok.csv"):
        assert _guarded(["compare", what, "--out", out]) == 3
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ") and "--out" in said.err


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = WRONG[name]
    assert _guarded(["compare", *words]) == 2
    shown = capsys.readouterr()
    last = shown.err.splitlines()[-1]
    assert last.startswith("error: ") and said in last and shown.out == ""
    if name != "no cluster there":
        assert shown.err.count("\n") == 1 and not (folder / "runs" / "experiment" / "trials").exists()


def test_the_experiments_that_ship_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _guarded(["compare"]) == 0
    assert "phi/tiny" in capsys.readouterr().out


@pytest.mark.slow
def test_stopped_by_ctrl_c_it_goes_on_to_the_same_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "experiment.yaml", "budget.tokens=32000", "--out"]
    command = [sys.executable, "-m", "phiforge.cli.main", *words, "out"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 120
    while not (folder / "out/trials/slow/seed-1/metrics.jsonl").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130 and "stopped: out: 1 of 4 runs done -> the same command goes on" in said and "error" not in said
    assert _guarded([*words, "out"]) == 0 and _guarded([*words, "whole"]) == 0
    values = [
        {
            (arm["name"], trial["seed"]): trial["value"]
            for arm in json.loads((folder / out / "verdict.json").read_text())["arms"]
            for trial in arm["trials"]
        }
        for out in ("out", "whole")
    ]
    assert values[0] == values[1], "resumed is uninterrupted, bit for bit"


@pytest.mark.slow
def test_two_ray_workers_give_the_same_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    assert _guarded(["compare", "experiment.yaml", "--out", "here"]) == 0
    assert _guarded(["compare", "experiment.yaml", "--out", "there", "--cluster", "local:2"]) == 0
    rows = [json.loads((folder / out / "verdict.json").read_text())["comparisons"] for out in ("here", "there")]
    for row in (*rows[0], *rows[1]):
        row["equal_seconds"] = row["to_baseline_loss"] = None
    assert rows[0] == rows[1]
