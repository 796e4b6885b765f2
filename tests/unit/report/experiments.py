"""Experiment folders as `compare` leaves them, for tests: made-up runs, judged by the real verdict. No number here is a measurement."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phiforge.core import atomic
from phiforge.stats.verdict import judge
from tests.unit.report.conftest import TROUBLE

PHI = (1 + math.sqrt(5)) / 2
EFFECTS = {"rate": -0.021, "batch": 0.034, "phases": 0.002, "dropout": -0.004, "weight decay": 0.001, "sampler": -0.003, "shape": 0.012}
EFFECTS |= {"all together": 0.03, "cyclic": 0.008, "cosine": -0.006, "wsd": -0.01, "warm-up": 0.003}


@dataclass
class Made:
    """What to make. arms: how many beside the baseline; control: one of them has a control; folders: run folders are written."""

    arms: int = 3
    seeds: int = 10
    folders: bool = True
    curves: bool = True
    control: bool = True
    hostile: bool = False
    fail: bool = True
    complete: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def make_experiment(path: Path, made: Made | None = None) -> Path:
    """Write the folder; returns it."""
    made = made or Made()
    rng = np.random.default_rng(5)
    names = ["standard", *list(EFFECTS)[: made.arms]]
    effects = {name: EFFECTS.get(name, 0.0) for name in names}
    if made.hostile:
        effects = {(name if name == "standard" else f"{name} $x^ {TROUBLE}{'w' * 90}"): effect for name, effect in effects.items()}
    if made.control and made.arms:
        effects["rate, equal mean"] = -0.012
    seed_effect = rng.normal(0, 0.03, made.seeds)
    arms, values, curves = [], {}, {}
    for name, effect in effects.items():
        trials, lines = [], []
        for seed in range(made.seeds):
            own = effect + rng.normal(0, 0.008)
            value = 2.31 + seed_effect[seed] + own
            trial = _trial(path, name, seed, value, made, len(arms))
            trials.append(trial)
            if trial["status"] == "complete":
                values.setdefault(name, {})[seed] = value
                points = [
                    [100_000 * i, 11.0 * i * (1 + 0.1 * (name == "batch")), value + (1.6 - 9 * own) * math.exp(-i / 3.2)]
                    for i in range(1, 16)
                ]
                lines.append({"seed": seed, "points": points})
        curves[name] = lines
        arms.append(_arm(name, trials, made))
    data = _verdict(names, effects, arms, values, made)
    data["curves"] = curves if made.curves else {}
    path.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path / "verdict.json", data | made.extra)
    return path


def _status(made: Made, name: str, seed: int) -> tuple[str, str | None]:
    if not made.complete:
        return "interrupted", None
    if made.fail and name.startswith("batch") and seed == 3:
        return "failed", "the loss was not finite at step 412 -> " + (TROUBLE if made.hostile else "a smaller learning rate may hold")
    if made.fail and name.startswith("phases") and seed == 5:
        return "invalid", "read its rows in another order than the baseline of the same seed"
    return "complete", None


def _trial(path: Path, name: str, seed: int, value: float, made: Made, number: int) -> dict[str, Any]:
    status, error = _status(made, name, seed)
    folder = Path("trials") / f"arm-{number}" / f"seed-{seed}"
    if made.folders:
        _run(path / folder, name, value, number, made)
    done = status == "complete"
    metrics = {"eval_bits_per_byte": value, "cpu_seconds": 300.0 + 5 * number, "peak_memory_bytes": 700_000_000 + number, "steps": 600}
    return {
        "seed": seed,
        "status": status,
        "path": str(folder) if made.folders else None,
        "value": value if done else None,
        "metrics": metrics | {"tokens": 1_500_000} if done else {},
        "error": error,
        "seconds": 170.0 + number if done else None,
    }


def _run(path: Path, name: str, value: float, number: int, made: Made) -> None:
    """metrics.jsonl and samples.jsonl of a run; no run.json, which the page does not need."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(number)
    lines = []
    for i in range(1, 61):
        p = i / 60
        rate = 2e-4 * (PHI**-p if name.startswith(("rate", "all")) else (1 - p))
        line = {"step": 10 * i, "tokens": 25_000 * i, "seconds": 2.8 * i, "loss": 2 + 4 * math.exp(-4 * p) + rng.normal(0, 0.02)}
        line |= {"grad_norm": 0.4 + 2 * math.exp(-5 * p), "learning_rate": rate}
        if name.startswith(("batch", "all")):
            line["batch_size"] = 8 if p < 0.382 else 12 if p < 0.69 else 20
        if name.startswith("dropout"):
            line["dropout"] = 0.1 * PHI**-p
        if name.startswith("weight"):
            line["weight_decay"] = 0.01 * PHI**p
        lines.append(line)
        if i == 40 and name.startswith("batch"):
            line["loss"] += 4
            lines.append({"step": 400, "tokens": 1_000_000, "seconds": 112.0, "rollback": {"to": 380, "why": "spike"}})
    atomic.write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    said = {
        "step": 600,
        "prompt": "It was",
        "text": f" a {'dark' if number % 2 else 'bright'} night and the wind was in the trees.\nHe said",
    }
    if made.hostile:
        said |= {"prompt": TROUBLE, "text": TROUBLE * 40}
    atomic.write_text(path / "samples.jsonl", json.dumps({"step": 0, "prompt": "", "text": "zq x"}) + "\n" + json.dumps(said) + "\n")


