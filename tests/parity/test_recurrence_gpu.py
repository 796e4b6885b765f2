"""The Triton form of the scan = the loop, forward and gradient, on a CUDA device. Without one:

TRITON_INTERPRET=1 pytest tests/parity/test_recurrence_gpu.py      # needs the package triton
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from phiforge.nn.recurrence import scan


@pytest.fixture
def device() -> str:
    pytest.importorskip("triton", reason="the package triton is not installed")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":  # triton reads it on import: too late to set it here
        pytest.skip("no CUDA device; with TRITON_INTERPRET=1 Triton's interpreter stands in for one")
    return "cpu"


def with_gradients(inputs: dict[str, Tensor], **how: Any) -> list[Tensor]:
    leaves = {name: x if name == "reset" else x.detach().requires_grad_() for name, x in inputs.items()}
    made = scan(**leaves, **how)
    outputs = [x for x in (made.read, made.states, made.final) if x is not None]
    noise = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=noise).to(x.device)).sum() for x in outputs)
    return [*(x.detach() for x in outputs), *torch.autograd.grad(loss, [x for name, x in leaves.items() if name != "reset"])]


@pytest.mark.parametrize("length", [1, 19])
@pytest.mark.parametrize(("dk", "dv", "queries"), [(1, 5, 1), (24, 24, 1), (12, 24, 3), (24, 12, 0)])
@pytest.mark.parametrize(("decay", "delta", "more"), [("each", True, True), ("one", True, False), ("", False, True)])
def test_triton_is_the_loop(device: str, length: int, dk: int, dv: int, queries: int, decay: str, delta: bool, more: bool) -> None:
    torch.manual_seed(0)
    inputs = {"k": normalize(torch.randn(2, length, dk), dim=2), "v": torch.randn(2, length, dv)}
    if queries:
        inputs["q"] = torch.randn(2, length, queries, dk)
    if decay:
        inputs["log_decay"] = -torch.rand(2, length, dk if decay == "each" else 1) * torch.tensor([20.0, 0.1])[:, None, None]
    if delta:
        inputs["beta"] = torch.rand(2, length)
    if more:
        inputs |= {"state": torch.randn(2, dv, dk), "reset": torch.rand(2, length) < 0.15}
    inputs = {name: x.to(device) for name, x in inputs.items()}
    found, reference = (with_gradients(inputs, form=form, states=more) for form in ("triton", "loop"))
    for index, (ours, theirs) in enumerate(zip(found, reference, strict=True)):
        error = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-2))
        assert error < 2e-5, (index, error)
