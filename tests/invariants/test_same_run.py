"""Same run: killed and resumed = never stopped; 8 x 1 = 1 x 8; one process = two. Also the worker that these tests start and kill:

python tests/invariants/test_same_run.py FOLDER [--resume] [key=value ...]
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phiforge.core.config import Config, build, parse_overrides
from phiforge.core.errors import Interrupted
from phiforge.core.lock import Lock
from phiforge.core.runs import Run, RunWriter, launch_token, new_manifest, rank, read_jsonl
from phiforge.data import vocabulary
from phiforge.data.document import Document, write_documents
from phiforge.train import checkpoints
from phiforge.train.config import PretrainConfig
from phiforge.train.stages import PRETRAIN

CLOCK = {"seconds", "tokens_per_second"}
SETTINGS: dict[str, Any] = {
    "model": {"width": 32, "depth": 2, "heads": 2, "context_length": 32, "dropout": 0.1},
    "per_device_train_batch_size": 4,
    "max_steps": 60,
    "eval_steps": 15,
    "save_steps": 6,
    "logging_steps": 4,  # not a divisor of save_steps: the running loss must survive in the checkpoint
    "sample_tokens": 8,
    "threads": 1,
    "precision": "fp32",
    "compile": False,
}


def parents_in(folder: Path) -> dict[str, Run]:
    """A data run and a byte-level tokenizer run, made once."""
    if not (folder / "tokenizer" / "run.json").is_file():
        words = random.Random(0)
        texts = [" ".join(words.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(200)) for _ in range(12)]
        for name in ("data", "tokenizer"):
            writer = RunWriter(folder / name, new_manifest(name, Config()), Config())
            writer.begin()
            if name == "data":
                (folder / name / "documents").mkdir()
                for split, part in (("train", texts[:10]), ("validation", texts[10:])):
                    write_documents(folder / name / "documents" / f"{split}.jsonl.zst", [Document.of(text, "test") for text in part])
            else:
                spec = vocabulary.build_spec([bytes([value]) for value in range(256)], "gpt-2")
                vocabulary.write_folder(folder / name / "tokenizer", spec, vocabulary.our_settings(None))
            writer.end("complete")
    return {name: Run.open(folder / name) for name in ("data", "tokenizer")}


def train(out: Path, parents: dict[str, Run], *, resume: bool = False, **overrides: Any) -> Run:
    """What the runner does, without its report: the stage in the folder `out`."""
    config = build(PretrainConfig, SETTINGS | overrides, where="test")
    leader = rank() == 0
    if not leader:
        while not (Run.is_run(out) and Run.open(out).manifest.launch == launch_token()):
            time.sleep(0.05)
    manifest = Run.open(out).manifest if resume or not leader else new_manifest("pretrain", config)
    manifest.status, manifest.launch = "running", launch_token()
    writer = RunWriter(out, manifest, config, resuming=resume and checkpoints.last(out / "checkpoints") is not None, leader=leader)
    out.mkdir(parents=True, exist_ok=True)
    if leader:
        with Lock(out):
            writer.begin()
            return writer.end("complete", metrics=PRETRAIN.load()(config, parents, writer))
    return writer.end("complete", metrics=PRETRAIN.load()(config, parents, writer))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Every logged line without its clock fields."""
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in read_jsonl(run / "metrics.jsonl")]


def assert_same_tensors(a: Any, b: Any, where: str) -> None:
    """Nested states, equal to the last bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same_tensors(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_tensors(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, optimizer, metrics and samples of two finished runs are equal to the last bit."""
    assert metrics_of(a) == metrics_of(b)
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()
    assert_same_tensors(load_file(a / "model" / "model.safetensors"), load_file(b / "model" / "model.safetensors"), "weights")
    last_a, last_b = checkpoints.last(a / "checkpoints"), checkpoints.last(b / "checkpoints")
    assert last_a is not None and last_b is not None and last_a.name == last_b.name
    states = [torch.load(folder / "optimizer.pt", weights_only=True) for folder in (last_a, last_b)]
    assert_same_tensors(states[0], states[1], "optimizer")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parents, and the cache of packed texts."""
    return tmp_path_factory.mktemp("same-run")


@pytest.fixture(autouse=True)
def _own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFORGE_CACHE", str(home / "cache"))
    monkeypatch.setenv("PHIFORGE_DEVICE", "cpu")


@pytest.fixture(scope="module")
def uninterrupted(home: Path) -> Path:
    """The run that all others must equal."""
    os.environ["PHIFORGE_CACHE"] = str(home / "cache")
    return train(home / "whole", parents_in(home)).path


def start(home: Path, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The worker, in a process of its own."""
    command = [sys.executable, __file__, str(home), str(out), *arguments]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], *, number: int = signal.SIGKILL) -> None:
    """Send a signal as soon as `ready`; fail when the process ends before."""
    while not ready():
        assert process.poll() is None, "the worker ended before it could be killed"
        time.sleep(0.0005)
    process.send_signal(number)
    process.wait(timeout=120)


