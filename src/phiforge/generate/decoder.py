"""What the engine asks of a model: start a batch of prompts, step it one token, let finished rows go.

Implementations stand side by side, and tests hold them equal: `reference` (any causal model through its own `forward`), `stock`
(starcoder2 and llama with fused weights, plain torch), `recurrent` (constant-state models, plain torch) and `native` (either of these in C,
where the machine has a compiler).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from phiforge.generate.config import SamplingConfig


class Session(Protocol):
    """A batch under way. Rows are right-aligned: every row's newest token is at the same place."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to each row; the logits (B, V) of the next one. May be overwritten by the next step."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows (indices, in this order)."""
        ...


@runtime_checkable
class GoesAhead(Protocol):
    """A session that can take several greedy steps by itself."""

    def greedy(self, tokens: Tensor, steps: int) -> Tensor:
        """`steps` likeliest tokens (steps, B) after `tokens` (B,), the last of which is not read yet."""
        ...


class Decoder(Protocol):
    """A model made ready to generate."""

    name: str
    vocab_size: int
    context_length: int | None  # most tokens of one row, prompt included; None = unbounded
    ragged: bool  # whether prompts of unequal length can share a batch

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Session, Tensor]:
        """Read the prompts (none empty); `room` tokens a row may follow. Returns the session and the logits (B, V) after each prompt."""
        ...

    def choose(self, logits: Tensor, config: SamplingConfig, uniforms: Tensor | None, seen: Tensor | None) -> Tensor:
        """One token (B,) a row, as `sampling.sample` would."""
        ...

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        ...


def pad_left(prompts: Sequence[Sequence[int]], fill: int = 0) -> tuple[list[list[int]], list[int]]:
    """Prompts as equally long rows, `fill` before the shorter ones, and how many of it each row got."""
    longest = max(len(prompt) for prompt in prompts)
    pads = [longest - len(prompt) for prompt in prompts]
    return [[fill] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)], pads
