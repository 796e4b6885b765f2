"""What golden training costs beside training: its callbacks' share of a step's CPU time, and its memory above transformers.Trainer's.

    OMP_NUM_THREADS=1 python benchmarks/phi_overhead.py [--steps 60] [--pairs 8]

Time: a 1M model (starcoder2, batch 8 x 128) trained with every switch on, as the stages do it. Each thing that golden training adds to a
step is timed where it is called, in CPU time of the process: dropout and weight decay set, the watchdog, the rate, what is logged, the rows
of the step looked up (all of it, though a stock run looks up rows too). The share is their sum over the CPU time of the same steps.
Dropout itself is training, not overhead. Beside it, interleaved: the same steps with every switch on whose work is the same (dropout and
weight decay from the same base, two phases, uniform data, one batch size), against none.

Memory: the highest resident size of a process that trains with transformers.Trainer (batches of 24 rows), against one that trains by the
golden switches (batches of 8, 12 and 20 rows, every switch on), both in passes of at most 8 rows, gradients
accumulated, one checkpoint written by each; in turn.
An A/A control each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from harness import line, paired, record
from train_speed import AsDataset, InOrder, make_model, packed_text, with_labels
from transformers.trainer_callback import TrainerCallback

from phiforge.core.hardware import configure_allocator
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.data.pack import Packed, Rows
from phiforge.train import regularization, watchdog
from phiforge.train.adapter import quiet
from phiforge.train.config import PretrainConfig
from phiforge.train.loop import plan_course, stream_of
from phiforge.train.memory import PeakMemory
from phiforge.train.trainer import StreamTrainer

SIZE: dict[str, Any] = {"vocab_size": 2048, "width": 128, "depth": 4, "heads": 4, "context_length": 128, "batch": 8}
ALL: dict[str, Any] = {
    "phi_batch_progression": True,
    "phi_training_phases": True,
    "base_dropout": 0.1,
    "phi_dropout_schedule": True,
    "phi_weight_decay_schedule": True,
}
SAME_WORK = {
    "phi_training_phases": True,
    "phase2_focus": "exploration",
    "phi_dropout_schedule": "cyclic",
    "phi_weight_decay_schedule": "cyclic",
}


def make(folder: Path, packed: Packed, steps: int, *, phi: dict[str, Any], loss: str = "fused", dropout: float = 0.0) -> StreamTrainer:
    """A trainer as the stage `pretrain` makes it."""
    settings = {"per_device_train_batch_size": SIZE["batch"], "threads": torch.get_num_threads(), "precision": "fp32", "compile": False}
    lengths = {"max_steps": steps, "eval_steps": 10**6, "save_steps": 10**6, "logging_steps": 1}
    config = PretrainConfig.model_validate({**settings, **lengths, "loss": loss, "lr_scheduler_type": "phi_cosine", "phi": phi})
    run = RunWriter(folder, new_manifest("pretrain", config), config)
    run.begin()
    rows = Rows(packed, SIZE["context_length"])
    model = make_model("starcoder2", SIZE)
    if dropout:
        regularization.set_dropout(model, dropout)
    stream = stream_of(config, lambda epoch: rows, len(rows))
    with contextlib.redirect_stderr(io.StringIO()):
        course = plan_course(config, model, stream, SIZE["context_length"], run)
    trainer = StreamTrainer(model, course.arguments(config, run, evaluates=False), stream=stream, **course.options(config))
    trainer.args.save_strategy = transformers.trainer_utils.SaveStrategy.NO
    return trainer


class Meter:
    """CPU seconds spent in each of the functions that were handed to it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += time.process_time() - began

        return timed


class Steps(TrainerCallback):
    """CPU seconds from the end of step `warm` to the end of the last, and what the meter had spent by then."""

    def __init__(self, meter: Meter, warm: int) -> None:
        self.meter, self.warm = meter, warm

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warm:
            self.began, self.before = time.process_time(), dict(self.meter.spent)
        elif state.global_step == state.max_steps:
            self.seconds = time.process_time() - self.began
            self.parts = {name: spent - self.before.get(name, 0.0) for name, spent in self.meter.spent.items()}


def share(packed: Packed, folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """What golden training adds to its steps, as a share of their CPU time."""
    found = []
    for repeat in range(repeats):
        trainer, meter = make(folder / f"share-{repeat}", packed, steps, phi=ALL), Meter()
        stream: Any = trainer.stream
        for focus in stream.order.focus:
            focus.draw(0)  # measured when the phase begins: once a run, not once a step
        stream.whole = meter.around("rows", stream.whole)
        trainer.schedule = meter.around("rate", trainer.schedule)
        assert trainer.in_force is not None
        trainer.in_force = meter.around("logged", trainer.in_force)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, regularization.Regularize | watchdog.Guard):
                for event in ("on_step_begin", "on_step_end"):
                    setattr(callback, event, meter.around(type(callback).__name__, getattr(callback, event)))
        clock = Steps(meter, 5)
        trainer.add_callback(clock)
        trainer.train_from(None)
        found.append(
            {"share": sum(clock.parts.values()) / clock.seconds, "step": clock.seconds / (trainer.args.max_steps - 5), **clock.parts}
        )
    shares = [one["share"] for one in found]
    names = [name for name in found[0] if name not in ("share", "step")]
    return {
        "name": "golden callbacks, share of a step's CPU time, 1M",
        "share": statistics.median(shares),
        "share_min": min(shares),
        "share_max": max(shares),
        "repeats": repeats,
        "cpu_seconds_per_step": statistics.median(one["step"] for one in found),
        "parts": {name: statistics.median(one[name] / (one["step"] * (steps - 5)) for one in found) for name in names},
    }


