"""The forward pass that trains a Thyme model: layers in bf16 or fp32, the chunked loss at the end, the axioms' own loss where asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phiforge.core.runs import RunWriter
from phiforge.data.tokenizer import Tokenizer
from phiforge.models.thyme.modeling import ThymeForCausalLM
from phiforge.train.losses import chunked_loss, reference_loss

VALUES, MASK = "axiom_values", "axiom_mask"  # buffers (V, 12) of a model that is taught its axioms


class ThymeForward:
    """Callable as `model(input_ids, shift_labels, position_ids, num_items_in_batch)` -> {"loss": scalar}, as TrainingForward is."""

    def __init__(self, model: Any, *, precision: str, compiled: bool = False) -> None:
        self.model, self.precision, self.compiled = model, precision, compiled
        self.original = model.forward

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
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.model.hidden(input_ids, inputs.get("position_ids"))
            taught = self._axiom_loss(input_ids)
        loss = self._loss(hidden.flatten(0, 1), labels.flatten(), items)
        return {"loss": loss if taught is None else loss + taught * (labels.numel() / float(items))}

    def _loss(self, hidden: Tensor, labels: Tensor, items: Tensor | float) -> Tensor:
        head = self.model.lm_head
        weight = head.weight
        if head.bias is not None:  # one more input that is always 1
            weight = torch.cat([weight, head.bias[:, None]], 1)
            hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return (reference_loss if self.compiled else chunked_loss)(hidden.to(dtype), weight.to(dtype), labels, items)

    def _axiom_loss(self, input_ids: Tensor) -> Tensor | None:
        """Mean squared distance of the axiom units from the lexicon, over the batch's tokens that it knows, times the weight."""
        values = getattr(self.model, VALUES, None)
        if values is None:
            return None
        from phiforge.models.thyme.axioms import auxiliary_loss

        units = self.model.axiom_activations(input_ids).float()
        return self.model.config.axiom_weight * auxiliary_loss(units, input_ids, values, getattr(self.model, MASK))


def is_thyme(model: nn.Module) -> bool:
    """Whether it is one of ours, bare: adapters add what this pass would leave out."""
    return isinstance(model, ThymeForCausalLM) and not getattr(model, "peft_config", None)


def teach_axioms(model: nn.Module, tokenizer: Tokenizer, run: RunWriter) -> None:
    """Give a Thyme model whose axioms have a weight the lexicon's labels of its tokens."""
    if not (isinstance(model, ThymeForCausalLM) and model.config.axiom_weight):
        return
    from phiforge.models.thyme.axioms import token_labels

    values, mask = token_labels(tokenizer)[:2]
    spare = model.config.vocab_size - len(values)
    model.register_buffer(VALUES, nn.functional.pad(torch.as_tensor(values), (0, 0, 0, spare)), persistent=False)
    model.register_buffer(MASK, nn.functional.pad(torch.as_tensor(mask), (0, 0, 0, spare)), persistent=False)
    run.log(f"axioms: {int(torch.as_tensor(mask).any(1).sum()):,} of {len(values):,} tokens are in the lexicon")
