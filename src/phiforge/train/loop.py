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
from phiforge.golden.timetable import Timetable
from phiforge.train import checkpoints
from phiforge.train.adapter import training_arguments
from phiforge.train.batches import RowSource, TrainStream
from phiforge.train.callbacks import SAMPLES, EarlyWords, RecordMetrics, ShowProgress, StopWhenAsked
from phiforge.train.config import TrainConfig
from phiforge.train.focus import focus_phases
from phiforge.train.interrupt import graceful
from phiforge.train.memory import PeakMemory
from phiforge.train.probe import Settled, micro_rows, settle
from phiforge.train.recovery import Recovery, is_guarded, train_guarded
from phiforge.train.regularization import Dropouts, Regularize, set_dropout
from phiforge.train.timetables import timetable_of, warmup_of
from phiforge.train.trainer import StreamTrainer


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run will go, with nothing left open.

    every: eval_steps, save_steps, logging_steps. eval_tokens: most validation tokens of an evaluation on the way.
    micro_rows: most rows in one forward pass, where the batch varies.
    """

    settled: Settled
    timetable: Timetable
    every: dict[str, int]
    eval_tokens: int
    micro_rows: int | None = None

    def arguments(self, config: TrainConfig, run: RunWriter, *, evaluates: bool) -> Any:
        """transformers' TrainingArguments for it."""
        stock = self.settled.loss == "stock"
        return training_arguments(
            config,
            run.path / "checkpoints",
            max_steps=self.timetable.steps,
            **self.every,
            evaluates=evaluates and self.every["eval_steps"] <= self.timetable.steps,  # transformers would add one at the end
            autocast=stock and self.settled.precision == "bf16",
            torch_compile=stock and self.settled.compiled,
            whole_steps=self.micro_rows is not None,
        )

    def options(self, config: TrainConfig) -> dict[str, Any]:
        """What StreamTrainer is told of it."""
        plan, phi = self.timetable, config.phi
        scheduled = plan.schedules_dropout or plan.schedules_weight_decay
        apply = Regularize(
            plan, dropout=plan.schedules_dropout, weight_decay=plan.schedules_weight_decay, everywhere=phi.base_dropout is not None
        )

        def shown(plan: Timetable) -> Callable[[int], dict[str, float]]:
            return in_force(plan, batch=self.micro_rows is not None)

        return {
            "schedule": plan.rate_at,
            "optim": config.optim,
            "muon_learning_rate": config.muon_learning_rate,
            "precision": self.settled.precision,
            "loss": self.settled.loss,
            "compiled": self.settled.compiled,
            "micro_rows": self.micro_rows,
            "keep_best": config.load_best_model_at_end,
            "in_force": shown(plan) if phi.applies else None,
            "recovery": Recovery(plan, config, shown if phi.applies else None) if is_guarded(config) else None,
            "callbacks": [apply] if scheduled else None,
        }

    @property
    def eval_precision(self) -> Precision:
        """Of the evaluations on the way."""
        return "bf16" if self.settled.precision == "bf16" else "fp32"


