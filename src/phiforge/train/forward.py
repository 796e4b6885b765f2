"""The forward pass that training runs: the model's own layers, in the chosen precision, ended by the chunked loss.

It takes the place of `model.forward` while it is installed, so that everything around it (Trainer, DDP, accumulation) stays as it is.
Weights stay float32 parameters. In bf16 each is cast once per forward pass and the cast's gradient comes back to the float32 parameter, so
activations, residual stream and matrix products are bf16 while masters, accumulated gradients and optimizer are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phiforge.train.losses import chunked_loss


class TrainingForward:
    """Callable as `model(input_ids, shift_labels, position_ids, num_items_in_batch)` -> {"loss": scalar}.

    model: a causal LM of transformers with `.model` (the layers) and an output embedding. Without
    `shift_labels` the model's own forward runs.
    """

    def __init__(self, model: Any, *, precision: str, compiled: bool = False) -> None:
        self.model, self.precision = model, precision
        self.original = model.forward
        self._loss = torch.compile(self.loss, dynamic=False) if compiled else self.loss

    def install(self) -> None:
        """Put this in the place of the model's forward."""
        self.model.forward = self

    def remove(self) -> None:
        """Give the model its own forward back."""
        if self.model.__dict__.get("forward") is self:
            del self.model.__dict__["forward"]

    def __call__(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        if input_ids is None or "shift_labels" not in inputs:
            return self.original(input_ids=input_ids, **inputs)
        labels, items = inputs["shift_labels"], inputs.get("num_items_in_batch")
        if items is None:
            items = (labels != -100).sum().clamp(min=1)
        return {"loss": self._loss(input_ids, inputs.get("position_ids"), labels, items)}

    def loss(self, input_ids: Tensor, position_ids: Tensor | None, labels: Tensor, items: Tensor | float) -> Tensor:
        """Summed loss of a batch divided by `items`. input_ids, position_ids, labels (B, T)."""
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if self.precision == "bf16":
            cast = {name: p.to(torch.bfloat16) for name, p in self.model.named_parameters()}
            layers = {name.removeprefix("model."): p for name, p in cast.items() if name.startswith("model.")}
            hidden = torch.func.functional_call(self.model.model, layers, (), inputs).last_hidden_state
            head = cast.get("lm_head.weight", cast["model.embed_tokens.weight"])
        else:
            hidden = self.model.model(**inputs).last_hidden_state
            head = self.model.get_output_embeddings().weight
        return chunked_loss(hidden.flatten(0, 1), head, labels.flatten(), items)


def supports(model: nn.Module) -> bool:
    """Whether the fast forward pass knows the model's layout."""
    return getattr(getattr(model, "config", None), "model_type", None) in ("starcoder2", "llama")
