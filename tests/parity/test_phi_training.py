"""Golden switches in real training: what the model and the optimizer saw at each step is the plan, a cut step is the whole one, a resumed
run is the uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.trainer_callback import TrainerCallback

from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.golden.timetable import Timetable
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train import checkpoints
from phiforge.train.adapter import quiet
from phiforge.train.batches import TrainStream
from phiforge.train.config import PretrainConfig
from phiforge.train.loop import Course, plan_course
from phiforge.train.regularization import read_dropout, read_weight_decay
from phiforge.train.trainer import StreamTrainer
from tests.invariants.test_same_run import assert_same_run, kill_when, logged, metrics_of, parents_in, start, train

LENGTH, VOCABULARY, ROWS = 24, 64, 40
ALL_ON: dict[str, Any] = {
    "phi_batch_progression": True,
    "phi_training_phases": True,
    "phi_dropout_schedule": True,
    "phi_weight_decay_schedule": True,
    "difficulty": "loss",
}


class Text:
    """Rows of random tokens; every other one holds a border of documents, so that rows differ in how many labels they have."""

    def __init__(self) -> None:
        self.tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH + 1))

    def __len__(self) -> int:
        return ROWS

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        chosen = np.asarray(indices)
        labels, at = self.tokens[chosen, 1:].copy(), np.tile(np.arange(LENGTH), (len(chosen), 1))
        split = chosen % 2 == 1
        labels[split, 4:9] = -100
        at[split, 10:] -= 10
        return {"input_ids": self.tokens[chosen, :-1], "shift_labels": labels, "position_ids": at}


class Witness(TrainerCallback):
    """What was in force when the optimizer stepped, read back from model and optimizer."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        (dropout,) = set(read_dropout(model).values())
        self.seen.append((dropout, read_weight_decay(optimizer), optimizer.param_groups[0]["lr"]))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PHIFORGE_DEVICE", "cpu")
    quiet()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_model(family: str, dropout: float) -> Any:
    spec = {"family": family, "width": 32, "depth": 2, "heads": 2, "vocab_size": VOCABULARY, "context_length": LENGTH, "dropout": dropout}
    return build(resolve(DecoderSpec.model_validate(spec)), seed=0)


def prepared(folder: Path, family: str = "starcoder2", dropout: float = 0.1, **settings: Any) -> tuple[StreamTrainer, Course]:
    """A trainer as the stages make it, and its course. Every size that the model is given is in `trainer.sizes`."""
    known = {"per_device_train_batch_size": 4, "logging_steps": 1, "threads": 1, "precision": "fp32", "compile": False, "save_steps": 1000}
    config = PretrainConfig.model_validate(known | settings)
    run = RunWriter(folder, new_manifest("pretrain", config), config)
    run.begin()
    model, text = new_model(family, dropout), Text()
    stream = TrainStream(lambda epoch: text, ROWS, seed=config.seed, batch_size=4, accumulation=config.gradient_accumulation_steps)
    course = plan_course(config, model, stream, LENGTH, run)
    trainer = StreamTrainer(model, course.arguments(config, run, evaluates=False), stream=stream, **course.options(config))
    return trainer, course


