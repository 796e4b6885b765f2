"""Short measurements that settle what `auto` leaves open: threads, precision, compilation, and how many steps fit in a time.

Each answer is recorded by `run.decide` before it is used, so that a resumed run has the same arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from phiforge.core import hardware
from phiforge.core.runs import RunWriter
from phiforge.train.batches import Batch, TrainStream
from phiforge.train.config import TrainConfig
from phiforge.train.forward import forward_for, supports
from phiforge.train.memory import give_back

# On a CPU our own kernels are as fast as what torch.compile makes of the plain forms (7M parameters: within 3 %, after 34 s of building),
# so it is never worth its time there. Elsewhere: what a compiled step may save, and what building costs; only the decision rests on them.
COMPILE_SECONDS, COMPILE_GAIN = 45.0, 0.25
PROBE_TOKENS = 1024  # tokens in a probed batch: enough to fill the matrix products of a small model
WORTH_IT = 1.08  # a way that is not at least this much faster is not worth less precision or another thread


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How a run computes."""

    precision: str
    loss: str
    compiled: bool
    threads: int
    base_steps: int | None = None  # optimizer steps of the base batch that fit in train_seconds, where that is asked


def seconds_per_step(model: nn.Module, batch: Batch, *, precision: str, loss: str, compiled: bool = False, repeats: int = 2) -> float:
    """Least wall time of a forward and backward pass over `batch`, after one uncounted; gradients are left as they were (none)."""
    forward = forward_for(model, precision=precision, compiled=compiled) if loss == "fused" else None
    autocast = torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=precision == "bf16" and loss == "stock")
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    items = max(1, int((batch["shift_labels"] != -100).sum()))
    best = float("inf")
    with torch.random.fork_rng(devices=[]):
        for repeat in range(repeats + 1):
            began = time.perf_counter()
            with autocast:
                output = (forward or model)(**batch, num_items_in_batch=items)
            output["loss"].backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                best = min(best, time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    return best


def settle(config: TrainConfig, model: nn.Module, stream: TrainStream, row_length: int, run: RunWriter) -> Settled:
    """Decide everything that `auto` and a time budget leave open. `model` is where it will be trained (device, train mode)."""
    loss = (
        config.loss
        if config.loss != "auto"
        else run.decide("loss", lambda: "fused" if supports(model) else "stock", "fused where the layout is known")
    )
    full = stream.batch(0, 0)
    small = {name: value[: max(1, PROBE_TOKENS // row_length)] for name, value in full.items()}
    precision: str = config.precision
    if precision == "auto":
        precision = run.decide("precision", lambda: _precision(model, small, loss), "bf16 where it is native and measured faster")
    threads: Any = config.threads
    if threads == "auto":
        threads = run.decide(
            "threads", lambda: _threads(model, small, loss, precision), "measured: under contention two can be slower than one"
        )
    torch.set_num_threads(threads)
    eager = None

    def eager_step() -> float:
        nonlocal eager
        if eager is None:
            eager = seconds_per_step(model, full, precision=precision, loss=loss) * config.gradient_accumulation_steps
        return eager

    compiled = config.compile
    if compiled == "auto":
        why = "when the run is long enough to pay for it"
        compiled = run.decide("compile", lambda: _compile(config, stream, row_length, eager_step), why)
    base_steps = None
    if config.train_seconds is not None:
        budget = config.train_seconds

        def fitting() -> int:
            began = time.perf_counter()
            step = (
                seconds_per_step(model, full, precision=precision, loss=loss, compiled=True) * config.gradient_accumulation_steps
                if compiled
                else eager_step()
            )
            left = budget - (time.perf_counter() - began if compiled else 0.0)
            return max(2, int(left * 0.9 / step))  # a tenth goes to the optimizer, evaluation, checkpoints and samples

        base_steps = run.decide("max_steps", fitting, f"what fits in train_seconds={budget:g}, by a speed probe")
    return Settled(precision=precision, loss=loss, compiled=bool(compiled), threads=int(threads), base_steps=base_steps)


def _precision(model: nn.Module, batch: Batch, loss: str) -> str:
    if not hardware.has_bf16(next(model.parameters()).device.type):
        return "fp32"
    plain, half = (seconds_per_step(model, batch, precision=p, loss=loss) for p in ("fp32", "bf16"))
    return "bf16" if plain > half * WORTH_IT else "fp32"


def _threads(model: nn.Module, batch: Batch, loss: str, precision: str) -> int:
    most = hardware.cpu_count()
    if most == 1 or next(model.parameters()).device.type != "cpu":
        return most
    took = {}
    for threads in sorted({1, max(1, most // 2), most}):
        torch.set_num_threads(threads)
        took[threads] = seconds_per_step(model, batch, precision=precision, loss=loss)
    best = min(took, key=lambda threads: took[threads])
    return best if took[1] > took[best] * WORTH_IT else 1


def _compile(config: TrainConfig, stream: TrainStream, row_length: int, eager_step: Callable[[], float]) -> bool:
    if hardware.device() == "cpu" or not hardware.has_compiler():
        return False
    if config.phi.applies:  # each new dropout, and each new number of rows, would be compiled anew
        return False
    if config.train_seconds is not None:
        planned = config.train_seconds
    else:
        rows = config.max_tokens / row_length if config.max_tokens else (config.num_train_epochs or 1.0) * stream.n
        planned = (config.max_steps or rows / stream.rows_per_step) * eager_step()
    return bool(planned * COMPILE_GAIN > 2 * COMPILE_SECONDS)


def micro_rows(config: TrainConfig, model: nn.Module, batch: Batch, settled: Settled, *, most: int) -> int:
    """How many rows one forward and backward pass may take, from 1 to `most`, the largest batch of the plan.

    Where the config accumulates, it has said itself what memory holds. Elsewhere a pass over one row of `batch` is measured, and half of
    the memory that is left when gradients and optimizer have theirs may be filled.
    """
    if config.gradient_accumulation_steps > 1:
        return min(most, config.per_device_train_batch_size)
    device = next(model.parameters()).device
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else hardware.free_memory()
    row = {name: value[:1].to(device) for name, value in batch.items()}
    two = {name: torch.cat([value, value]) for name, value in row.items()}
    kept = 2 * (_kept_bytes(model, two, settled) - _kept_bytes(model, row, settled))  # as much again for what comes and goes meanwhile
    give_back()  # or training's buffers would lie around the probe's, and the run would hold more than it needs
    room = (free - 12 * trained) / 2  # gradients and two moments in float32
    return max(1, min(most, int(room / max(1, kept))))


def _kept_bytes(model: nn.Module, batch: Batch, settled: Settled) -> int:
    """Bytes that a forward pass over `batch` keeps for its backward pass, casts of weights included."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    forward = forward_for(model, precision=settled.precision) if settled.loss == "fused" else model
    bf16 = settled.precision == "bf16" and settled.loss == "stock"
    half = torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bf16)
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), half:
        output = forward(**batch, num_items_in_batch=1)
        del output
    return sum(kept.values())
