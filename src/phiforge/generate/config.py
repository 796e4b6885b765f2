"""How the next token is chosen and when to stop: settings by transformers' names. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from phiforge.core.config import Config


class SamplingConfig(Config):
    """Settings of one generation; the defaults are those of the Modelfile that an export writes."""

    max_new_tokens: int = Field(default=128, ge=1, description="most tokens to make for one prompt")
    temperature: float = Field(default=0.7, ge=0, description="logits are divided by it; 0 takes the most likely token (greedy)")
    top_k: int = Field(default=40, ge=0, description="only the k most likely tokens; 0 = all")
    top_p: float = Field(
        default=0.9, gt=0, le=1, description="the smallest set of most likely tokens whose probabilities reach this sum; 1 = all"
    )
    min_p: float = Field(default=0.0, ge=0, le=1, description="only tokens at least this fraction as likely as the likeliest; 0 = all")
    repetition_penalty: float = Field(
        default=1.1, gt=0, description="tokens already seen: positive logits divided, negative ones multiplied by it; 1 = off"
    )
    seed: int | None = Field(default=0, ge=0, description="row i draws from its own stream, seed + i; none = new randomness at every call")
    stop: tuple[str, ...] = Field(default=(), description="texts that end a completion; they are not part of its text")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, so that no randomness is used."""
        return self.temperature == 0


GREEDY = SamplingConfig(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
