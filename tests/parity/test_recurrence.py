"""Every form of the scan = the loop: forward and gradient, at odd sizes, with every option; and the loop = its equations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from phiforge.nn import recurrence_native
from phiforge.nn.recurrence import Scanned, scan, step

FORMS = ("chunk", "native")
WIDTHS = ((1, 1), (5, 12), (12, 24), (24, 24), (24, 12))
Inputs = dict[str, Any]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and isinstance(recurrence_native.library(), str):
        pytest.skip(str(recurrence_native.library()))
    return str(request.param)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make(
    length: int, dk: int = 5, dv: int = 12, *, rows: int = 2, queries: int = 1, decay: str = "", delta: bool = False, reset: bool = False,
    state: bool = False, dtype: torch.dtype = torch.float32,
) -> Inputs:  # fmt: skip
    """Random inputs; decay: "" (none), "one" or "each"."""
    inputs: Inputs = {
        "k": normalize(torch.randn(rows, length, dk, dtype=dtype), dim=2),
        "v": torch.randn(rows, length, dv, dtype=dtype),
    }
    if queries:
        inputs["q"] = torch.randn(rows, length, queries, dk, dtype=dtype)
    if decay:
        inputs["log_decay"] = -torch.rand(rows, length, dk if decay == "each" else 1, dtype=dtype)
    if delta:
        inputs["beta"] = torch.rand(rows, length, dtype=dtype)
    if state:
        inputs["state"] = torch.randn(rows, dv, dk, dtype=dtype)
    if reset:
        inputs["reset"] = torch.rand(rows, length) < 0.15
    return inputs


def outputs(scanned: Scanned) -> list[Tensor]:
    return [x for x in (scanned.read, scanned.states, scanned.final) if x is not None]


def with_gradients(inputs: Inputs, **how: Any) -> list[Tensor]:
    """All outputs, then the gradient of a random function of them in every input."""
    leaves = {name: x if name == "reset" else x.detach().requires_grad_() for name, x in inputs.items()}
    made = outputs(scan(**leaves, **how))
    noise = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=noise).to(x.dtype)).sum() for x in made)
    return [x.detach() for x in made] + list(torch.autograd.grad(loss, [x for name, x in leaves.items() if name != "reset"]))


def assert_same(inputs: Inputs, form: str, *, tolerance: float = 2e-5, chunk: int = 16, states: bool = False, least: float = 1e-2) -> None:
    """Largest error relative to the largest number, `least` where that is smaller."""
    reference = with_gradients(inputs, form="loop", states=states)
    found = with_gradients(inputs, form=form, states=states, chunk=chunk)
    for index, (ours, theirs) in enumerate(zip(found, reference, strict=True)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.isfinite(ours).all(), (index, "not finite")
        error = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=least))
        assert error < tolerance, (index, error, {name: tuple(x.shape) for name, x in inputs.items()})


@pytest.mark.parametrize("length", [1, 7, 16, 17, 129])
@pytest.mark.parametrize("decay", ["", "one", "each"])
@pytest.mark.parametrize("delta", [False, True])
def test_forms_agree(form: str, length: int, decay: str, delta: bool) -> None:
    cases = list(itertools.product(WIDTHS, (0, 1, 3), (False, True)))
    for index, ((dk, dv), queries, reset) in enumerate(cases):
        if length == 129 and index % 7:  # the longest is slow in the loop: each width and number of queries comes up, not each pair
            continue
        inputs = make(length, dk, dv, queries=queries, decay=decay, delta=delta, reset=reset, state=index % 3 > 0)
        assert_same(inputs, form, states=queries == 0 or index % 2 == 0)


def test_a_long_one(form: str) -> None:
    assert_same(make(513, 24, 24, queries=1, decay="each", delta=True, reset=True, state=True), form, tolerance=5e-5)


@pytest.mark.parametrize(("dk", "dv"), [(8, 16), (16, 16), (32, 32), (33, 40), (1, 17)])
def test_other_widths(form: str, dk: int, dv: int) -> None:
    assert_same(make(19, dk, dv, queries=2, decay="each", delta=True, reset=True, state=True), form, states=True)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 24, 64])
@pytest.mark.parametrize("decay", ["one", "each"])
def test_any_chunk(chunk: int, decay: str) -> None:
    assert_same(make(50, decay=decay, delta=True, reset=True, state=True), "chunk", chunk=chunk, states=True)


@pytest.mark.parametrize("decay", ["one", "each"])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("strength", ["strong", "mixed", "endless", "none"])
def test_extreme_decays(form: str, decay: str, delta: bool, strength: str) -> None:
    inputs = make(70, 24, 24, decay=decay, delta=delta, state=True, reset=strength == "mixed")
    log_decay = inputs["log_decay"]
    if strength == "strong":
        log_decay.fill_(-20.0)
    elif strength == "mixed":  # next to each other in time and in dimension: gone at once, hardly at all, and in between
        log_decay.copy_(torch.tensor([-1e4, -20.0, -1.0, -1e-3, 0.0])[torch.randint(0, 5, log_decay.shape)])
    elif strength == "endless":
        log_decay.masked_fill_(torch.rand(log_decay.shape) < 0.2, float("-inf"))
    else:
        log_decay.zero_()
    assert_same(inputs, form, states=True)


def test_keys_all_alike(form: str) -> None:
    """The worst case for the inverse inside a chunk: every key the same, beta near 1."""
    inputs = make(64, 24, 24, delta=True, decay="one")
    inputs["k"] = inputs["k"][:, :1].expand_as(inputs["k"]).contiguous()
    inputs["beta"] = torch.full_like(inputs["beta"], 0.999)
    inputs["log_decay"].zero_()
    assert_same(inputs, form, least=5.0)  # the decay's gradient is a thousandth of the terms that it is the sum of


@pytest.mark.parametrize("form", ["loop", "chunk"])
@pytest.mark.parametrize("decay", ["", "one", "each"])
@pytest.mark.parametrize("delta", [False, True])
def test_gradcheck(form: str, decay: str, delta: bool) -> None:
    inputs = make(5, 2, 3, rows=1, queries=2, decay=decay, delta=delta, state=True, dtype=torch.float64)
    reset = torch.tensor([[False, False, False, True, False]])
    names = list(inputs)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        made = scan(**dict(zip(names, tensors, strict=True)), reset=reset, states=True, form=form, chunk=2)
        return tuple(outputs(made))

    assert torch.autograd.gradcheck(run, tuple(x.requires_grad_() for x in inputs.values()), eps=1e-6, atol=1e-6)


def test_the_equations() -> None:
    """The loop against the recurrence written with plain numbers."""
    inputs = make(5, 3, 2, rows=1, decay="each", delta=True, state=True, dtype=torch.float64)
    inputs["reset"] = torch.tensor([[False, False, True, False, False]])
    made = scan(**inputs, states=True, form="loop")
    state = inputs["state"][0].tolist()
    for t in range(5):
        k, v, q = (inputs[name][0, t].tolist() for name in "kvq")
        fade = inputs["log_decay"][0, t].exp().tolist()
        state = [[0.0 if t == 2 else x * fade[j] for j, x in enumerate(row)] for row in state]
        for i, row in enumerate(state):
            wrong = v[i] - sum(x * k[j] for j, x in enumerate(row))
            state[i] = [x + float(inputs["beta"][0, t]) * wrong * k[j] for j, x in enumerate(row)]
        assert made.states is not None and made.read is not None
        torch.testing.assert_close(made.states[0, t], torch.tensor(state, dtype=torch.float64))
        expected = [sum(x * q[0][j] for j, x in enumerate(row)) for row in state]
        torch.testing.assert_close(made.read[0, t, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("decay", ["", "one", "each"])
def test_causal(form: str, decay: str) -> None:
    inputs = make(40, 12, 12, decay=decay, delta=True)
    before = scan(**inputs, states=True, form=form)
    changed = {name: x.clone() for name, x in inputs.items()}
    for x in changed.values():
        x[:, 21] = -x[:, 21].abs() * 0.5
    after = scan(**changed, states=True, form=form)
    for ours, theirs in zip(outputs(before)[:2], outputs(after)[:2], strict=True):
        assert torch.equal(ours[:, :21], theirs[:, :21])
        assert not torch.equal(ours[:, 21:], theirs[:, 21:])


@pytest.mark.parametrize("cut", [1, 16, 23])
def test_split_in_two(form: str, cut: int) -> None:
    inputs = make(40, 12, 24, decay="each", delta=True, reset=True, state=True)
    whole = scan(**inputs, states=True, form=form)
    state = inputs.pop("state")
    first = scan(**{name: x[:, :cut] for name, x in inputs.items()}, state=state, states=True, form=form)
    second = scan(**{name: x[:, cut:] for name, x in inputs.items()}, state=first.final, states=True, form=form)
    for a, b, c in zip(outputs(first)[:2], outputs(second)[:2], outputs(whole)[:2], strict=True):
        torch.testing.assert_close(torch.cat([a, b], 1), c, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second.final, whole.final, atol=1e-5, rtol=1e-5)


def test_a_reset_is_a_beginning(form: str) -> None:
    """What comes after a reset is what it would be alone, even after numbers that are none."""
    inputs = make(30, 12, 12, decay="each", delta=True)
    inputs["v"][:, 10] = float("inf") if form == "native" else 1e30
    inputs["reset"] = torch.zeros(2, 30, dtype=torch.bool)
    inputs["reset"][:, 16] = True  # a chunk's beginning
    alone = scan(**{name: x[:, 16:] for name, x in inputs.items()}, form=form)
    together = scan(**inputs, form=form)
    assert together.read is not None and alone.read is not None
    torch.testing.assert_close(together.read[:, 16:], alone.read, atol=1e-6, rtol=1e-6)


def test_step_is_the_scan() -> None:
    inputs = make(9, 24, 24, queries=2, decay="each", delta=True, state=True)
    made = scan(**inputs, states=True, form="loop")
    state = kept = inputs.pop("state").clone()
    for t in range(9):
        with torch.autocast("cpu", dtype=torch.bfloat16):  # which must not touch the state
            read, state = step(state, **{name: x[:, t] for name, x in inputs.items()}, inplace=True)
        assert state.data_ptr() == kept.data_ptr() and made.read is not None and made.states is not None
        torch.testing.assert_close(read, made.read[:, t])
        torch.testing.assert_close(state, made.states[:, t])


def test_float32_inside(form: str) -> None:
    inputs = {name: x.bfloat16() for name, x in make(20, 24, 24, decay="each", delta=True).items()}
    expected = scan(**{name: x.float() for name, x in inputs.items()}, form="loop")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = scan(**inputs, form=form)
    assert made.read is not None and made.read.dtype == torch.float32
    torch.testing.assert_close(made.read, expected.read, atol=2e-5, rtol=2e-5)
    leaf = inputs["k"].requires_grad_()
    scan(**inputs, form=form).final.sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16


def test_threads_change_nothing() -> None:
    if isinstance(recurrence_native.library(), str):
        pytest.skip(str(recurrence_native.library()))
    inputs = make(400, 24, 24, rows=5, decay="each", delta=True, reset=True)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(with_gradients(inputs, form="native", states=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_what_is_strided_or_unused(form: str) -> None:
    """Slices of one projection, an output that the loss leaves out, an input that needs no gradient."""
    wide = torch.randn(2, 20, 72).requires_grad_()
    found = []
    for each in ("loop", form):
        k, v, q = wide.split(24, 2)
        made = scan(normalize(k, dim=2), v, q=q.unsqueeze(2), beta=torch.full((2, 20), 0.5), form=each)
        found.append(torch.autograd.grad(made.final.square().sum(), wide)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