def in_force(plan: Timetable, *, batch: bool) -> Callable[[int], dict[str, float]]:
    """Step -> what the plan schedules there, under the names of metrics.jsonl."""
    shown: dict[str, Callable[[int], float]] = {}
    if batch:
        shown["batch_size"] = plan.batch
    if plan.schedules_dropout:
        shown["dropout"] = plan.dropout_at
    if plan.schedules_weight_decay:
        shown["weight_decay"] = plan.weight_decay_at
    if any(segment.phase == 2 for segment in plan.segments):
        shown["phase"] = plan.phase
    return lambda step: {name: at(step) for name, at in shown.items()}


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
    """Settle what is open, and say how the run will go. length: tokens in a row. The stream is told of batches that vary."""
    model.train()
    if config.phi.base_dropout is not None:
        set_dropout(model, config.phi.base_dropout)
    settled = settle(config, model, stream, length, run)
    plan = _timetable(config, model, stream, length, settled)
    limit = None
    if {segment.batch for segment in plan.segments} != {stream.rows_per_step} or plan.rows % stream.rows_per_step:
        share = -(-max(segment.batch for segment in plan.segments) // stream.world_size)
        first = stream.batch(0, 0)
        limit = run.decide(
            "micro_batch",
            lambda: micro_rows(config, model, first, settled, most=share),
            "rows in one forward pass, by the memory that a pass was seen to keep; a larger step is cut",
        )
        stream.plan = plan
    if plan.phi.phi_dropout_schedule and not plan.dropout:
        run.log(
            "phi_dropout_schedule starts from a dropout of 0, so it changes nothing: model.dropout=0.1 or base_dropout=0.1 gives it one"
        )
    if plan.phi.phi_weight_decay_schedule and not config.weight_decay:
        run.log("phi_weight_decay_schedule starts from a weight decay of 0, so it changes nothing")
    if settled.compiled and plan.schedules_dropout:
        run.log("each new dropout is compiled anew: a dropout schedule and compile=true make a slow run")
    focus_phases(plan, stream, model, run, seed=config.seed)
    total = plan.steps
    every = {
        "eval_steps": config.eval_steps or max(1, total // 10),
        "save_steps": config.save_steps or max(1, total // 10),
        "logging_steps": config.logging_steps or max(1, total // 100),
    }
    run.log(_words(config, plan, stream, length, settled) + ", ".join(f"{name} {value}" for name, value in every.items()))
    # A seventh of what is trained on in between costs some 5 % of the time (forward only).
    between = min(every["eval_steps"], total) * plan.rows * length // total
    eval_tokens = config.eval_tokens or min(65_536, max(8_192, between // 7))
    return Course(settled=settled, timetable=plan, every=every, eval_tokens=eval_tokens, micro_rows=limit)


def _timetable(config: TrainConfig, model: nn.Module, stream: TrainStream, length: int, settled: Settled) -> Timetable:
    """The plan of a run as long as the config asks: max_steps are optimizer steps, all else is rows."""
    base, rows, steps = stream.rows_per_step, None, None
    if config.max_steps is not None:
        steps = config.max_steps
    elif settled.base_steps is not None:
        rows = settled.base_steps * base
    elif config.max_tokens is not None:
        rows = max(1, config.max_tokens // length)
    elif config.phi.applies:
        rows = max(1, round((config.num_train_epochs or 1.0) * stream.n))
    else:
        steps = max(1, round((config.num_train_epochs or 1.0) * stream.n / base))
    return timetable_of(config, base_batch=base, dropout=Dropouts(model).own if config.phi.applies else 0.0, rows=rows, steps=steps)


def _words(config: TrainConfig, plan: Timetable, stream: TrainStream, length: int, settled: Settled) -> str:
    """How the run will go, for the log."""
    sizes = list(dict.fromkeys(segment.batch for segment in plan.segments))
    tokens = " then ".join(f"{size * length:,}" for size in sizes)
    warmup = warmup_of(config, plan.base_batches(plan.steps))
    return (
        f"{plan.steps:,} steps of {tokens} tokens = {plan.rows * length:,} tokens ({plan.rows / stream.n:.3g} passes);"
        f" {config.lr_scheduler_type} from {config.learning_rate:g} after {warmup} steps of warm-up; {settled.precision},"
        f" {'compiled' if settled.compiled else 'not compiled'}, {settled.threads} thread{'s' if settled.threads > 1 else ''}; "
    )


def train_to_end(
    trainer: StreamTrainer,
    length: int,
    run: RunWriter,
    speak: Callable[[int], list[tuple[str, str]]],
    sample_steps: int | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train from the start or from the last checkpoint, to the end or until asked to stop (Interrupted)."""
    recovery = trainer.recovery
    if recovery is not None:
        recovery.resume(run)
    checkpoint = checkpoints.last(run.path / "checkpoints") if run.resuming else None
    step = (checkpoints.step_of(checkpoint) or 0) if checkpoint else 0
    for name in (METRICS, SAMPLES):
        run.truncate(name, step if checkpoint else -1)
    if checkpoint:
        run.log(f"going on from step {step:,}")
    if recovery is not None:
        recovery.say(run)
    memory = PeakMemory()
    seconds = max((line.get("seconds", 0.0) for line in read_jsonl(run.path / METRICS)), default=0.0)
    total = trainer.args.max_steps
    with graceful() as stop, console.progress("training", total) as bar:
        for callback in (
            StopWhenAsked(stop),
            RecordMetrics(run, trainer.stream, length, seconds),
            EarlyWords(run, speak, sample_steps, bar.print),
            ShowProgress(bar, trainer.stream, length),
            *callbacks,
        ):
            trainer.add_callback(callback)
        if step < total:
            train_guarded(trainer, recovery, checkpoint, run, [SAMPLES])
            total = trainer.args.max_steps
        elif checkpoint:
            trainer.load_finished(checkpoint)
    trainer.peak_memory_bytes = max(trainer.peak_memory_bytes, memory.read())
    if stop and trainer.state.global_step < total:
        raise Interrupted(
            f"{run.path}: stopped by {stop.asked} at step {trainer.state.global_step:,} of {total:,}; a checkpoint is saved",
            fix="the same command with --resume goes on from there",
        )


def costs(trainer: StreamTrainer, length: int) -> dict[str, Any]:
    """Final metrics of every training run: steps, tokens, and what they cost. length: tokens in a row.

    cpu_seconds: of all threads of this process, from the first step to the last, evaluations on the way included. peak_memory_bytes: of
    the process (on a GPU: of its tensors there) while it trained.
    """
    steps = trainer.state.global_step
    return {
        "steps": steps,
        "tokens": trainer.stream.rows_before(steps) * length,
        "cpu_seconds": round(trainer.cpu_seconds, 3),
        "peak_memory_bytes": trainer.peak_memory_bytes,
    }


def choose_weights(trainer: StreamTrainer, config: TrainConfig, run: RunWriter) -> int:
    """Load the checkpoint of least validation loss, where the config asks for it; the step that the model is now of."""
    best, chosen = trainer.best_checkpoint, trainer.state.global_step
    if config.load_best_model_at_end and best is not None and checkpoints.step_of(best) != chosen:
        chosen = checkpoints.step_of(best) or chosen
        trainer.load_weights(best)
        run.log(f"step {chosen:,} had the least validation loss and is kept (load_best_model_at_end)")
    return chosen