def same_work(packed: Packed, folder: Path, steps: int, pairs: int) -> dict[str, Any]:
    """Off against on, the same products to compute."""
    number = iter(range(10**6))
    clocks = {}

    def train(phi: dict[str, Any]) -> None:
        trainer = make(folder / f"pair-{next(number)}", packed, steps, phi=phi, dropout=0.1)
        clocks["now"] = Steps(Meter(), 3)
        trainer.add_callback(clocks["now"])
        trainer.train_from(None)
        clocks["sum"] = clocks.get("sum", 0.0) + clocks["now"].seconds

    return paired(
        "golden switches off / on, 1M", lambda: train({}), lambda: train(SAME_WORK), pairs=pairs, clock=lambda: clocks.get("sum", 0.0)
    )


def child(kind: str, folder: Path, steps: int) -> None:
    """Train in this process and print the highest resident size."""
    packed = Packed.open(next((folder / "packed").iterdir()))
    place = Path(tempfile.mkdtemp(dir=folder))
    if kind == "golden":
        trainer: Any = make(place / "run", packed, steps, phi=ALL, loss="stock")
        trainer.micro_rows = SIZE["batch"]
        start = lambda: trainer.train_from(None)  # noqa: E731
    else:
        rows = Rows(packed, SIZE["context_length"])
        config = PretrainConfig(per_device_train_batch_size=SIZE["batch"])
        stream = stream_of(config, lambda epoch: rows, len(rows))
        model = make_model("starcoder2", SIZE)
        regularization.set_dropout(model, 0.1)
        arguments = transformers.TrainingArguments(
            output_dir=str(place),
            per_device_train_batch_size=SIZE["batch"],
            gradient_accumulation_steps=3,  # as many passes as the largest golden batch takes
            max_steps=steps,
            logging_steps=1,
            save_strategy="steps",  # one checkpoint, as the watchdog of the golden run writes one
            save_steps=steps,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = InOrder(model, arguments, train_dataset=AsDataset(stream, 3 * steps * SIZE["batch"]), data_collator=with_labels)
        start = trainer.train
    with contextlib.redirect_stdout(io.StringIO()):
        memory = PeakMemory()
        start()
    print(
        json.dumps({"peak": memory.read(), "rows": getattr(trainer, "stream", None) and trainer.stream.rows_before(trainer.args.max_steps)})
    )


def memory(folder: Path, steps: int, pairs: int) -> dict[str, Any]:
    """Peak resident size of golden training over stock training, processes in turn."""

    def peak(kind: str) -> int:
        command = [sys.executable, __file__, "--child", kind, "--folder", str(folder), "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return int(json.loads(done.stdout.splitlines()[-1])["peak"])

    ratios, controls, sizes = [], [], []
    for _ in range(pairs):
        stock, golden, again = peak("stock"), peak("golden"), peak("stock")
        ratios.append(golden / ((stock + again) / 2))
        controls.append(stock / again)
        sizes.append((stock, golden))
    return {
        "name": "peak memory, golden / transformers.Trainer, 1M, passes of 8 rows",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": pairs,
        "aa": statistics.median(controls),
        "aa_ok": abs(statistics.median(controls) - 1) <= 0.01,
        "stock_bytes": statistics.median(size[0] for size in sizes),
        "golden_bytes": statistics.median(size[1] for size in sizes),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--child", choices=("stock", "golden"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet()
    configure_allocator()
    torch.set_num_threads(1)
    if options.child:
        child(options.child, options.folder, options.steps)
        return
    folder = Path(tempfile.mkdtemp(prefix="phi_overhead_"))
    try:
        packed = packed_text(SIZE["vocab_size"], folder)
        parts = share(packed, folder, options.steps, 3)
        detail = ", ".join(f"{name} {part:.2%}" for name, part in parts["parts"].items())
        print(f"{parts['name']}: {parts['share']:.2%} [{parts['share_min']:.2%}, {parts['share_max']:.2%}] ({detail})", flush=True)
        used = memory(folder, options.steps, max(2, options.pairs // 2))
        print(f"{used['name']}: {used['ratio']:.4f} [{used['ratio_min']:.4f}, {used['ratio_max']:.4f}], A/A {used['aa']:.4f}", flush=True)
        times = same_work(packed, folder, max(8, options.steps // 4), options.pairs)
        print(line(times), flush=True)
    finally:
        shutil.rmtree(folder)
    print(
        record("phi_overhead", [parts, used, times], config={"size": SIZE, "golden": ALL, "same_work": SAME_WORK, "steps": options.steps})
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
