"""What the training stages share: how long, which schedule, the callbacks, resuming, and which weights are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerCallback

from phiforge.core import console
from phiforge.core.errors import Interrupted
from phiforge.core.runs import METRICS, RunWriter, read_jsonl
from phiforge.evaluate.bits_per_byte import Precision
from phiforge.train import checkpoints
from phiforge.train.adapter import training_arguments
from phiforge.train.batches import RowSource, TrainStream
from phiforge.train.callbacks import SAMPLES, EarlyWords, RecordMetrics, ShowProgress, StopWhenAsked
from phiforge.train.config import TrainConfig
from phiforge.train.interrupt import graceful
from phiforge.train.probe import Settled, settle
from phiforge.train.schedules import SCHEDULES, Schedule, schedule, warmup_length
from phiforge.train.trainer import StreamTrainer


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run will go, with nothing left open.

    every: eval_steps, save_steps, logging_steps. eval_tokens: most validation tokens of an evaluation on the way.
    """

    settled: Settled
    schedule: Schedule
    every: dict[str, int]
    eval_tokens: int

    def arguments(self, config: TrainConfig, run: RunWriter, *, evaluates: bool) -> Any:
        """transformers' TrainingArguments for it."""
        stock = self.settled.loss == "stock"
        return training_arguments(
            config,
            run.path / "checkpoints",
            max_steps=self.settled.max_steps,
            **self.every,
            evaluates=evaluates,
            autocast=stock and self.settled.precision == "bf16",
            torch_compile=stock and self.settled.compiled,
        )

    def options(self, config: TrainConfig) -> dict[str, Any]:
        """What StreamTrainer is told of it."""
        return {
            "schedule": self.schedule,
            "optim": config.optim,
            "muon_learning_rate": config.muon_learning_rate,
            "precision": self.settled.precision,
            "loss": self.settled.loss,
            "compiled": self.settled.compiled,
        }

    @property
    def eval_precision(self) -> Precision:
        """Of the evaluations on the way."""
        return "bf16" if self.settled.precision == "bf16" else "fp32"


def stream_of(config: TrainConfig, rows_of: Callable[[int], RowSource], n: int) -> TrainStream:
    """This process's batches of the config's sizes."""
    return TrainStream(
        rows_of,
        n,
        seed=config.seed,
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
    )


def plan_course(config: TrainConfig, model: nn.Module, stream: TrainStream, length: int, run: RunWriter) -> Course:
    """Settle what is open, and say how the run will go. length: tokens in a row."""
    model.train()
    settled = settle(config, model, stream, length, run)
    total = settled.max_steps
    warmup = warmup_length(total, warmup_steps=config.warmup_steps, warmup_ratio=config.warmup_ratio)
    every = {
        "eval_steps": config.eval_steps or max(1, total // 10),
        "save_steps": config.save_steps or max(1, total // 10),
        "logging_steps": config.logging_steps or max(1, total // 100),
    }
    per_step = stream.rows_per_step * length
    run.log(
        f"{total:,} steps of {per_step:,} tokens = {total * per_step:,} tokens ({total * stream.rows_per_step / stream.n:.3g} passes);"
        f" {config.lr_scheduler_type} from {config.learning_rate:g} after {warmup} steps of warm-up; {settled.precision},"
        f" {'compiled' if settled.compiled else 'not compiled'}, {settled.threads} thread{'s' if settled.threads > 1 else ''}; "
        + ", ".join(f"{name} {value}" for name, value in every.items())
    )
    parameters = {"decay_ratio": config.lr_decay_ratio} if "decay_ratio" in SCHEDULES[config.lr_scheduler_type].parameters else {}
    rate = schedule(config.lr_scheduler_type, total, warmup=warmup, floor=config.lr_min_ratio, **parameters)
    # A seventh of what is trained on in between costs some 5 % of the time (forward only).
    eval_tokens = config.eval_tokens or min(65_536, max(8_192, every["eval_steps"] * per_step // 7))
    return Course(settled=settled, schedule=rate, every=every, eval_tokens=eval_tokens)


def train_to_end(
    trainer: StreamTrainer,
    length: int,
    run: RunWriter,
    speak: Callable[[int], list[tuple[str, str]]],
    sample_steps: int | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train from the start or from the last checkpoint, to the end or until asked to stop (Interrupted)."""
    checkpoint = checkpoints.last(run.path / "checkpoints") if run.resuming else None
    step = (checkpoints.step_of(checkpoint) or 0) if checkpoint else 0
    for name in (METRICS, SAMPLES):
        run.truncate(name, step if checkpoint else -1)
    if checkpoint:
        run.log(f"going on from step {step:,}")
    seconds = max((line.get("seconds", 0.0) for line in read_jsonl(run.path / METRICS)), default=0.0)
    total = trainer.args.max_steps
    with graceful() as stop, console.progress("training", total) as bar:
        for callback in (
            StopWhenAsked(stop),
            RecordMetrics(run, trainer.stream, length, seconds),
            EarlyWords(run, speak, sample_steps, bar.print),
            ShowProgress(bar, trainer.stream.rows_per_step * length),
            *callbacks,
        ):
            trainer.add_callback(callback)
        if step < total:
            trainer.train_from(checkpoint)
        elif checkpoint:
            trainer.load_finished(checkpoint)
    if stop and trainer.state.global_step < total:
        raise Interrupted(
            f"{run.path}: stopped by {stop.asked} at step {trainer.state.global_step:,} of {total:,}; a checkpoint is saved",
            fix="the same command with --resume goes on from there",
        )


def choose_weights(trainer: StreamTrainer, config: TrainConfig, run: RunWriter) -> int:
    """Load the checkpoint of least validation loss, where the config asks for it; the step that the model is now of."""
    best, chosen = trainer.best_checkpoint, trainer.state.global_step
    if config.load_best_model_at_end and best is not None and checkpoints.step_of(best) != chosen:
        chosen = checkpoints.step_of(best) or chosen
        trainer.load_weights(best)
        run.log(f"step {chosen:,} had the least validation loss and is kept (load_best_model_at_end)")
    return chosen
