"""The golden-ratio study: data prepared without loss, a document that says what the verdicts say. No number here is a measurement."""

from __future__ import annotations

import gzip
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phiforge.stats.verdict import judge

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
PREDICTION = BENCHMARKS.parent / "docs" / "studies" / "golden-ratio-prediction.md"
ARMS = ("rate", "rate_cosine", "batch", "phases", "data", "regularisation", "shape", "document", "all")


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def trial(arm: str, seed: int, value: float | None) -> dict[str, Any]:
    metrics = {"eval_accuracy": 0.1, "steps": 192, "seconds": 9.5, "cpu_seconds": 9.0, "parameters": 924_416, "grad_norm": 0.8}
    return {
        "seed": seed,
        "status": "complete" if value is not None else "failed",
        "path": f"trials/{arm}/seed-{seed}",
        "value": value,
        "metrics": metrics if value is not None else {},
        "error": None if value is not None else "the loss was not finite",
        "seconds": 10.0,
    }


def made(path: Path, effects: Mapping[str, float], *, seeds: int = 12, slow: Sequence[str] = (), finished: bool = True) -> Path:
    """An experiment whose arms differ from the baseline by `effects`, judged by the real test. slow: arms that lose at equal seconds."""
    effects = {arm: effects.get(arm, 0.0) for arm in ARMS}
    base = {seed: 2.7 + 0.01 * (seed % 5) for seed in range(1, seeds + 1)}
    jitter = {arm: {seed: 0.004 * (-1) ** ((seed + i) // (1 + i % 3)) for seed in base} for i, arm in enumerate(ARMS)}
    values = {arm: {seed: base[seed] + effect + jitter[arm][seed] for seed in base} for arm, effect in effects.items()}
    judged = judge({arm: [values[arm][seed] - base[seed] for seed in base] for arm in ARMS})
    rows = []
    for arm in ARMS:
        late = 0.02 if arm in slow else judged[arm].mean or 0.0
        rows.append(
            {
                **asdict(judged[arm]),
                "against": "standard",
                "role": "arm",
                "pairs": [],
                "equal_seconds": {"seconds": 9.0, "mean": late, "interval": [late - 0.001, late + 0.001], "n": seeds},
                "to_baseline_loss": None,
                "notes": [],
            }
        )
    tuned = [{"settings": {"learning_rate": rate}, "values": [2.7, 2.8], "mean": 2.7 + rate} for rate in (8e-4, 1.6e-3, 3.2e-3)]
    arms = [
        {"name": name, "role": "baseline" if name == "standard" else "arm", "control_of": None, "about": "", "settings": {}}
        | {"tuned": {"learning_rate": 1.6e-3 if name == "standard" else 8e-4}, "tuning": tuned}
        | {"trials": [trial(name, seed, own[seed]) for seed in base]}
        for name, own in {"standard": base, **values}.items()
    ]
    arms[3]["trials"][4] = trial("batch", 5, None)
    data = {
        "schema_version": 1,
        "name": "phi/tiny",
        "command": ["phiforge", "compare", "phi/tiny", "data=/somewhere/of/mine/books", "--out", "/somewhere/runs/golden books"],
        "budget": {"tokens": 98_304, "seconds": None},
        "seeds": list(base),
        "tuning_seeds": [1_000_001, 1_000_002],
        "precision": "bf16",
        "finished": finished,
        "decided_by": "exact sign-flip test, Holm over 9 arms",
        "alpha": 0.05,
        "baseline": "standard",
        "arms": arms,
        "comparisons": rows,
        "noise": {"sd_over_seeds": 0.014, "same_config_sd": 0.005, "how": "12 seeds"},
        "shared": ["the training text"],
        "not_shared": ["the first weights: shape has its own"],
        "warnings": [],
        "failures": [{"arm": "batch", "seed": 5, "error": "/somewhere/of/mine/x: the loss was not finite"}],
    }
    path.mkdir(parents=True)
    (path / "verdict.json").write_text(json.dumps(data))
    run = path / "trials" / "standard" / "seed-1"
    run.mkdir(parents=True)
    (run / "run.json").write_text(
        json.dumps({"hardware": {"cores": 2, "processor": "P"}, "versions": {"torch": "2"}, "git_commit": "abcdef0123"})
    )
    (run / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": "The", "text": " | `end`"}) + "\n")
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": 9}\n{"step": 4, "rollback": {"to": 2, "why": "spike"}}\n')
    return path


def test_the_numbers_of_the_prediction_are_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = loaded("golden_decision", monkeypatch).PREDICTED
    assert tuple(predicted) == ARMS
    text = PREDICTION.read_text(encoding="utf-8")
    for arm, said in predicted.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| **{arm.replace('_', '-')}**")).split(" | ")
        found = re.match(r"([+-]?[\d.]+) \(([+-]?[\d.]+) to ([+-]?[\d.]+)\)", row[2])
        assert found and [float(number) for number in found.groups()] == [said.mean, said.low, said.high], arm
        assert row[3].startswith(f"{said.expected} ({said.sure} %)"), arm


@pytest.mark.parametrize(
    ("effects", "slow", "decision", "parts"),
    [
        ([{}, {}], [], "unsuccessful", []),
        ([{"rate": 0.03, "document": 0.03}, {}], [], "unsuccessful", []),
        ([{"regularisation": -0.03}, {}], [], "mixed", ["regularisation"]),
        ([{"regularisation": -0.03}, {"regularisation": 0.03}], [], "unsuccessful", []),
        ([{"batch": -0.03}, {"batch": -0.03}], ["batch"], "unsuccessful", []),
        ([{"document": -0.03}, {"document": -0.03}], [], "successful", []),
        ([{"document": -0.03}, {}], [], "unsuccessful", []),
        ([{"all": -0.03, "data": -0.03}, {"all": -0.03}], [], "successful", ["data"]),
    ],
)
def test_the_decision_follows_the_rule(
    effects: list[dict[str, float]], slow: list[str], decision: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, decide = loaded("golden_text", monkeypatch), loaded("golden_decision", monkeypatch).decide
    studies = [text.read_study(made(tmp_path / str(i), effect, slow=slow)) for i, effect in enumerate(effects)]
    assert decide(studies) == (decision, parts)


def test_too_few_seeds_and_unfinished_runs_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, decide = loaded("golden_text", monkeypatch), loaded("golden_decision", monkeypatch).decide
    good = {"document": -0.03, "data": -0.03}
    assert decide([text.read_study(made(tmp_path / "few", good, seeds=8))])[0] == "not decided"
    assert decide([text.read_study(made(tmp_path / "half", good, finished=False))])[0] == "not decided"


def test_the_document_says_what_the_verdicts_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [
        loaded("golden_text", monkeypatch).read_study(made(tmp_path / name, effects))
        for name, effects in {"a": {"rate": 0.03, "regularisation": -0.03}, "b": {"rate": 0.03}}.items()
    ]
    page = loaded("golden_report", monkeypatch).document("## Evidence and prediction\n\nunchanged words", studies)
    assert "unchanged words" in page and page.count("## Results: books") == 2
    assert "| rate | **worse** | 12 |" in page and "**rate loses** on books" in page
    assert "## The document's decision: mixed" in page and "Switch on alone: regularisation." in page
    assert "batch, seed 5: x: the loss was not finite" in page and "rolled back at step 4" in page
    assert "At an end of the grid, so perhaps not at their best: rate" in page
    assert "| standard | 1 | `The / 'end'` |" in page
    assert "phiforge compare phi/tiny data=books --out 'golden books'" in page and "/somewhere" not in page
    assert "2 cores of P, torch 2, commit abcdef0" in page
    for line in page.splitlines():  # every table row has as many cells as its head
        assert not line.startswith("|") or line.endswith("|"), line


def test_a_follow_up_says_what_its_control_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = loaded("golden_text", monkeypatch)
    study = text.read_study(made(tmp_path / "short", {"rate": -0.06, "document": -0.03}))
    folder = made(tmp_path / "long", {"rate": -0.02})
    data = json.loads((folder / "verdict.json").read_text())
    kept = [row for row in data["comparisons"] if row["arm"] == "rate"]
    plain = {**kept[0], "role": "control", "against": "line_to_618", "verdict": "no detectable difference", "mean": 0.001}
    data |= {"comparisons": [*kept, plain], "question": "does it last?", "prediction": "no", "budget": {"tokens": 393_216}}
    (folder / "verdict.json").write_text(json.dumps(data))
    page = loaded("golden_report", monkeypatch).document("## Evidence and prediction", [study], [text.read_study(folder)])
    assert "## Follow-up: is it golden, and does it last? (books)" in page and "Predicted: no" in page
    assert "(over 98,304 tokens it was -0.06" in page and "it is where the rate ends that counts" in page
    decision = page[page.index("## The document's decision") :]
    assert decision.startswith("## The document's decision: successful") and "Against a plain straight line" in decision
    assert "Alone, rate gains more than the whole plan on every data set" in decision


def test_a_folder_without_a_verdict_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"no verdict\.json"):
        loaded("golden_text", monkeypatch).read_study(tmp_path)


def test_books_are_cut_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = loaded("golden_study", monkeypatch)
    text = "\n\n".join(f"paragraph {i} " + "word " * (i % 40) for i in range(200))
    (tmp_path / "a.md").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\n\r\ntwo"))
    (tmp_path / "SOURCE.md").write_text("not a book")
    rows = study.prepare_books([tmp_path])
    assert rows[-1]["text"] == "one\n\ntwo" and len(rows) > 2
    assert "".join("\n\n".join(row["text"] for row in rows[:-1]).split()) == "".join(text.split())
    assert all(len(row["text"]) < study.PIECE + 400 for row in rows)
    with pytest.raises(SystemExit, match=r"no \.txt or \.md file"):
        study.prepare_books([tmp_path / "SOURCE.md"])


def test_instructions_become_texts_and_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = loaded("golden_study", monkeypatch)
    rendered = "Below is an instruction.\n\n### Instruction:\nwhy?\n\n### Response:\n"
    rows = [
        {"instruction": "add", "input": "1, 2", "output": "3"},
        {"prompt": rendered, "response": "because"},
        {"instruction": "nothing", "output": ""},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts, chats = study.prepare_instructions([file])
    assert [row["text"] for row in texts] == [
        "### Instruction:\nadd\n\n### Input:\n1, 2\n\n### Response:\n3",
        "### Instruction:\nwhy?\n\n### Response:\nbecause",
    ]
    assert chats == [{"prompt": "add\n\n1, 2", "response": "3"}, {"prompt": "why?", "response": "because"}]
    monkeypatch.setattr("sys.argv", ["x", "prepare", "instructions", str(file), "--out", str(tmp_path / "out")])
    study.main()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["instructions.jsonl"]
    assert len((tmp_path / "out-chats" / "chats.jsonl").read_text().splitlines()) == 2