def logged(out: Path) -> int:
    """The last step in metrics.jsonl; 0 before there is one."""
    return max((line.get("step", 0) for line in read_jsonl(out / "metrics.jsonl")), default=0)


def test_killed_and_resumed_equals_uninterrupted(home: Path, uninterrupted: Path) -> None:
    out = home / "killed"
    kill_when(start(home, out), lambda: logged(out) >= 20)
    assert Run.open(out).status == "interrupted"
    resumed = train(out, parents_in(home), resume=True)
    assert_same_run(uninterrupted, resumed.path)


def test_stopped_by_sigterm_saves_at_that_step_and_resumes(home: Path, uninterrupted: Path) -> None:
    out = home / "stopped"
    process = start(home, out)
    kill_when(process, lambda: logged(out) >= 8, number=signal.SIGTERM)
    assert process.returncode == Interrupted.exit_code
    saved = checkpoints.last(out / "checkpoints")
    assert saved is not None
    assert (checkpoints.step_of(saved) or 0) >= logged(out)
    resumed = train(out, parents_in(home), resume=True)
    assert_same_run(uninterrupted, resumed.path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(home: Path, uninterrupted: Path, seed: int) -> None:
    """Four kills in a row, each at a random time after the attempt has made a step; then to the end."""
    draw = random.Random(seed)
    out = home / f"random-{seed}"
    kills = 0
    for attempt in range(4):
        before = logged(out)
        process = start(home, out, *(["--resume"] if Run.is_run(out) else []))
        while not Run.is_run(out):
            time.sleep(0.01)
        wait = time.monotonic() + 60
        while logged(out) <= before and process.poll() is None and time.monotonic() < wait:
            time.sleep(0.001)
        time.sleep(draw.random() * (0.8 if attempt else 0.3))
        if process.poll() is not None:
            break
        process.kill()
        process.wait(timeout=60)
        kills += 1
    assert kills
    resumed = train(out, parents_in(home), resume=True) if Run.open(out).status != "complete" else Run.open(out)
    assert_same_run(uninterrupted, resumed.path)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "phiforge.json"])
def test_killed_while_a_checkpoint_is_written(home: Path, uninterrupted: Path, file: str) -> None:
    """The half-written one is ignored and swept away; the one before it is used."""
    out = home / f"torn-{file}"
    folder = out / "checkpoints"
    kill_when(
        start(home, out), lambda: logged(out) >= 15 and any(path / file for path in folder.glob(".partial-*") if (path / file).exists())
    )
    resumed = train(out, parents_in(home), resume=True)
    assert not list(folder.glob(".partial-*"))
    assert_same_run(uninterrupted, resumed.path)


@pytest.mark.parametrize("batch, accumulation", [(1, 8), (2, 4)])
def test_micro_batches_make_no_difference(home: Path, batch: int, accumulation: int) -> None:
    plain = {"max_steps": 12, "eval_steps": 12, "logging_steps": 1, "model": SETTINGS["model"] | {"dropout": 0.0}, "sample_prompts": []}
    whole = train(home / f"8x1-{batch}", parents_in(home), per_device_train_batch_size=8, **plain)
    pieces = train(
        home / f"{batch}x{accumulation}",
        parents_in(home),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        **plain,
    )
    assert_close_runs(whole.path, pieces.path)


def assert_close_runs(a: Path, b: Path) -> None:
    """Every logged loss, and every weight, within 1e-6 (relative for the losses)."""
    left, right = metrics_of(a), metrics_of(b)
    assert [line["step"] for line in left] == [line["step"] for line in right]
    for x, y in zip(left, right, strict=True):
        for name in ("loss", "eval_loss"):
            assert (name in x) == (name in y)
            if name in x:
                assert x[name] == pytest.approx(y[name], rel=1e-6, abs=1e-6), (name, x["step"])
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (a, b)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=2e-6)


def test_two_processes_equal_one(home: Path) -> None:
    plain = {"max_steps": 10, "eval_steps": 10, "logging_steps": 1, "model": SETTINGS["model"] | {"dropout": 0.0}, "sample_prompts": []}
    one = train(home / "one", parents_in(home), per_device_train_batch_size=8, **plain)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, str(home), str(home / "two")]
    overrides = [f"{key}={json.dumps(value)}" for key, value in (plain | {"per_device_train_batch_size": 4}).items()]
    done = subprocess.run(
        [*launch, *overrides], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close_runs(one.path, home / "two")


def main() -> None:
    """The worker."""
    home, out, *rest = sys.argv[1:]
    resume = "--resume" in rest
    try:
        train(Path(out), parents_in(Path(home)), resume=resume, **parse_overrides([item for item in rest if "=" in item]))
    except Interrupted as stopped:
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
