"""What can be set about the synthetic memory tasks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from phiforge.core.config import Config
from phiforge.models.sizes import DecoderSpec
from phiforge.models.thyme.spec import ThymeSpec

Kind = Literal["recall", "copy"]
# What is left out of a spec that is given in part; a `size` stands for all of it.
_MODEL: dict[str, Any] = {"width": 64, "depth": 1, "read_state": False, "dropout": 0.0, "initializer_range": 0.1}
_ATTENTION: dict[str, Any] = {"family": "llama", "width": 64, "depth": 2, "heads": 2}


class RecallConfig(Config):
    """`recall`: constant-state models and an attention decoder of the same size learn to recall pairs and to copy, on the same rows."""

    tasks: list[Kind] = Field(default=["recall", "copy"], min_length=1, description="recall = values of keys; copy = a string again")
    sizes: list[int] = Field(default=[2, 4, 8, 16, 32, 64, 128], min_length=1, description="pairs, or symbols, in a row; ascending")
    keys: int = Field(default=128, ge=2, le=65_536, description="different keys; at least as many as the largest size")
    values: int = Field(default=64, ge=2, le=65_536, description="different values, which are the symbols of copying too")
    model: ThymeSpec = Field(
        default=ThymeSpec(**_MODEL),
        description="the constant-state model; token_shift is what binds the two tokens of a pair",
    )
    literal: bool = Field(default=False, description="a further arm: the first design (form: literal) at its own size")
    attention: DecoderSpec = Field(
        default=DecoderSpec(**_ATTENTION),
        description="the attention decoder; mlp_width is set so that it has as many parameters as the model",
    )
    seeds: int = Field(default=3, ge=1, le=100, description="models of each kind, each with its own weights and rows")
    seed: int = Field(default=0, ge=0, lt=2**32, description="the first seed")
    max_steps: int | None = Field(default=None, ge=1, le=10**7, description="steps of each model; none = 900, where no seconds are given")
    train_seconds: float | None = Field(
        default=None, gt=0, le=1e6, description="CPU seconds of all models together, at equal steps; a speed probe turns it into steps"
    )
    equal_seconds: bool = Field(
        default=True, description="the quicker kind then goes on until it has had the slower one's CPU seconds, and is tested again"
    )
    tokens_per_step: int = Field(default=2048, ge=16, le=1 << 24, description="tokens in a step's rows, about")
    curriculum: float = Field(
        default=0.4, ge=0, le=1, description="share of the steps over which the largest size rises from first to last"
    )
    learning_rate: float = Field(
        default=5e-3, gt=0, le=1, description="rate of AdamW; constant after the warm-up, so that going on is fair"
    )
    attention_learning_rate: float | None = Field(default=None, gt=0, le=1, description="the attention decoder's; none = learning_rate")
    warmup_steps: int = Field(default=50, ge=0, description="steps in which the rate rises")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled, of matrices")
    adam_beta2: float = Field(default=0.98, ge=0, lt=1, description="decay of the mean of squared gradients")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")
    test_answers: int = Field(default=1024, ge=1, description="answers of each task and size that a model is tested on, at least")
    threshold: float = Field(default=0.9, gt=0, le=1, description="accuracy from which a size counts as held")

    @field_validator("model", "attention", mode="before")
    @classmethod
    def _with_the_rest(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, Mapping) and not value.get("size") and value.get("form") != "literal":
            return {**(_MODEL if info.field_name == "model" else _ATTENTION), **value}
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if sorted(set(self.sizes)) != self.sizes or self.sizes[0] < 1:
            raise ValueError(f"sizes {self.sizes} must ascend from at least 1")
        if "recall" in self.tasks and self.sizes[-1] > self.keys:
            raise ValueError(f"sizes up to {self.sizes[-1]} need as many keys, and there are {self.keys}")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks {self.tasks} names one twice")
        if self.max_steps is not None and self.train_seconds is not None:
            raise ValueError("max_steps and train_seconds each say how long to train; keep one")
        if self.model.form == "literal":
            raise ValueError("the model's form is literal; leave it outer and set literal=true for a further arm")
        return self
