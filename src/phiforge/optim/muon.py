"""Muon on hidden matrices, AdamW on everything else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) steps along the orthogonalised momentum of each matrix: X = G / ||G||_F, then
five times X <- aX + (bA + cA^2)X with A = XX^T. Matrices of one shape are stacked, so that a step is a few batched products; they run in
bf16 where the machine has it. Embeddings, head, biases and gains go to AdamW: their rows are looked up or added, not multiplied.

The update is scaled by 0.2 sqrt(max(rows, cols)), so that its root mean square is that of AdamW, and AdamW's rate and weight decay carry
over (Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phiforge.core.hardware import has_bf16
from phiforge.optim.groups import decay_groups

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalize(stack: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest half-orthogonal matrix of each in a stack, roughly: singular values end between about 0.7 and 1.2.

    stack (N, rows, cols) -> the same shape and dtype, computed in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = stack.to(dtype)
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(stack.dtype)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: a matrix inside the layers, not the embedding or the head."""
    return parameter.ndim == 2 and "embed" not in name and not name.startswith("lm_head")


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups marked `muon` step by Muon instead. State and state_dict are those of one optimizer."""

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__([{"muon": False, "momentum": momentum, **group} for group in groups], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every group."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["muon"]:
                self._muon(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault((parameter.shape, parameter.device), []).append(parameter)
        for (shape, device), parameters in by_shape.items():
            momenta = [self._momentum(parameter) for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
            dtype = torch.bfloat16 if has_bf16(device.type) else torch.float32
            update = orthogonalize(torch.stack(ahead), dtype=dtype)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for one in every state that it loads
        return state["momentum_buffer"]


def muon_groups(model: nn.Module, weight_decay: float, muon_rate: float | None) -> list[dict[str, Any]]:
    """AdamW's two groups, then hidden matrices for Muon at `muon_rate` (or the common rate)."""
    hidden = [p for name, p in model.named_parameters() if p.requires_grad and is_hidden_matrix(name, p)]
    taken = {id(parameter) for parameter in hidden}
    rate = {} if muon_rate is None else {"lr": muon_rate}
    muon = {"params": hidden, "weight_decay": weight_decay, "muon": True, **rate}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in decay_groups(model, weight_decay)]
    return [group for group in [*rest, muon] if group["params"]]
