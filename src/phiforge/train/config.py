"""What a person can set about training. Imports no torch, so that `--help` and `schema` answer at once."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config, by_family
from phiforge.core.errors import ConfigError
from phiforge.golden.config import PhiConfig
from phiforge.models.sizes import DecoderSpec
from phiforge.models.thyme.spec import ThymeSpec
from phiforge.train.schedules import SCHEDULES, canonical

Reporter = Literal["none", "wandb", "trackio", "tensorboard"]
Optimizer = Literal["adamw", "muon", "adamw_torch", "adamw_torch_fused"]  # the rows of optim/build.py, which imports torch


class TrainConfig(Config):
    """What every training stage shares. Names are transformers' where it has one."""

    per_device_train_batch_size: int = Field(default=8, ge=1, le=1 << 20, description="rows in one forward pass, on each device")
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=1 << 20, description="forward passes in one optimizer step")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="peak learning rate")
    lr_scheduler_type: str = Field(default="cosine", description="shape of the learning rate: " + ", ".join(SCHEDULES))
    lr_min_ratio: float = Field(default=0.0, ge=0, le=1, description="where linear and cosine end, as a fraction of learning_rate")
    lr_decay_ratio: float = Field(default=0.2, gt=0, le=1, description="warmup_stable_decay: the fraction of the run that decays")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the rate rises from 0; 0 = take warmup_ratio")
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, description="the same as a fraction of the run, where warmup_steps is 0")
    warmup_type: Literal["linear", "phi", "phi_literal"] = Field(
        default="linear", description="shape of the warm-up: linear; phi = 1 - phi^(-s/w), scaled to reach the peak; phi_literal = unscaled"
    )
    match_mean_rate: str | None = Field(
        default=None, description="a schedule's name: rescale this run's rate so that its mean is that schedule's (a fair control)"
    )
    optim: Optimizer = Field(default="adamw", description="optimizer: adamw, or muon (Muon on hidden matrices, AdamW on the rest)")
    muon_learning_rate: float | None = Field(default=None, gt=0, le=10, description="peak rate of Muon's matrices; none = learning_rate")
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay of matrices; gains and biases have none")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients")
    adam_beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the mean of squared gradients")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")
    max_grad_norm: float = Field(default=1.0, ge=0, description="gradients are scaled down to this norm; 0 = never")
    max_steps: int | None = Field(default=None, ge=1, le=10**9, description="optimizer steps")
    num_train_epochs: float | None = Field(default=None, gt=0, le=1e6, description="passes over the data")
    max_tokens: int | None = Field(default=None, ge=1, description="tokens to train on, whatever the batch")
    train_seconds: float | None = Field(
        default=None, gt=0, le=1e8, description="a time budget (wall clock); a speed probe turns it into steps"
    )
    eval_steps: int | None = Field(default=None, ge=1, description="steps between evaluations; none = a tenth of the run")
    eval_tokens: int | None = Field(default=None, ge=1, description="most validation tokens read on the way; none = 8k to 64k by length")
    final_eval_tokens: int | None = Field(default=524_288, ge=1, description="most validation tokens read by the last one; null = all")
    save_steps: int | None = Field(default=None, ge=1, description="steps between checkpoints; none = a tenth of the run")
    save_total_limit: int | None = Field(
        default=3, ge=1, description="checkpoints kept; the best, the last and one resumed from always stay"
    )
    load_best_model_at_end: bool = Field(default=True, description="end with the weights of least validation loss, not the last ones")
    logging_steps: int | None = Field(default=None, ge=1, description="steps between lines of metrics.jsonl; none = a hundredth of the run")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of weights, order of data, and dropout")
    dropout_seed: int | None = Field(default=None, ge=0, lt=2**32, description="seed of dropout alone; none = seed")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of forward and backward; weights are kept in fp32; auto = a probe"
    )
    compile: Literal["auto"] | bool = Field(default="auto", description="torch.compile; auto = when the run is long enough to pay for it")
    loss: Literal["auto", "stock", "fused"] = Field(
        default="auto", description="fused = our forward pass, ended by head and loss in chunks; stock = transformers'"
    )
    threads: Literal["auto"] | int = Field(default="auto", description="CPU threads; auto = a probe")
    watchdog: Literal["auto"] | bool = Field(
        default="auto", description="go back to the last good checkpoint when the loss spikes or is NaN; auto = where anything golden is on"
    )
    phi: PhiConfig = Field(default=PhiConfig(), description="golden-ratio switches; all off unless set")
    report_to: list[Reporter] = Field(
        default=["none"], description="where metrics go besides the run folder: none, wandb, trackio, tensorboard"
    )

    @field_validator("lr_scheduler_type", "match_mean_rate")
    @classmethod
    def _known_schedule(cls, value: str | None) -> str | None:
        try:
            return None if value is None else canonical(value)
        except ConfigError as error:
            raise ValueError(error.what.removeprefix("lr_scheduler_type=")) from None

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("threads")
    @classmethod
    def _some_threads(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be auto or at least 1, not {value}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        lengths = {name: getattr(self, name) for name in ("max_steps", "max_tokens", "num_train_epochs", "train_seconds")}
        given = [f"{name}={value}" for name, value in lengths.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say how long to train; keep one and set the others to null")
        if self.warmup_steps and self.max_steps and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is not below max_steps={self.max_steps}; warm up for less, or train for longer"
            )
        if self.lr_min_ratio and not SCHEDULES[self.lr_scheduler_type].floor:
            raise ValueError(
                f"lr_min_ratio={self.lr_min_ratio} has no meaning for lr_scheduler_type={self.lr_scheduler_type}; leave one of them out"
            )
        if "none" in self.report_to and len(self.report_to) > 1:
            raise ValueError("report_to lists none beside others; leave none out")
        return self


class PretrainConfig(TrainConfig):
    """`phiforge pretrain`: a decoder from scratch, or on from an earlier one."""

    model: by_family(DecoderSpec, ThymeSpec) = Field(  # type: ignore[valid-type]
        default=DecoderSpec(), description="shape of the model; ignored (and said so) when a model run is given"
    )
    context_length: int | None = Field(default=None, ge=8, description="tokens in one training row; none = the model's context")
    row_stride: int | None = Field(default=None, ge=1, description="tokens from a training row to the next; none = context_length")
    row_offset: bool = Field(default=True, description="start each epoch's rows at a random token, so that their borders move")
    sample_prompts: list[str] = Field(
        default=[""], description="continued by the model as it learns; an empty text = from nothing; [] = none"
    )
    sample_tokens: int = Field(default=48, ge=1, description="tokens in each of those samples")
    sample_steps: int | None = Field(default=None, ge=1, description="steps between samples; none = with each evaluation")
