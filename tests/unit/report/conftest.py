"""A run folder with everything that a stage may leave in it, written through the same writer that stages use."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from phiforge.core import atomic
from phiforge.core.config import Config
from phiforge.core.gates import Check, GateReport
from phiforge.core.runs import Run, RunWriter, Status, new_manifest

NASTY = '<script>alert("x")</script><img src=http://example.invalid/x.png onerror=alert(1)>&amp;'
TROUBLE = NASTY + "\x00\x1b[31m"  # control characters too, where JSON can hold them


class DemoConfig(Config):
    """Settings of the made-up stage."""

    learning_rate: float = Field(default=1e-3, description="peak rate")
    prompts: list[str] = Field(default=["Once", TROUBLE.replace("\x00", "")], description="texts to begin with")
    seed: int = Field(default=7, description="seed")


def write_weights(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of zeros."""
    at, header = 0, {}
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * math.prod(shape)]}
        at += 4 * math.prod(shape)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def log_curves(run: RunWriter, steps: int) -> None:
    """A run that learns: every step a training loss, every tenth of the run an evaluation."""
    for step in range(1, steps + 1):
        decay = math.exp(-step / (steps / 4))
        line = {"step": step, "tokens": step * 2048, "seconds": step * 0.25, "tokens_per_second": 8000 + 300 * math.sin(step)}
        line |= {"loss": 2.1 + 4.5 * decay + 0.08 * math.sin(step * 1.7), "grad_norm": 0.5 + 3 * decay}
        run.metric(line | {"learning_rate": 1e-3 * (1 - step / steps)})
        if step % (steps // 10) == 0:
            bits = 1.83 + 2.4 * decay
            errors = {"eval_bits_per_byte_standard_error": 0.012}
            run.metric({"step": step, "eval_bits_per_byte": bits, "eval_loss": bits * 1.2, "halting": decay, **errors})


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run: `make_run("pretrain", status="failed", full=True, steps=40, parents={"data": path})`."""

    def make(stage: str = "pretrain", *, name: str = "demo", status: Status = "complete", full: bool = True, **more: Any) -> Path:
        config = DemoConfig()
        run = RunWriter(tmp_path / name, new_manifest(stage, config, command=[stage, "learning_rate=1e-3"]), config)
        run.manifest.parents = {role: Run.open(path).as_parent() for role, path in more.get("parents", {}).items()}
        run.begin()
        if full:
            fill(run, more.get("steps", 200))
        metrics = {"eval_bits_per_byte": 1.8342, "eval_bits_per_byte_standard_error": 0.0121, "tokens": 409_600}
        run.end(status, metrics=metrics if full else {})
        return run.path

    return make


def fill(run: RunWriter, steps: int) -> None:
    """Every piece that a report can show."""
    log_curves(run, steps)
    run.decide("precision", lambda: "bf16", why="1.7 times as fast as fp32 in a probe")
    run.decide("threads", lambda: 2)
    with (run.path / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for step in range(0, max(steps, 1), max(1, steps // 12)):
            for prompt, text in (("", "qz the and o e"), ("Once upon", f" a time at step {step}\n" + TROUBLE)):
                stream.write(json.dumps({"step": step, "prompt": prompt, "text": text}) + "\n")
    write_weights(run.path / "model" / "model.safetensors", {"wte": [256, 32], "h": [32, 32], "b": [32]})
    report = {
        "documents": {"read": 812, "kept": 790, "train_bytes": 9_214_000},
        "dropped": [
            {"reason": "too short", "documents": 20, "bytes": 1_200},
            {"reason": TROUBLE, "documents": 2, "bytes": 31},
        ],
        "licences": {"PSF-2.0": 700, "unknown": 90},
        "warnings": ["2 texts hold what looks like an e-mail address"],
    }
    atomic.write_json(run.path / "data.json", report)
    score = {"value": 1.8342, "standard_error": 0.0121, "n": 1_000_000, "clusters": 60, "cluster": "document"}
    certain = {"value": 2.402, "standard_error": None, "n": 9}
    baselines = [
        {"name": "ngram", "label": "5-gram byte model", "about": "Witten-Bell", "fair": True, "bits_per_byte": {**score, "value": 2.1031}},
        {"name": "xz", "label": "xz", "about": "with the training text", "fair": True, "bits_per_byte": certain},
        {"name": "xz_alone", "label": "xz, this text alone", "about": "", "fair": False, "bits_per_byte": {**certain, "value": 2.9}},
    ]
    evaluation = {
        "schema_version": 1,
        "sentence": "The model needs 1.83 bits for each byte of unseen text; a 5-gram byte model needs 2.10, xz needs 2.40.",
        "notes": [],
        "text": {"split": "validation", "documents": 60, "bytes": 1_000_000, "tokens": 310_000},
        "model": {"id": "m", "parameters": 9_248, "bits_per_byte": score},
        "baselines": baselines,
    }
    atomic.write_json(run.path / "evaluation.json", evaluation)
    checks = [
        Check(name="F32 log-probability", value=3.1e-4, limit="<= 5e-3", passed=True),
        Check(name="greedy ids", value="64 of 64", limit="equal", passed=True, note=TROUBLE),
    ]
    run.gate(GateReport(gate="parity", checks=checks, note="512 positions, llama.cpp on the processor"))
