"""Claim: the scan (nn/recurrence.py) costs a fraction of the chunked gated delta rule that CPU users of transformers run, and of a loop.

    OMP_NUM_THREADS=1 python benchmarks/recurrence.py              # 8 pairs of each, results/recurrence-<date>.json
    OMP_NUM_THREADS=1 python benchmarks/recurrence.py --pairs 2 --lengths 512 --no-record

Forward and backward in all inputs, B 8, one head, d 24, T 512 and 2,048, float32, one thread, process CPU time, allocator as in training.
The peer is `torch_chunk_gated_delta_rule` of the installed transformers (models/qwen3_next), at its own chunk of 64. Compared are:

delta      the same function: scalar decay, delta rule; outputs and all gradients are checked equal before anything is timed
outer      ours adds (decay for each key dimension, no delta rule), the peer does its delta rule: a cost comparison
own loop   ours against the same recurrence token by token in torch (form="loop"), same inputs, checked equal

each in the native form (C) and in the chunk form (torch alone). The peer scales queries by d^-1/2; ours are given scaled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import line, paired, record
from torch import Tensor
from torch.nn.functional import normalize
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from phiforge.core.hardware import configure_allocator
from phiforge.nn.recurrence import scan

BATCH, WIDTH, LENGTHS, FORMS = 8, 24, (512, 2048), ("native", "chunk")
Inputs = dict[str, Tensor]
Work = Callable[[], list[Tensor]]


def make_inputs(length: int, decays: int, delta: bool) -> Inputs:
    """Unit keys and queries, decays of a half-life around 10 tokens, beta around a half."""
    torch.manual_seed(0)
    shape = (BATCH, length, WIDTH)
    made = {
        "k": normalize(torch.randn(shape), dim=2),
        "v": torch.randn(shape),
        "q": normalize(torch.randn(shape), dim=2).unsqueeze(2) * WIDTH**-0.5,
        "log_decay": -0.14 * torch.rand(BATCH, length, decays),
    }
    if delta:
        made["beta"] = torch.rand(BATCH, length)
    return {name: x.requires_grad_() for name, x in made.items()}


def ours(inputs: Inputs, form: str, outer: Tensor) -> Work:
    """The reads and all gradients by one of our forms."""

    def run() -> list[Tensor]:
        read = scan(**inputs, form=form).read
        assert read is not None
        return [read.detach(), *torch.autograd.grad(read, list(inputs.values()), outer)]

    return run


def peers(inputs: Inputs, outer: Tensor) -> Work:
    """The same by transformers: (B, T, H, d) with one head, state (dk, dv), queries scaled inside."""

    def run() -> list[Tensor]:
        k, v, log_decay, beta = inputs["k"].unsqueeze(2), inputs["v"].unsqueeze(2), inputs["log_decay"], inputs["beta"].unsqueeze(2)
        read, _ = torch_chunk_gated_delta_rule(inputs["q"] * WIDTH**0.5, k, v, log_decay, beta)
        return [read.detach(), *torch.autograd.grad(read, list(inputs.values()), outer)]

    return run


def check(name: str, a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference, relative to each tensor's largest number; AssertionError above 1e-4."""
    worst = max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))
    assert worst < 1e-4, f"{name}: outputs or gradients differ by {worst:.1e}"
    return worst


def repeated(work: Work, times: int) -> Callable[[], None]:
    """`work` several times over as one call."""

    def run() -> None:
        for _ in range(times):
            work()

    return run


def per_call(result: dict[str, Any], a_times: int, b_times: int) -> dict[str, Any]:
    """The ratio of single calls, where the two sides were repeated differently often to fill their time."""
    for name in ("ratio", "ratio_min", "ratio_max"):
        result[name] *= b_times / a_times
    result["ratio_quartiles"] = [x * b_times / a_times for x in result["ratio_quartiles"]]
    return result | {"a_ms": 1e3 * result["a_seconds"] / a_times, "b_ms": 1e3 * result["b_seconds"] / b_times}


def measure(length: int, form: str, pairs: int, kinds: list[str]) -> list[dict[str, Any]]:
    """All comparisons of one form at one length."""
    outer = torch.randn(BATCH, length, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    delta, additive = make_inputs(length, 1, True), make_inputs(length, WIDTH, False)
    often = (128 if form == "native" else 32) * 512 // length
    rare = max(1, 16 * 512 // length)
    cases: dict[str, tuple[Work, Work, int, bool]] = {
        "delta": (peers(delta, outer), ours(delta, form, outer), rare, True),
        "outer": (peers(delta, outer), ours(additive, form, outer), rare, False),
        "delta, own loop": (ours(delta, "loop", outer), ours(delta, form, outer), max(1, rare // 8), True),
        "outer, own loop": (ours(additive, "loop", outer), ours(additive, form, outer), max(1, rare // 8), True),
    }
    results = []
    for kind, (a, b, a_times, same) in cases.items():
        if kind not in kinds:
            continue
        label = f"{kind} {form} T{length}" + (" (equal)" if same else " (cost comparison)")
        difference = check(label, b(), a()) if same else None
        result = per_call(paired(label, repeated(a, a_times), repeated(b, often), pairs=pairs), a_times, often)
        print(line(result) + f"; {result['a_ms']:.2f} -> {result['b_ms']:.2f} ms", flush=True)
        results.append(result | {"kind": kind, "form": form, "length": length, "largest_difference": difference})
    return results


def main() -> None:
    kinds = ["delta", "outer", "delta, own loop", "outer, own loop"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator = configure_allocator()
    results = [
        result for length in options.lengths for form in options.forms for result in measure(length, form, options.pairs, options.kinds)
    ]
    if not options.no_record:
        config = {"batch": BATCH, "heads": 1, "width": WIDTH, "dtype": "float32", "allocator": allocator, "peer_chunk": 64}
        print(record("recurrence", results, config=config))


if __name__ == "__main__":
    main()
