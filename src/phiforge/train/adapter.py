"""The one place that touches the insides of transformers.Trainer (written against 5.17 to 5.23).

What is taken over, and why:
- get_train_dataloader: our stream seeks in O(1); Trainer's loader walks past every skipped batch.
- create_optimizer, create_scheduler: our tables; the same numbers where transformers has the same thing.
- _save_checkpoint, _save: written whole or not at all, without the pickled training_args.bin; retention that never drops the best one.
- the running loss between two log lines, which Trainer loses on resume: it goes into the checkpoint.
- state.epoch, which Trainer counts from the resumed step instead of from the start.
- evaluate: our own measure of a text (evaluate.bits_per_byte); no predictions are gathered.
- training_step, where the batch varies: Trainer's accumulation counts forward passes that are all alike; ours cuts one step's rows into as
  many as it needs. Where the batch does not vary, Trainer's own step runs.
- log: what was in force at the step (batch, dropout, weight decay, phase) stands beside its loss.
Everything else (the loop, DDP, FSDP, DeepSpeed, accumulation, callbacks) is Trainer's own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from phiforge.core.atomic import write_json
from phiforge.core.errors import ConfigError
from phiforge.core.hardware import device
from phiforge.data.packed import IGNORED
from phiforge.optim.build import OptimizerSettings, build
from phiforge.train import checkpoints
from phiforge.train.batches import TrainStream
from phiforge.train.config import TrainConfig
from phiforge.train.schedules import Schedule


def quiet() -> None:
    """Keep transformers' own bars and notices off the terminal; ours say what a person needs."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def training_arguments(
    config: TrainConfig,
    folder: Path,
    *,
    max_steps: int,
    eval_steps: int,
    save_steps: int,
    logging_steps: int,
    evaluates: bool = True,
    autocast: bool = False,
    torch_compile: bool = False,
    whole_steps: bool = False,
) -> Any:
    """TrainingArguments for a config whose lengths are settled.

    whole_steps: the stream gives all rows of a step at once, and nothing is left for Trainer to accumulate.
    autocast (bf16) and torch_compile are Trainer's own ways, for loss="stock"; the fast forward pass has its own and takes neither.
    """
    return transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=1 if whole_steps else config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        max_steps=max_steps,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=config.save_total_limit,
        logging_steps=logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False,
        report_to=list(config.report_to),
        run_name=folder.parent.name,
        seed=config.seed if config.dropout_seed is None else config.dropout_seed,  # of the global generators: dropout draws from no others
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,  # the stream seeks by itself; see TrainStream
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        log_level="error",
        bf16=autocast,
        torch_compile=torch_compile,
        use_cpu=device() == "cpu",
    )


