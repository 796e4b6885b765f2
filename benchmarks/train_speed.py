"""Tokens trained a CPU-second: StreamTrainer as `auto` settles it here, against transformers.Trainer with its CPU defaults (float32).

    OMP_NUM_THREADS=1 python benchmarks/train_speed.py [--pairs 8] [--only 1M] [--threads 2]

Same model, same weights, same rows in the same order, same optimizer settings, real text (the interpreter's own library). Only steady steps
count: from the end of the second step of each call to the end of its last. Start-up, compiling native.c (a second, once), tokenizing,
evaluation and checkpoints are outside for both; the allocator setting is on for both, which favours the peer. The losses of both after
the same steps stand beside the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from harness import line, paired, record
from transformers.trainer_callback import TrainerCallback

from phiforge.core.hardware import configure_allocator
from phiforge.data.document import Document
from phiforge.data.pack import Packed, Rows, pack
from phiforge.data.python_corpus import read_python
from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train import native
from phiforge.train.adapter import quiet, training_arguments
from phiforge.train.batches import TrainStream
from phiforge.train.config import PretrainConfig
from phiforge.train.schedules import schedule
from phiforge.train.trainer import StreamTrainer

SIZES: dict[str, dict[str, Any]] = {
    "1M": {"vocab_size": 2048, "width": 128, "depth": 4, "heads": 4, "context_length": 128, "batch": 16, "steps": 14},
    "7M": {"vocab_size": 4096, "width": 256, "depth": 8, "heads": 8, "context_length": 256, "batch": 8, "steps": 6},
}
WARM = 2


class SteadyClock(TrainerCallback):
    """Counts the time of steady steps only, over all calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.counted = clock, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM:
            self._from = self.clock()
        elif state.global_step == state.max_steps:
            self.counted += self.clock() - self._from


class AsDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The rows of a stream, in its order, for transformers' own loader."""

    def __init__(self, stream: TrainStream, length: int) -> None:
        self.stream, self.length = stream, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, row = self.stream.order[index]
        return {name: torch.from_numpy(values[0]) for name, values in self.stream.rows_of(epoch).batch([row]).items()} | {}


class InOrder(transformers.Trainer):
    """Trainer, but for the shuffling: the rows come in the stream's order already."""

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def packed_text(vocab_size: int, folder: Path) -> Packed:
    """The interpreter's library in a tokenizer of its own."""
    documents: list[Document] = list(itertools.islice(read_python(), 120))
    return pack(documents, train_tokenizer([document.text for document in documents], vocab_size), folder)


def make_model(family: str, size: dict[str, Any]) -> Any:
    """The same weights every time."""
    keys = ("vocab_size", "width", "depth", "heads", "context_length")
    return build(resolve(DecoderSpec.model_validate({"family": family} | {key: size[key] for key in keys})), seed=0)


def make_stream(packed: Packed, size: dict[str, Any]) -> TrainStream:
    """The same rows every time."""
    rows = Rows(packed, size["context_length"])
    return TrainStream(lambda epoch: rows, len(rows), seed=0, batch_size=size["batch"])


def ours(family: str, size: dict[str, Any], packed: Packed, folder: Path, steps: int, clock: SteadyClock) -> float:
    """Train `steps` steps with StreamTrainer as `auto` settles it on a CPU with bf16; the last five losses' mean."""
    config = PretrainConfig(per_device_train_batch_size=size["batch"], save_total_limit=None)
    arguments = training_arguments(
        config, folder / "ours", max_steps=steps, eval_steps=steps, save_steps=10**6, logging_steps=1, evaluates=False
    )
    arguments.save_strategy = transformers.trainer_utils.SaveStrategy.NO
    trainer = StreamTrainer(
        make_model(family, size),
        arguments,
        stream=make_stream(packed, size),
        schedule=schedule("linear", steps),
        precision="bf16",
        loss="fused",
        callbacks=[clock],
    )
    trainer.train_from(None)
    return last_losses(trainer)


def peers(family: str, size: dict[str, Any], packed: Packed, folder: Path, steps: int, clock: SteadyClock) -> float:
    """The same with transformers.Trainer: float32, everything that is not said at its default."""
    config = PretrainConfig()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "peer"),
        per_device_train_batch_size=size["batch"],
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=config.seed,
    )
    stream = make_stream(packed, size)
    dataset = AsDataset(stream, steps * size["batch"])
    trainer = InOrder(make_model(family, size), arguments, train_dataset=dataset, data_collator=with_labels, callbacks=[clock])
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return last_losses(trainer)


def with_labels(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack, as the default collator does; `labels` tells the model that a loss is wanted."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return batch | {"labels": batch["shift_labels"]}


def last_losses(trainer: transformers.Trainer) -> float:
    """Mean of the last five logged losses."""
    return statistics.mean([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-5:])


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--only", choices=SIZES)
    parser.add_argument("--threads", type=int, default=1, help="2 and more: wall time is measured instead of CPU time")
    parser.add_argument("--loss-steps", type=int, default=60)
    options = parser.parse_args()
    quiet()
    configure_allocator()
    torch.set_num_threads(options.threads)
    timer = time.process_time if options.threads == 1 else time.perf_counter
    folder = Path(tempfile.mkdtemp(prefix="train_speed_"))
    results = []
    try:
        for name, size in SIZES.items():
            if options.only in (None, name):
                packed = packed_text(size["vocab_size"], folder)
                for family in ("starcoder2", "llama"):
                    results.append(measure(name, family, size, packed, folder, timer, options))
                    print(line(results[-1]), f"; loss {results[-1]['a_loss']:.4f} (peer), {results[-1]['b_loss']:.4f}", flush=True)
    finally:
        shutil.rmtree(folder)
    claim = "train_speed" + ("" if options.threads == 1 else f"_{options.threads}_threads") + (f"_{options.only}" if options.only else "")
    settings = {"sizes": SIZES, "warm_steps": WARM, "threads": options.threads, "native_kernels": native._loaded() is not None}
    print(record(claim, results, config=settings))


def measure(
    name: str, family: str, size: dict[str, Any], packed: Packed, folder: Path, timer: Callable[[], float], options: argparse.Namespace
) -> dict[str, Any]:
    """One size and layout: losses after the same steps first, then the interleaved pairs."""
    clock = SteadyClock(timer)
    losses = [way(family, size, packed, folder, options.loss_steps, clock) for way in (peers, ours)]
    result = paired(
        f"training {name} {family}",
        lambda: peers(family, size, packed, folder, size["steps"], clock),
        lambda: ours(family, size, packed, folder, size["steps"], clock),
        pairs=options.pairs,
        clock=lambda: clock.counted,
        work=(size["steps"] - WARM) * size["batch"] * size["context_length"],
        unit="tokens",
    )
    return result | {"a_loss": losses[0], "b_loss": losses[1], "loss_steps": options.loss_steps, "clock": timer.__name__}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
