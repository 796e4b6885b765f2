"""What can be set about an evaluation. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from phiforge.core.config import Config

EVALUATION = "evaluation.json"  # what an evaluation writes into its run folder


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
    baseline_bytes: int = Field(default=20_000_000, ge=1_000, description="most bytes of training text that the n-gram model reads")


def scores_of(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rows of an evaluation.json: who, bits per byte, its standard error, and about."""
    entries = [{"label": "this model", "about": "", **evaluation["model"]}, *evaluation["baselines"]]
    rows = []
    for entry in entries:
        score, error = entry["bits_per_byte"]["value"], entry["bits_per_byte"]["standard_error"]
        rows.append((entry["label"], f"{score:.3f}", "" if error is None else f"{error:.3f}", entry["about"]))
    return rows