def require_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError when a tracker that the config names is not installed."""
    for name in names:
        if name != "none" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"report_to={name}: the package {name} is not installed", fix=f"pip install 'phiforge[{name}]', or report_to=none"
            )


class _KeepEpoch(TrainerCallback):
    """Writes the true epoch into the state, and restores the running loss, at the moments Trainer allows."""

    def __init__(self, trainer: TrainerAdapter) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._restore_running_loss()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = self.trainer.stream.rows_before(state.global_step) / self.trainer.stream.n


class TrainerAdapter(transformers.Trainer):
    """transformers.Trainer with our data, schedules, optimizers, checkpoints and evaluation in place of its own."""

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        *,
        stream: TrainStream,
        schedule: Schedule,
        optim: str = "adamw",
        muon_learning_rate: float | None = None,
        micro_rows: int | None = None,
        keep_best: bool = True,
        in_force: Callable[[int], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.stream, self.schedule, self.optim_name = stream, schedule, optim
        self.muon_learning_rate = muon_learning_rate
        self.micro_rows, self.keep_best, self.in_force = micro_rows, keep_best, in_force
        self.cpu_seconds, self._cpu_began = 0.0, time.process_time()
        self.peak_memory_bytes = 0
        self.resumed_from: list[int] = []
        self._extra: dict[str, Any] = {}
        super().__init__(model=model, args=args, callbacks=callbacks, eval_dataset=[])  # not None: Trainer insists on one
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # First in line, so that every other callback sees the true epoch.
        self.callback_handler.callbacks.insert(0, _KeepEpoch(self))

    # -- data ------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return self.stream

    @property
    def network(self) -> Any:
        """The model, unwrapped."""
        return self.model

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Loss and gradients of one batch; of one whole step in as many forward passes as `micro_rows` asks for.

        Each pass is divided by the label tokens of the whole step (num_items_in_batch), so the sum is the loss of the unsplit batch.
        """
        rows = len(inputs["input_ids"])
        if self.stream.plan is None or self.micro_rows is None or rows <= self.micro_rows:
            return super().training_step(model, inputs, num_items_in_batch)
        passes = -(-rows // self.micro_rows)
        borders = [rows * place // passes for place in range(passes + 1)]
        total = torch.zeros((), device=self.args.device)
        for low, high in itertools.pairwise(borders):
            piece = {name: value[low:high] for name, value in inputs.items()}
            if num_items_in_batch is None:  # a model that takes no such number gives means, and Trainer divides them by this
                self.current_gradient_accumulation_steps = self._labels(inputs) / max(1, self._labels(piece))  # type: ignore[assignment]
            with contextlib.nullcontext() if high == rows else self.accelerator.no_sync(model):
                total += super().training_step(model, piece, num_items_in_batch)
        return total

    @staticmethod
    def _labels(batch: dict[str, Any]) -> int:
        return int((batch["shift_labels"] != IGNORED).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers'; a line with a loss also says what was in force at its step."""
        if self.in_force is not None and "loss" in logs:
            logs = logs | self.in_force(self.state.global_step - 1)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # Trainer's estimate walks all parameters at every step; ours is one product at the end (models.inspect)

    # -- optimizer -------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args = self.args
            settings = OptimizerSettings(
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                adam_beta1=args.adam_beta1,
                adam_beta2=args.adam_beta2,
                adam_epsilon=args.adam_epsilon,
                muon_learning_rate=self.muon_learning_rate,
            )
            self.optimizer = build(self.optim_name, model or self.network, settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            # Asked through self each time: a fallback may put another schedule in its place.
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.create_optimizer(), lambda step: self.schedule(step))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # -- checkpoints -----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return Path(str(self.args.output_dir))

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint of least validation loss, where there is one."""
        step = self.state.best_global_step
        return checkpoints.find(self.folder).get(step) if step and self.keep_best else None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better and self.keep_best:
            self.control.should_save = True  # a best that is not on disk is of no use
        return better

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        step = self.state.global_step
        with checkpoints.whole(self.folder / f"checkpoint-{step}") as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            running = self._nested_mean(self._tr_loss)
            if self.args.should_save:
                self.state.save_to_json(str(folder / checkpoints.STATE))
                extra = {
                    "running_loss": running,
                    "total_loss": self._total_loss_scalar,
                    "last_logged": self._globalstep_last_logged,
                    "resumed_from": self.resumed_from,
                    "cpu_seconds": self.cpu_seconds + time.process_time() - self._cpu_began,
                }
                write_json(folder / checkpoints.EXTRA, extra)
        if self.args.should_save:
            best = self.state.best_global_step if self.keep_best else None
            keep = {*self.resumed_from, *([best] if best else [])}
            checkpoints.rotate(self.folder, self.args.save_total_limit, keep)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            self.network.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _nested_mean(self, value: torch.Tensor) -> float:
        """Mean over processes as a float; exact for one process."""
        return float(self.accelerator.reduce(value.clone(), reduction="mean")) if self.args.world_size > 1 else float(value)

    def train_from(self, checkpoint: Path | None) -> Any:
        """Train to the end: from the start, or on from `checkpoint`, equal to never having stopped."""
        self._cpu_began = time.process_time()
        if checkpoint is not None:
            step = checkpoints.step_of(checkpoint) or 0
            self._extra = json.loads((checkpoint / checkpoints.EXTRA).read_text(encoding="utf-8"))
            self.resumed_from = sorted({*self._extra["resumed_from"], step})
            self.cpu_seconds = self._extra.get("cpu_seconds", 0.0)
            self.stream.start_step = step
        try:
            return self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.cpu_seconds += time.process_time() - self._cpu_began

    def load_finished(self, checkpoint: Path) -> None:
        """Take over state and weights of the checkpoint of the last step: the run was killed after it, before its model was written."""
        self.state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
        self.cpu_seconds = json.loads((checkpoint / checkpoints.EXTRA).read_text(encoding="utf-8")).get("cpu_seconds", 0.0)
        self.load_weights(checkpoint)

    def load_weights(self, checkpoint: Path) -> None:
        """The weights of a checkpoint, into the model."""
        self._load_from_checkpoint(str(checkpoint))

    def _restore_running_loss(self) -> None:
        if self._extra:
            self._tr_loss += self._extra["running_loss"]
            self._total_loss_scalar = self._extra["total_loss"]
            self._globalstep_last_logged = self._extra["last_logged"]

    # -- evaluation ------------------------------------------------------------------------------------------

    def evaluation_metrics(self) -> dict[str, float]:
        """`eval_loss` and what else is measured; the same on every process. Overridden by the trainer."""
        raise NotImplementedError

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Measure, log, tell the callbacks. Consumes no randomness, so that evaluating more often changes nothing."""
        metrics = self.evaluation_metrics()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
