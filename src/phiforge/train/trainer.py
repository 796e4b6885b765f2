"""StreamTrainer: the one trainer. What it adds to transformers.Trainer is in adapter.py; here is what a run is about."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers.trainer_callback import TrainerCallback

from phiforge.evaluate.bits_per_byte import PackedText, Precision, TextScores, score_text
from phiforge.train.adapter import TrainerAdapter
from phiforge.train.batches import TrainStream
from phiforge.train.forward import forward_for
from phiforge.train.recovery import Recovery
from phiforge.train.schedules import Schedule
from phiforge.train.watchdog import Watched


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a model is evaluated on while it learns: windows of `context_length`, each token once, at most `limit_tokens` of them."""

    packed: PackedText
    token_bytes: np.ndarray  # (V,) UTF-8 bytes that each token spells
    context_length: int
    limit_tokens: int | None = None
    precision: Precision = "fp32"

    def score(self, model: nn.Module) -> TextScores:
        """The model's scores now."""
        return score_text(
            model,
            self.packed,
            token_bytes=self.token_bytes,
            context_length=self.context_length,
            stride=self.context_length,
            limit_tokens=self.limit_tokens,
            precision=self.precision,
        )


class StreamTrainer(Watched, TrainerAdapter):
    """transformers.Trainer, with seekable packed data, schedule and optimizer tables, exact resume, and the fast forward pass.

    model: a causal LM of transformers. args: TrainingArguments (adapter.training_arguments makes them from a config).
    stream: the training batches. schedule: steps -> multiplier of the base rate. validation: none = no evaluation.
    micro_rows: most rows in a forward pass, where the batch varies. keep_best: checkpoint whenever the validation loss is the least so far.
    in_force: step -> values to log beside its loss. recovery: what to do when the watchdog barks; none = no watchdog.
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
        muon_learning_rate: float | None = None,
        precision: str = "fp32",
        loss: str = "stock",
        compiled: bool = False,
        micro_rows: int | None = None,
        keep_best: bool = True,
        in_force: Callable[[int], dict[str, float]] | None = None,
        recovery: Recovery | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model,
            args,
            stream=stream,
            schedule=schedule,
            optim=optim,
            muon_learning_rate=muon_learning_rate,
            micro_rows=micro_rows,
            keep_best=keep_best,
            in_force=in_force,
            callbacks=callbacks,
        )
        self.recovery = recovery
        if recovery is not None:
            recovery.attach(self)
        self.validation = validation
        self.training_forward = forward_for(model, precision=precision, compiled=compiled) if loss == "fused" else None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers'; the fast forward pass is in place meanwhile."""
        if self.training_forward is None:
            return super().train(*args, **kwargs)
        self.training_forward.install()
        try:
            return super().train(*args, **kwargs)
        finally:
            self.training_forward.remove()

    def evaluation_metrics(self) -> dict[str, float]:
        """Loss per text token in nats, and bits per byte of text, on the validation split (evaluate.bits_per_byte says what is counted)."""
        if self.validation is None:
            return {}
        scores = self.validation.score(self.network)
        return {
            "eval_loss": math.log(scores.perplexity.value),
            "eval_bits_per_byte": scores.bits_per_byte.value,
            "eval_accuracy": scores.accuracy.value,
        }
