"""The one place that touches the insides of transformers.Trainer (written against 5.17 to 5.23).

What is taken over, and why:
- get_train_dataloader: our stream seeks in O(1); Trainer's loader walks past every skipped batch.
- create_optimizer, create_scheduler: our tables; the same numbers where transformers has the same thing.
- _save_checkpoint, _save: written whole or not at all, without the pickled training_args.bin; retention that never drops the best one.
- the running loss between two log lines, which Trainer loses on resume: it goes into the checkpoint.
- state.epoch, which Trainer counts from the resumed step instead of from the start.
- evaluate: our own measure of a text (evaluate.bits_per_byte); no predictions are gathered.
Everything else (the loop, DDP, FSDP, DeepSpeed, accumulation, callbacks) is Trainer's own.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from phiforge.core.atomic import write_json
from phiforge.core.errors import ConfigError
from phiforge.core.hardware import device
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
) -> Any:
    """TrainingArguments for a config whose lengths are settled.

    autocast (bf16) and torch_compile are Trainer's own ways, for loss="stock"; the fast forward pass has its own and takes neither.
    """
    return transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
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
        seed=config.seed,
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
        state.epoch = state.global_step * self.trainer.stream.rows_per_step / self.trainer.stream.n


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
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.stream, self.schedule, self.optim_name = stream, schedule, optim
        self.muon_learning_rate = muon_learning_rate
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
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.create_optimizer(), self.schedule)
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
        return checkpoints.find(self.folder).get(step) if step else None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better:
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
                }
                write_json(folder / checkpoints.EXTRA, extra)
        if self.args.should_save:
            keep = {*self.resumed_from, *([self.state.best_global_step] if self.state.best_global_step else [])}
            checkpoints.rotate(self.folder, self.args.save_total_limit, keep)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            self.network.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _nested_mean(self, value: torch.Tensor) -> float:
        """Mean over processes as a float; exact for one process."""
        return float(self.accelerator.reduce(value.clone(), reduction="mean")) if self.args.world_size > 1 else float(value)

    def train_from(self, checkpoint: Path | None) -> Any:
        """Train to the end: from the start, or on from `checkpoint`, equal to never having stopped."""
        if checkpoint is None:
            return self.train()
        step = checkpoints.step_of(checkpoint) or 0
        self._extra = json.loads((checkpoint / checkpoints.EXTRA).read_text(encoding="utf-8"))
        self.resumed_from = sorted({*self._extra["resumed_from"], step})
        self.stream.start_step = step
        return self.train(resume_from_checkpoint=str(checkpoint))

    def load_finished(self, checkpoint: Path) -> None:
        """Take over state and weights of the checkpoint of the last step: the run was killed after it, before its model was written."""
        self.state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
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
