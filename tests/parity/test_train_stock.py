"""With `precision=fp32 compile=false loss=stock` StreamTrainer is transformers.Trainer to the last bit: losses, norms, rates, weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train.adapter import quiet, training_arguments
from phiforge.train.batches import TrainStream
from phiforge.train.config import PretrainConfig
from phiforge.train.schedules import schedule
from phiforge.train.trainer import StreamTrainer

STEPS, BATCH, LENGTH, VOCABULARY = 24, 4, 32, 64


class Text:
    """Rows of random tokens; every other one holds a border of documents."""

    def __init__(self, n: int = 40) -> None:
        self.tokens = np.random.default_rng(0).integers(0, VOCABULARY, (n, LENGTH + 1))

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        chosen = np.asarray(indices)
        labels, at = self.tokens[chosen, 1:].copy(), np.tile(np.arange(LENGTH), (len(chosen), 1))
        split = chosen % 2 == 1
        labels[split, 9] = -100
        at[split, 10:] -= 10
        return {"input_ids": self.tokens[chosen, :-1], "shift_labels": labels, "position_ids": at}


class InOrder(transformers.Trainer):
    """transformers.Trainer, given rows that are in their order already."""

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class AsDataset(torch.utils.data.Dataset):
    """A stream's rows, in its order."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return STEPS * BATCH * 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, row = self.stream.order[index]
        rows = self.stream.rows_of(epoch).batch([row])
        return {name: torch.from_numpy(values[0]) for name, values in rows.items()} | {"labels": torch.from_numpy(rows["shift_labels"][0])}


def new_model(family: str) -> Any:
    spec = {"family": family, "width": 32, "depth": 2, "heads": 2, "vocab_size": VOCABULARY, "context_length": LENGTH}
    return build(resolve(DecoderSpec.model_validate(spec)), seed=0)


def history(trainer: transformers.Trainer) -> list[tuple[Any, ...]]:
    return [
        tuple(entry[key] for key in ("step", "loss", "grad_norm", "learning_rate"))
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small only lose by sharing them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["starcoder2", "llama", "gpt2"])
@pytest.mark.parametrize("name, accumulation", [("cosine", 1), ("linear", 2)])
def test_bit_equal_to_transformers(family: str, name: str, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIFORGE_DEVICE", "cpu")
    quiet()
    config = PretrainConfig(per_device_train_batch_size=BATCH, gradient_accumulation_steps=accumulation, save_total_limit=1)
    stream = TrainStream(lambda epoch: text, len(text := Text()), seed=3, batch_size=BATCH, accumulation=accumulation)
    arguments = training_arguments(
        config, tmp_path / "ours", max_steps=STEPS, eval_steps=STEPS, save_steps=STEPS, logging_steps=3, evaluates=False
    )
    ours = StreamTrainer(new_model(family), arguments, stream=stream, schedule=schedule(name, STEPS, warmup=4), loss="stock")
    ours.train_from(None)
    theirs = InOrder(
        new_model(family),
        transformers.TrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_epsilon=config.adam_epsilon,
            lr_scheduler_type=name,
            warmup_steps=4,
            logging_steps=3,
            logging_first_step=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            seed=config.seed,
            use_cpu=True,
        ),
        train_dataset=AsDataset(stream),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.train()
    assert len(history(ours)) == STEPS // 3 + 1
    assert history(ours) == history(theirs)
    for (where, a), (_, b) in zip(ours.network.named_parameters(), theirs.model.named_parameters(), strict=True):
        assert torch.equal(a, b), where
