"""What can be set about an evaluation. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config

EVALUATION = "evaluation.json"  # what an evaluation writes into its run folder


Borders = Literal["keep", "join"]


class ProtocolConfig(Config):
    """Perplexity over fixed windows whose context begins anew, as Thyme's origin measures it (evaluate/protocol.py)."""

    length: int = Field(default=128, ge=1, le=1 << 20, description="tokens that a window predicts; it reads one more")
    stride: int | None = Field(
        default=None, ge=1, description="tokens from window to window; none = half the length. Disjoint windows are measured beside it"
    )
    batch: int = Field(default=32, ge=1, description="windows whose mean loss is one number of the mean that perplexity is made of")
    borders: list[Borders] = Field(
        default=["keep"],
        min_length=1,
        description="keep: where a document begins, so does the context; join: text runs on over the border, without [bos] and [eos]",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="most tokens predicted at each stride: whole batches, spread evenly over the text; none = all"
    )
    trigram: bool = Field(default=True, description="measure a Witten-Bell trigram of the same tokens on the same windows")

    @field_validator("borders", mode="before")
    @classmethod
    def _one_or_both(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _stands(self) -> ProtocolConfig:
        if self.stride and self.stride > self.length:
            raise ValueError(f"stride {self.stride} is more than length {self.length}: tokens between would never be scored")
        if len(set(self.borders)) < len(self.borders):
            raise ValueError("borders names one of them twice")
        return self

    @property
    def strides(self) -> list[int]:
        """The one asked for, then that of disjoint windows."""
        return list(dict.fromkeys([self.stride or max(1, self.length // 2), self.length]))


class EvaluateConfig(Config):
    """`phiforge evaluate`: how a model does on text, beside simple methods that read the same training text."""

    split: Literal["validation", "train"] = Field(default="validation", description="which side of the data run is scored")
    context_length: int | None = Field(default=None, ge=2, description="tokens the model reads at once; none = all that it was built for")
    stride: int | None = Field(
        default=None, ge=1, description="tokens scored in each later window; none = half the window, so that each has context"
    )
    eval_batch_size: int | None = Field(default=None, ge=1, description="windows in one forward pass; none = about 2,048 tokens' worth")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the model's body; head and loss are always fp32")
    max_tokens: int | None = Field(default=None, ge=1, description="most tokens scored, spread evenly over the text; none = all")
    baselines: bool = Field(default=True, description="also score the n-gram model and xz")
    ngram_order: int = Field(default=5, ge=1, le=8, description="bytes in a gram of the baseline, the predicted one included")
    baseline_bytes: int = Field(default=20_000_000, ge=1_000, description="most bytes of training text that the n-gram models read")
    protocol: ProtocolConfig | None = Field(
        default=None,
        description="also measure perplexity over fixed windows, overlapping and disjoint, beside a trigram of tokens",
    )


def scores_of(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rows of an evaluation.json: who, bits per byte, its standard error, and about."""
    entries = [{"label": "this model", "about": "", **evaluation["model"]}, *evaluation["baselines"]]
    rows = []
    for entry in entries:
        score, error = entry["bits_per_byte"]["value"], entry["bits_per_byte"]["standard_error"]
        rows.append((entry["label"], f"{score:.3f}", "" if error is None else f"{error:.3f}", entry["about"]))
    return rows
