"""PHITrainer: the one trainer. What it adds to transformers.Trainer is in adapter.py; here is what a run is about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerCallback

from phiforge.train.adapter import TrainerAdapter
from phiforge.train.batches import Batch, RowSource, TrainStream, evaluation_batches
from phiforge.train.forward import TrainingForward
from phiforge.train.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a model is evaluated on while it learns."""

    rows: RowSource
    bytes_per_token: float  # bytes of text per predicted token of the whole split: turns nats per token into bits per byte
    batch_size: int = 8
    most_tokens: int | None = None


class PHITrainer(TrainerAdapter):
    """transformers.Trainer, with seekable packed data, schedule and optimizer tables, exact resume, and the fast forward pass.

    model: a causal LM of transformers. args: TrainingArguments (adapter.training_arguments makes them from a config).
    stream: the training batches. schedule: steps -> multiplier of the base rate. validation: none = no evaluation.
    loss "stock" leaves the model's own forward in place: in fp32 and not compiled that is transformers.Trainer to the last bit.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        *,
        stream: TrainStream,
        schedule: Schedule,
        validation: Validation | None = None,
        optim: str = "adamw",
        precision: str = "fp32",
        loss: str = "stock",
        compiled: bool = False,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(model, args, stream=stream, schedule=schedule, optim=optim, callbacks=callbacks)
        self.validation = validation
        self.training_forward = TrainingForward(model, precision=precision, compiled=compiled) if loss == "fused" else None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; the fast forward pass is in place meanwhile."""
        if self.training_forward is None:
            return super().train(*args, **kwargs)
        self.training_forward.install()
        try:
            return super().train(*args, **kwargs)
        finally:
            self.training_forward.remove()

    def evaluation_batches(self) -> Iterable[Batch]:
        """The validation rows, at most `most_tokens` of them, this process's share."""
        if self.validation is None:
            return ()
        v = self.validation
        rank, world_size = self.args.process_index, self.args.world_size
        return evaluation_batches(v.rows, v.batch_size, most_tokens=v.most_tokens, rank=rank, world_size=world_size)

    def evaluation_metrics(self, nats: float, tokens: int) -> dict[str, float]:
        """Loss per token in nats, and bits per byte of text."""
        metrics = super().evaluation_metrics(nats, tokens)
        if self.validation is not None:
            metrics["eval_bits_per_byte"] = metrics["eval_loss"] / math.log(2) / self.validation.bytes_per_token
        return metrics
