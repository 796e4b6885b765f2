"""Muon: orthogonal steps, the right parameters, one state that saves and loads."""

from __future__ import annotations

import pytest
import torch

from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.optim.muon import COEFFICIENTS, STEPS, MuonAdamW, muon_groups, orthogonalize


def reference(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as published, one matrix at a time, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.double()
    if matrix.size(0) > matrix.size(1):
        x = x.T
    x = x / x.norm()
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.size(0) > matrix.size(1) else x


@pytest.mark.parametrize("shape", [(1, 1), (63, 7), (7, 63), (64, 64), (130, 500)])
def test_batched_equals_one_at_a_time(shape: tuple[int, int]) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(stack)
    expected = torch.stack([reference(matrix) for matrix in stack])
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(orthogonalize(stack, dtype=torch.bfloat16).double(), expected, atol=0.06, rtol=0.2)


def test_singular_values_come_near_one() -> None:
    stack = torch.randn(2, 48, 96, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.6 and values.max() < 1.3


def pico() -> torch.nn.Module:
    return build(resolve(DecoderSpec(width=32, depth=2, vocab_size=64)), seed=0)


def test_hidden_matrices_alone_go_to_muon() -> None:
    model = pico()
    groups = muon_groups(model, 0.1, 0.02)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon = {names[id(parameter)] for parameter in groups[-1]["params"]}
    assert muon == {name for name in names.values() if name.endswith("weight") and "layers" in name and "norm" not in name}
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert [group.get("lr") for group in groups] == [None, None, 0.02]


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    ids = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(seed))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_state_saves_and_loads_to_the_last_bit() -> None:
    straight, halfway = pico(), pico()
    one = MuonAdamW(muon_groups(straight, 0.1, None), lr=1e-2, fused=True)
    for seed in range(6):
        step(straight, one, seed)
    first = MuonAdamW(muon_groups(halfway, 0.1, None), lr=1e-2, fused=True)
    for seed in range(3):
        step(halfway, first, seed)
    second = MuonAdamW(muon_groups(halfway, 0.1, None), lr=1e-2, fused=True)
    second.load_state_dict(first.state_dict())
    for seed in range(3, 6):
        step(halfway, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), halfway.parameters(), strict=True))


def test_it_learns() -> None:
    model = pico()
    optimizer = MuonAdamW(muon_groups(model, 0.0, None), lr=1e-2, fused=True)
    losses = [step(model, optimizer, 0) for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def test_the_update_has_the_size_of_adamws() -> None:
    """Root mean square of Muon's step at rate 1 is about 0.2 for any shape, as AdamW's is in practice."""
    for shape in ((32, 128), (128, 32), (64, 64)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        MuonAdamW([{"params": [weight], "muon": True, "weight_decay": 0.0}], lr=1.0).step()
        assert 0.12 < weight.detach().square().mean().sqrt() < 0.28
