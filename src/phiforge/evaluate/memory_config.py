"""What can be set about the evaluation of a trained model's memory. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from phiforge.core.config import Config

MEMORY = "memory.json"  # what the evaluation writes into its run folder
RECALL = "recall.json"  # what the stage `recall` writes: the trained, synthetic part


class MemoryConfig(Config):
    """`memory`: bits per byte by place in the text, and needles, of one model and perhaps a reference beside it."""

    positions: bool = Field(default=True, description="bits per byte by place in the text")
    position_length: int = Field(default=100_000, ge=32, le=10_000_000, description="tokens of each document that are read, at most")
    position_documents: int = Field(default=8, ge=1, le=10_000, description="documents read, the longest first")
    forget: int = Field(default=1024, ge=2, description="tokens after which the second reading empties the state, as a control")
    needles: bool = Field(default=True, description="made facts in real text, asked for later")
    needle_instances: int = Field(default=32, ge=4, le=10_000, description="facts hidden; the farthest distances may get fewer")
    needle_distance: int = Field(default=65_536, ge=16, le=10_000_000, description="farthest distance between fact and question, in tokens")
    needle_budget: int = Field(
        default=200_000, ge=1_000, description="most tokens read to get from one distance to the next; fewer facts where they don't suffice"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the made facts and of where they are put")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.positions and not self.needles:
            raise ValueError("positions and needles are both off: nothing would be measured; leave one on")
        return self