def _arm(name: str, trials: list[dict[str, Any]], made: Made) -> dict[str, Any]:
    control = name == "rate, equal mean"
    tried = [{"settings": {"learning_rate": rate}, "values": [2.4, 2.41], "mean": 2.405} for rate in (1e-4, 2e-4, 4e-4)]
    return {
        "name": name,
        "role": "baseline" if name == "standard" else "control" if control else "arm",
        "control_of": "rate" if control else None,
        "about": TROUBLE if made.hostile else f"what {name} changes, in a sentence",
        "settings": {"lr_scheduler_type": "phi_decay", "note": TROUBLE if made.hostile else "x"} if name != "standard" else {},
        "tuned": {"learning_rate": 2e-4},
        "tuning": tried,
        "trials": trials,
    }


def _verdict(
    names: list[str], effects: dict[str, float], arms: list[Any], values: dict[str, dict[int, float]], made: Made
) -> dict[str, Any]:
    base = values.get("standard", {})
    pairs = {
        name: [
            {"seed": s, "value": v, "baseline": base[s], "difference": v - base[s]} for s, v in values.get(name, {}).items() if s in base
        ]
        for name in effects
        if name != "standard"
    }
    family = {name: [p["difference"] for p in found] for name, found in pairs.items() if name != "rate, equal mean"}
    judged = judge(family) if family else {}
    judged |= judge({name: [p["difference"] for p in pairs[name]] for name in pairs if name not in family})
    comparisons = [
        {
            "against": "standard",
            "role": "arm" if name in family else "control",
            **asdict(judged[name]),
            "pairs": pairs[name],
            "equal_seconds": {"seconds": 150.0, "mean": judged[name].mean, "interval": judged[name].interval, "n": len(pairs[name])}
            if pairs[name]
            else None,
            "to_baseline_loss": {"steps": 512.0, "tokens": 1_280_000.0, "seconds": 140.0} if pairs[name] else None,
            "items": None,
            "notes": ["the effective batch differs"] if name.startswith("batch") else [],
        }
        for name in pairs
    ]
    hostile = TROUBLE if made.hostile else ""
    return {
        "schema_version": 1,
        "name": "phi / tiny" + hostile,
        "description": "Golden-ratio switches one by one." + hostile,
        "question": "Does any golden-ratio schedule help a model of 1M parameters?" + hostile,
        "prediction": "The rate helps a little, as it stays high for longer; the growing batch costs updates and hurts." + hostile,
        "made": "2026-11-20T17:00:00+00:00",
        "command": ["phiforge", "compare", "phi/tiny", "--out", "runs/phi tiny" + hostile.replace("\x00", "")],
        "metric": {"name": "eval_bits_per_byte", "lower_is_better": True},
        "alpha": 0.05,
        "until_clear": False,
        "decided_by": f"exact sign-flip test, Holm over {len(family)} arms",
        "family_size": len(family),
        "baseline": "standard",
        "budget": {"tokens": 1_500_000, "seconds": None},
        "recipe": "phi/tiny",
        "step": "pretrain",
        "seeds": list(range(made.seeds)),
        "arms": arms,
        "comparisons": comparisons,
        "noise": {"sd_over_seeds": 0.031, "same_config_sd": 0.0079, "how": "4 pairs of runs that differ in the dropout seed alone"},
        "shared": ["initialisation", "order of the data", "dropout" + hostile],
        "not_shared": ["rows in a batch (batch)"],
        "warnings": ["batch: 1 of 10 trials failed, 9 pairs remain"] if made.fail and made.arms > 1 else [],
        "failures": [],
    }
