"""Any causal model through its own `forward` and its own cache: the slow path, and the reference that the fast ones are held to."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phiforge.generate.decoder import pad_left
from phiforge.generate.sampling import sample


class ReferenceDecoder:
    """Generation through `model(input_ids=..., past_key_values=..., use_cache=True)`; without a cache the whole row is read again each
    step.

    A model whose forward takes no attention_mask can't have padded rows: prompts of unequal length then go through one length at a time.
    """

    name = "reference"
    choose = staticmethod(sample)

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        config: Any = model.config
        self.vocab_size = int(config.vocab_size)
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.accepts = set(inspect.signature(model.forward).parameters)
        self.ragged = {"attention_mask", "position_ids"} <= self.accepts
        self.device = next(model.parameters()).device

    def refresh(self) -> None:
        """Nothing to do: the model's own weights are used."""

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[ReferenceSession, Tensor]:
        """See `Decoder.start`; the cache grows by itself, so `room` is not needed."""
        rows, pads = pad_left(prompts)
        session = ReferenceSession(self, torch.tensor(pads, device=self.device))
        return session, session.read(torch.tensor(rows, device=self.device))


class ReferenceSession:
    """A batch through the model's forward."""

    def __init__(self, decoder: ReferenceDecoder, pads: Tensor) -> None:
        self.decoder = decoder
        self.pads = pads  # (B,) unused places before each row
        self.ids = torch.empty(len(pads), 0, dtype=torch.long, device=pads.device)  # (B, T) everything read so far
        self.cache: Any = None

    def step(self, tokens: Tensor) -> Tensor:
        return self.read(tokens[:, None])

    def read(self, ids: Tensor) -> Tensor:
        """Append ids (B, N); the logits (B, V) after the last."""
        before = self.ids.shape[1]
        self.ids = torch.cat([self.ids, ids], dim=1)
        if self.cache is None:
            before, ids = 0, self.ids
        accepts = self.decoder.accepts
        inputs: dict[str, Any] = {"input_ids": ids}
        if self.decoder.ragged:
            places = torch.arange(self.ids.shape[1], device=ids.device)[None]  # (1, T)
            inputs["attention_mask"] = (places >= self.pads[:, None]).long()
            inputs["position_ids"] = (places - self.pads[:, None]).clamp_min(0)[:, before:]
        if "past_key_values" in accepts:
            inputs |= {"past_key_values": self.cache, "use_cache": True}
        if "logits_to_keep" in accepts:
            inputs["logits_to_keep"] = 1
        output = self.decoder.model(**inputs)
        self.cache = getattr(output, "past_key_values", None)
        return output.logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        self.pads, self.ids = self.pads[rows], self.ids[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)
