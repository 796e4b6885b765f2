"""PHITrainer: transformers.Trainer with the golden schedules applied; PHITrainerMixin: the same before any trainer built on it (TRL's too).

    trainer = PHITrainer(phi_config=PHITrainingConfig(), model=model, args=TrainingArguments(...), train_dataset=data)
    trainer.train()

What phi_config says replaces what args says of the same thing (learning rate, weight decay, rows in a step); phi_config=None is
transformers.Trainer to the last bit. args.per_device_train_batch_size is the most rows in one forward pass: a larger step is cut into
micro-batches, weighted by tokens (by rows where the loss is not one of tokens).

Insides of transformers.Trainer that are touched (written against 5.17 to 5.23), and why:
- get_train_dataloader, get_batch_samples, training_step: one item is a whole optimizer step, because Trainer's own accumulation counts
  forward passes that are all alike. floating_point_ops and _track_num_input_tokens look into such an item.
- set_initial_training_values: the run's length is the timetable's, one stretch of steps; borders of epochs are found by counting rows.
- create_scheduler: the rate is the timetable's.
- log, _save_checkpoint: what was in force stands beside a loss; the running loss between two lines goes into trainer_state.json.
train/adapter.py does the same for the stages, on their own stream, checkpoints and evaluation; here those stay Trainer's.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from phiforge.core.errors import ConfigError
from phiforge.golden.api import (
    PHIBatchScheduler,
    PHIDataSampler,
    PHILearningRateScheduler,
    PHIRegularizationScheduler,
    PHITrainingConfig,
)
from phiforge.golden.schedules import Schedule, schedule
from phiforge.golden.timetable import Timetable
from phiforge.train import checkpoints
from phiforge.train.batches import Order
from phiforge.train.difficulty import difficulties
from phiforge.train.phi_data import CollatedRows, DrawnPhase, StepBatch, StepRows, column_of, loader, require_length
from phiforge.train.phi_plan import forget_rollbacks, roll_back, rollbacks_until, stage_settings
from phiforge.train.regularization import Dropouts, Regularize
from phiforge.train.timetables import timetable_of, warmup_of
from phiforge.train.watchdog import Diverged, Guard, Rollback, Watched, standard_timetable

STATE = "PHITrainer"  # our entry among trainer_state.json's stateful_callbacks


class _Steps(TrainerCallback):
    """First in line: the true epoch, borders of epochs, and what a checkpoint remembers, at the moments Trainer allows."""

    def __init__(self, trainer: PHITrainerMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._restore(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plan, n = self.trainer.phi_timetable, self.trainer._rows
        before, after = plan.rows_before(state.global_step - 1), plan.rows_before(state.global_step)
        state.epoch = after / n
        if before // n < after // n and state.global_step < state.max_steps:  # the last one is Trainer's own
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= state.epoch
            control.should_save |= args.save_strategy == "epoch"


class PHITrainerMixin(Watched):
    """Golden schedules for any trainer built on transformers.Trainer: `class PHIDPOTrainer(PHITrainerMixin, DPOTrainer): ...`.

    phi_config: a PHITrainingConfig, by name or first; None = the trainer underneath, unchanged. watchdog: a run that diverges goes back to
    its last good checkpoint and on by the standard schedule (train/watchdog.py). Everything else goes to the trainer underneath.
    `phi_schedulers`: lr, batch, regularization, data. `phi_timetable`: what each optimizer step does; made when the trainer is.
    Raises ConfigError (a setting that can't be), DataError (an empty set, a difficulty that is no number).
    """

    phi_timetable: Timetable

    def __init__(self, phi_config: PHITrainingConfig | None = None, *args: Any, watchdog: bool = True, **kwargs: Any) -> None:
        if isinstance(phi_config, nn.Module):
            raise ConfigError("the first argument of PHITrainer is phi_config, not the model", fix="PHITrainer(phi_config=..., model=...)")
        self.phi_config, self._guarded = phi_config, watchdog
        self.phi_schedulers: dict[str, Any] = {}
        # Taken before the trainer underneath has it: TRL's drop columns that they don't know.
        kind = phi_config.phi().difficulty if phi_config is not None else ""
        given = kwargs.get("train_dataset")
        self._column = column_of(given, kind.removeprefix("column:")) if kind.startswith("column:") and given is not None else None
        super().__init__(*args, **kwargs)
        if phi_config is not None:
            self._install(phi_config)

    def _install(self, config: PHITrainingConfig) -> None:
        """Plan the run, and put the golden settings in the place of the arguments' own."""
        trainer: Any = self
        self._rows, self._capacity = require_length(trainer.train_dataset), trainer.args.train_batch_size
        arguments = copy.copy(trainer.args)  # the caller's own stay as they are
        self._settings = stage_settings(config, arguments)
        if config.base_batch_size < arguments.world_size:
            raise ConfigError(
                f"base_batch_size={config.base_batch_size} is below the {arguments.world_size} processes, each of which needs a row"
            )
        plan = timetable_of(
            self._settings,
            base_batch=config.base_batch_size,
            dropout=Dropouts(trainer.model).own,
            rows=None if arguments.max_steps > 0 else max(1, round(arguments.num_train_epochs * self._rows)),
            steps=arguments.max_steps if arguments.max_steps > 0 else None,
        )
        self._golden = plan
        arguments.learning_rate, arguments.weight_decay = config.base_learning_rate, config.base_weight_decay
        arguments.gradient_accumulation_steps = 1
        arguments.ignore_data_skip = True  # the loader seeks by itself
        trainer.args = arguments
        self._seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        self._order = Order(self._rows, self._seed)
        self._sampler = StepRows(
            self._order, lambda step: self.phi_timetable.rows_before(step), rank=arguments.process_index, world_size=arguments.world_size
        )
        self._regularize = Regularize(
            plan,
            dropout=plan.schedules_dropout,
            weight_decay=plan.schedules_weight_decay,
            everywhere=config.phi().base_dropout is not None,
        )
        self.phi_schedulers = {
            "lr": PHILearningRateScheduler(config),
            "batch": PHIBatchScheduler(config),
            "regularization": PHIRegularizationScheduler(config),
            "data": PHIDataSampler(config, seed=self._seed),
        }
        self._phases = self._drawn_phases()
        self._follow([])
        trainer.callback_handler.callbacks[:0] = [_Steps(self), self._regularize]
        if self._guarded:
            trainer.add_callback(Guard(self))

    def _follow(self, rollbacks: list[Rollback]) -> None:
        """Make the golden plan, or what rollbacks have left of it, the plan of the run."""
        plan, trainer = self._golden, self._trainer
        for rollback in rollbacks:
            plan = standard_timetable(plan, rollback.to, self._standard_rate, scale=rollback.scale)
        self._rollbacks, self.phi_timetable, self._regularize.timetable = rollbacks, plan, plan
        trainer.args.max_steps = plan.steps
        for scheduler in self.phi_schedulers.values():
            scheduler.bind(plan)
        self._order.focus = [] if rollbacks else self._phases

    def _standard_rate(self, total: float) -> Schedule:
        """The standard schedule: args.lr_scheduler_type where it is linear or cosine, else linear; the run's own warm-up."""
        name = str(getattr(self._trainer.args.lr_scheduler_type, "value", self._trainer.args.lr_scheduler_type))
        return schedule(name if name in ("linear", "cosine") else "linear", total, warmup=warmup_of(self._settings, total))

    @property
    def _trainer(self) -> Any:
        """This object as what it is beside the mixin."""
        return self

    # -- data ------------------------------------------------------------------------------------------------

    def _drawn_phases(self) -> list[DrawnPhase]:
        """The phases whose rows are drawn by difficulty. Raises now what would fail only when one begins."""
        plan = self._golden
        spans = [(number, first, rows) for number, (first, rows, focus) in enumerate(plan.phases(), 1) if focus == "exploitation"]
        if spans and plan.phi.difficulty.startswith("column:"):
            difficulties(plan.phi.difficulty, CollatedRows([], dict), self._rows, column=self._column)
        return [
            DrawnPhase(plan.phi, self._measure, phase=phase, first=first, rows=rows, n=self._rows, seed=self._seed)
            for phase, first, rows in spans
        ]

    def _measure(self) -> np.ndarray:
        """(rows of the data set,) difficulties, by the model as it is now."""
        data, collate = self._training_data()
        kind = self._golden.phi.difficulty
        found = difficulties(kind, CollatedRows(data, collate), self._rows, model=self._trainer.model, column=self._column)
        self.phi_schedulers["data"].difficulty = found
        return found

    def _training_data(self) -> tuple[Any, Any]:
        """The training set and the collator, with the columns left out that the model does not take."""
        trainer = self._trainer
        data, collate = trainer.train_dataset, trainer.data_collator
        if hasattr(data, "column_names") and hasattr(data, "remove_columns"):
            return trainer._remove_unused_columns(data, description="training"), collate
        return data, trainer._get_collator_with_removed_columns(collate, description="training")

    def get_train_dataloader(self) -> Any:
        """Whole optimizer steps of the timetable's sizes, from the step on that training begins at."""
        if self.phi_config is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        data, collate = self._training_data()
        args = self._trainer.args
        return loader(
            data, self._sampler, collate, self._capacity, workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory
        )

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """One stretch of the timetable's steps, and the rows that they really take."""
        found = super().set_initial_training_values(args, dataloader)  # type: ignore[misc]
        if self.phi_config is None:
            return found
        steps, rows = self.phi_timetable.steps, self.phi_timetable.rows
        return 1, steps, rows, rows, found[4], steps, steps

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The next step, and the label tokens of all its micro-batches."""
        if self.phi_config is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        samples = list(itertools.islice(epoch_iterator, num_batches))
        return samples, self._trainer._get_num_items_in_batch([micro for step in samples for micro in step.micro], device)

    # -- a step ----------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Loss and gradients of a step, a micro-batch at a time.

        A loss of tokens is divided by those of the whole step (num_items_in_batch). Any other is a mean over a micro-batch's rows, which
        Trainer divides by current_gradient_accumulation_steps: set to the step's rows over the micro-batch's, it weights by rows.
        """
        if not isinstance(inputs, StepBatch):
            return super().training_step(model, inputs, num_items_in_batch)
        trainer = self._trainer
        total = torch.zeros((), device=trainer.args.device)
        shares = inputs.shares(trainer.args.world_size, by_tokens=num_items_in_batch is None)
        for number, (micro, share) in enumerate(zip(inputs.micro, shares, strict=True)):
            last = number == len(inputs.micro) - 1
            trainer.current_gradient_accumulation_steps = 1 / share if share else math.inf
            with contextlib.nullcontext() if last else trainer.accelerator.no_sync(model):
                total += super().training_step(model, micro, num_items_in_batch)
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        """Of all micro-batches."""
        parts = inputs.micro if isinstance(inputs, StepBatch) else [inputs]
        return sum(super(PHITrainerMixin, self).floating_point_ops(part) for part in parts)  # type: ignore[misc]

    def _track_num_input_tokens(self, inputs: Any) -> None:
        for part in inputs.micro if isinstance(inputs, StepBatch) else [inputs]:
            super()._track_num_input_tokens(part)  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The timetable's rate, step by step."""
        if self.phi_config is None:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        trainer = self._trainer
        if trainer.lr_scheduler is None:
            optimizer = optimizer or trainer.optimizer
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.phi_timetable.rate_at(step))
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the trainer underneath; a line with a loss also says what was in force at its step."""
        if self.phi_config is not None and "loss" in logs:
            plan, step = self.phi_timetable, self._trainer.state.global_step - 1
            logs = logs | {"batch_size": plan.batch(step), "phase": plan.phase(step)}
            if plan.schedules_dropout:
                logs["dropout"] = plan.dropout_at(step)
            if plan.schedules_weight_decay:
                logs["weight_decay"] = plan.weight_decay_at(step)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    # -- checkpoints, and going back to one ------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        trainer = self._trainer
        if self.phi_config is not None:
            running = trainer._tr_loss if trainer.args.world_size == 1 else trainer.accelerator.reduce(trainer._tr_loss.clone(), "mean")
            trainer.state.stateful_callbacks[STATE] = {
                "running_loss": float(running),
                "total_loss": float(trainer._total_loss_scalar),
                "last_logged": trainer._globalstep_last_logged,
                "plan": self._plan_name(),
            }
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.phi_config is not None and trainer.args.should_save:
            for phase in self._phases:
                phase.save(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}")

    def _plan_name(self) -> str:
        """What two runs must share for one to go on from the other's checkpoint."""
        plan = self._golden
        return f"{plan.rows} of {self._rows} rows, {plan.steps} steps from a batch of {plan.base_batch}, seed {self._seed}, {plan.phi!r}"

    def _restore(self, state: Any) -> None:
        """What Trainer forgets between two log lines."""
        kept, trainer = state.stateful_callbacks.get(STATE), self._trainer
        state.num_train_epochs = math.ceil(self._golden.rows / self._rows)
        for rollback in self._rollbacks:
            if rollback.to == state.global_step and not any(line.get("rollback") == rollback.to_json() for line in state.log_history):
                state.log_history.append({"step": state.global_step, "epoch": state.epoch, "rollback": rollback.to_json()})
        if kept is None:
            return
        if kept["plan"] != self._plan_name():
            raise ConfigError(
                f"the checkpoint of step {state.global_step} was made by another plan ({kept['plan']})",
                fix="resume with the phi_config, arguments and data that it was made with",
            )
        trainer._tr_loss += kept["running_loss"]
        trainer._total_loss_scalar, trainer._globalstep_last_logged = kept["total_loss"], kept["last_logged"]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; with the watchdog on, a run that diverges goes back to its last good checkpoint and on from there.

        Raises PhiforgeError where it diverges again after two such rollbacks, or has no checkpoint to go back to.
        """
        if self.phi_config is None:
            return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]
        folder = Path(self._trainer.args.output_dir)
        checkpoint = get_last_checkpoint(str(folder)) if resume_from_checkpoint is True else resume_from_checkpoint
        if resume_from_checkpoint is True and checkpoint is None:
            raise ConfigError(f"{folder}: no checkpoint to resume from", fix="train() starts from the beginning")
        if not checkpoint:
            forget_rollbacks(folder)
        while True:
            self._start_from(Path(checkpoint) if checkpoint else None)
            try:
                return super().train(str(checkpoint) if checkpoint else None, *args, **kwargs)  # type: ignore[misc]
            except Diverged as diverged:
                checkpoint = roll_back(folder, diverged, self._rollbacks, leader=self._trainer.args.should_save)

    def _start_from(self, checkpoint: Path | None) -> None:
        self._sampler.start_step = (checkpoints.step_of(checkpoint) or 0) if checkpoint else 0
        self._follow(rollbacks_until(checkpoint))
        for phase in self._phases:
            phase.load(checkpoint)
            self.phi_schedulers["data"].difficulty = phase.difficulty


class PHITrainer(PHITrainerMixin, transformers.Trainer):
    """transformers.Trainer with golden schedules: from scratch, on a borrowed model, or on a LoRA model of peft."""
