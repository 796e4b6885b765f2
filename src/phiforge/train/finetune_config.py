"""What a person can set about fine-tuning. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config
from phiforge.train.config import TrainConfig

_EPOCHS = 3.0
_LENGTHS = ("max_steps", "max_tokens", "train_seconds", "num_train_epochs")


class LoraSettings(Config):
    """LoRA: small matrices are trained beside frozen weights and merged into them at the end. Names as peft's, less the prefix."""

    r: int = Field(default=16, ge=1, le=4096, description="rank of the trained matrices")
    alpha: float = Field(default=32, gt=0, description="what they add is scaled by alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of what goes into them; golden schedules reach it")
    target_modules: list[str] | None = Field(
        default=None, description="layers by the end of their names (q_proj, v_proj, ...); none = all linear ones but the head"
    )


class FinetuneConfig(TrainConfig):
    """`phiforge finetune`: teach a model to answer, from conversations."""

    data: list[str] = Field(
        min_length=1,
        description="files (.jsonl, .json, also .gz and .zst) of conversations, or folders of them: messages, or instruction/output",
    )
    chat_template: Literal["auto", "chatml"] = Field(
        default="auto",
        description="how a conversation is written; auto = the template of a borrowed tokenizer that has one, chatml for all others",
    )
    validation_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="distinct conversations held out to measure by; none of them is trained on; 0 = none"
    )
    context_length: int | None = Field(
        default=None,
        ge=8,
        description="tokens in one row; none = what the longest conversation needs, from 256 to 2048 and within the model's context",
    )
    per_device_train_batch_size: int = Field(
        default=4, ge=1, le=1 << 20, description="rows in one forward pass, on each device; a row holds several conversations"
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, le=10, description="peak learning rate; suits models of some 1M parameters, larger ones want less"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay of matrices; gains and biases have none")
    num_train_epochs: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description=f"passes over the conversations; {_EPOCHS:g} where neither max_steps, max_tokens nor train_seconds is given",
    )
    lora: LoraSettings | None = Field(default=None, description="train adapters of low rank instead of all weights; none = all weights")
    sample_questions: int = Field(default=3, ge=0, description="held-out questions that are answered as the model learns; 0 = none")
    sample_tokens: int = Field(default=64, ge=1, description="most tokens in an answer")
    sample_steps: int | None = Field(default=None, ge=1, description="steps between samples; none = with each evaluation")
    final_questions: int = Field(
        default=32, ge=0, description="held-out questions answered at the end, to see whether the model ends its turns"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _adapters_agree(self) -> Self:
        if self.lora is not None and self.loss == "fused":
            raise ValueError("loss=fused does not know LoRA's layers; leave loss out, or lora")
        return self

    @model_validator(mode="before")
    @classmethod
    def _some_length(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in _LENGTHS):
            return {**data, "num_train_epochs": _EPOCHS}
        return data