def sizes_seen(trainer: StreamTrainer) -> list[list[int]]:
    """Rows of each forward pass, step by step; filled while it trains."""
    steps: list[list[int]] = []
    original = StreamTrainer.compute_loss

    def begin(callback: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append([])

    def count(model: Any, inputs: Any, *rest: Any, **kwargs: Any) -> Any:
        steps[-1].append(len(inputs["input_ids"]))
        return original(trainer, model, inputs, *rest, **kwargs)

    trainer.add_callback(type("Begin", (TrainerCallback,), {"on_step_begin": begin})())
    trainer.compute_loss = count  # type: ignore[method-assign]
    return steps


CASES: dict[str, dict[str, Any]] = {
    "all on": {"max_tokens": 150 * LENGTH, "phi": ALL_ON | {"difficulty": "unigram"}},
    "one epoch": {"num_train_epochs": 1, "phi": ALL_ON | {"difficulty": "unigram"}},
    "steps, cyclic": {"max_steps": 14, "phi": ALL_ON | {"phi_dropout_schedule": "cyclic", "phi_weight_decay_schedule": "cyclic"}},
    "one step": {"max_steps": 1, "phi": ALL_ON},
    "tokens that do not fill a batch": {"max_tokens": 30 * LENGTH},
    "blocks": {
        "max_steps": 12,
        "phi": {
            "phase1": {"batch_size": 3, "dropout": 0.3, "learning_rate": 2e-3},
            "phase2": {"weight_decay": 0.03, "lr_scheduler_type": "linear"},
        },
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family, loss", [("starcoder2", "fused"), ("llama", "stock")])
def test_model_and_optimizer_have_the_plan_at_each_step(case: str, family: str, loss: str, tmp_path: Path) -> None:
    trainer, course = prepared(tmp_path / "run", family, loss=loss, lr_scheduler_type="phi_decay", **CASES[case])
    plan, witness = course.timetable, Witness()
    trainer.add_callback(witness)
    sizes = sizes_seen(trainer)
    trainer.train_from(None)
    assert [sum(step) for step in sizes] == [plan.batch(step) for step in range(plan.steps)]
    base = trainer.args.learning_rate
    for step, (dropout, decay, rate) in enumerate(witness.seen):
        assert dropout == (plan.dropout_at(step) if plan.schedules_dropout else 0.1)
        assert decay == plan.weight_decay_at(step)
        assert rate == base * plan.rate_at(step)
    assert len(witness.seen) == plan.steps
    logged_lines = [entry for entry in trainer.state.log_history if "loss" in entry]
    if plan.phi.applies:
        for entry in logged_lines:
            step = entry["step"] - 1
            assert entry.get("batch_size", plan.batch(step)) == plan.batch(step)
            assert entry.get("dropout", plan.dropout_at(step)) == plan.dropout_at(step)
            assert entry.get("weight_decay", plan.weight_decay_at(step)) == plan.weight_decay_at(step)
            assert entry.get("phase", 1) == plan.phase(step)
            assert entry["epoch"] == plan.rows_before(step + 1) / ROWS
    if case == "all on":
        assert {"batch_size", "dropout", "weight_decay", "phase"} < logged_lines[0].keys()
        assert plan.rows == 150
        assert {size for step in sizes for size in step} == {4, 6, 10, plan.batch(plan.steps - 1)}


@pytest.mark.parametrize("family, loss", [("starcoder2", "fused"), ("starcoder2", "stock"), ("llama", "stock")])
@pytest.mark.parametrize("limit", [1, 3, 4])
def test_a_cut_step_is_the_whole_step(family: str, loss: str, limit: int, tmp_path: Path) -> None:
    """Loss and every gradient of a batch of ten rows, cut to passes of at most `limit`, against the unsplit one: 1e-6."""
    outcome = []
    for micro in (10, limit):
        phi = {"phi_batch_progression": True}
        trainer, _ = prepared(tmp_path / str(micro), family, dropout=0.0, loss=loss, max_tokens=150 * LENGTH, phi=phi)
        trainer.micro_rows = micro
        sizes = sizes_seen(trainer)
        losses, gradients = gradients_of(trainer, sizes)
        outcome.append((losses, gradients))
        assert max(size for step in sizes for size in step) == min(micro, 10)
    (left, right) = outcome
    assert left[0] == pytest.approx(right[0], rel=1e-6, abs=1e-6)
    for (name, a), (_, b) in zip(left[1], right[1], strict=True):
        assert float((a - b).norm() / a.norm().clamp(min=1e-6)) < 1e-6, name


def gradients_of(trainer: StreamTrainer, sizes: list[list[int]]) -> tuple[list[float], list[tuple[str, torch.Tensor]]]:
    """Losses and summed gradients of three of the plan's last steps, by the trainer's own step; the weights stay as they are."""
    plan = trainer.stream.plan
    assert isinstance(plan, Timetable)
    trainer.create_optimizer_and_scheduler(10)
    model, losses = trainer.network, []
    if trainer.training_forward is not None:
        trainer.training_forward.install()
    for step in range(plan.steps - 4, plan.steps - 1):
        sizes.append([])
        batch = trainer.stream.whole(step)
        items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        losses.append(float(trainer.training_step(model, batch, items)))
    return losses, [(name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None]


def test_accumulation_says_what_a_pass_may_hold(tmp_path: Path) -> None:
    trainer, course = prepared(
        tmp_path / "run", gradient_accumulation_steps=2, max_tokens=200 * LENGTH, phi={"phi_batch_progression": True}
    )
    sizes = sizes_seen(trainer)
    trainer.train_from(None)
    assert course.micro_rows == 4
    assert [sum(step) for step in sizes] == [course.timetable.batch(step) for step in range(course.timetable.steps)]
    assert max(size for step in sizes for size in step) == 4
    assert sum(sizes[0]) == 8
    assert trainer.args.gradient_accumulation_steps == 1


def test_a_base_dropout_is_everywhere_from_the_start(tmp_path: Path) -> None:
    trainer, _ = prepared(tmp_path / "run", dropout=0.0, max_steps=3, phi={"base_dropout": 0.2})
    assert set(read_dropout(trainer.model).values()) == {0.2}
    trainer.train_from(None)
    assert set(read_dropout(trainer.model).values()) == {0.2}


def test_dropout_has_a_seed_of_its_own(tmp_path: Path) -> None:
    ways = {"own": {"dropout_seed": 5}, "same": {"dropout_seed": 0}, "none": {}}
    losses = {}
    for name, settings in ways.items():
        trainer, _ = prepared(tmp_path / name, max_steps=3, **settings)
        trainer.train_from(None)
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses["same"] == losses["none"]
    assert losses["own"] != losses["none"]


# -- whole runs ----------------------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "max_steps": None,
    "max_tokens": 12_000,
    "phi": ALL_ON,
    "lr_scheduler_type": "phi_cosine",
    "warmup_type": "phi",
    "eval_steps": 20,
    "save_steps": 6,
    "save_total_limit": None,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phi-run")


@pytest.fixture(scope="module")
def uninterrupted(home: Path) -> Path:
    os.environ["PHIFORGE_CACHE"], kept = str(home / "cache"), os.environ.get("PHIFORGE_CACHE")
    try:
        return train(home / "whole", parents_in(home), **WHOLE).path
    finally:
        os.environ["PHIFORGE_CACHE"] = kept or ""


def border_step(run: Path) -> int:
    """The first logged step of phase 2."""
    return next(line["step"] for line in metrics_of(run) if line.get("phase") == 2)


def test_a_run_with_everything_on_says_what_it_cost_and_drew_from(uninterrupted: Path) -> None:
    run = Run.open(uninterrupted)
    final = run.manifest.metrics
    assert final["tokens"] == 12_000 // 32 * 32
    assert final["cpu_seconds"] > 0
    assert final["peak_memory_bytes"] > 10**7
    streams = run.manifest.decisions["streams"]
    assert {"initialisation", "data_order", "dropout", "train_text", "validation_text", "tokenizer"} == streams.keys()
    lines = [line for line in run.metrics() if "batch_size" in line]
    assert [line["batch_size"] for line in lines] == sorted(line["batch_size"] for line in lines)
    assert lines[-1]["tokens"] <= final["tokens"]


def test_paired_runs_share_their_streams(home: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFORGE_CACHE", str(home / "cache"))
    plain = {"max_steps": 2, "eval_steps": 2, "save_steps": 9, "sample_prompts": []}
    ours = Run.open(uninterrupted).manifest.decisions["streams"]
    off = train(home / "off", parents_in(home), **plain).manifest.decisions["streams"]
    assert off == ours
    seeds = train(home / "seeds", parents_in(home), dropout_seed=3, **plain).manifest.decisions["streams"]
    assert {key for key in ours if seeds[key] != ours[key]} == {"dropout"}
    other = train(home / "other", parents_in(home), seed=1, **plain).manifest.decisions["streams"]
    assert {key for key in ours if other[key] != ours[key]} == {"dropout", "initialisation", "data_order"}


@pytest.mark.parametrize("beyond", [-4, 5], ids=["before the border", "in the second phase"])
def test_resumed_equals_uninterrupted(home: Path, uninterrupted: Path, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last checkpoint before a step near the border of the phases, where difficulty is measured by the model itself."""
    monkeypatch.setenv("PHIFORGE_CACHE", str(home / "cache"))
    out, stop = home / f"resumed{beyond}", border_step(uninterrupted) + beyond
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "model")
    for step, folder in checkpoints.find(out / "checkpoints").items():
        if step > stop:
            shutil.rmtree(folder)
    if beyond < 0:
        (out / "difficulty-2.npy").unlink()
    resumed = train(out, parents_in(home), resume=True, **WHOLE)
    assert_same_run(uninterrupted, resumed.path)
    assert (out / "difficulty-2.npy").read_bytes() == (uninterrupted / "difficulty-2.npy").read_bytes()


@pytest.mark.slow
def test_killed_in_the_second_phase_and_resumed_equals_uninterrupted(
    home: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHIFORGE_CACHE", str(home / "cache"))
    out, border = home / "killed", border_step(uninterrupted)
    process = start(home, out, *worker_settings())
    kill_when(process, lambda: logged(out) >= border)
    resumed = train(out, parents_in(home), resume=True, **WHOLE)
    assert_same_run(uninterrupted, resumed.path)


def worker_settings() -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in WHOLE.items() if key != "phi"] + [
        f"phi.{key}={json.dumps(value)}" for key, value in ALL_ON.items()
    ]
