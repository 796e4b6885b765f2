"""PHITrainer: without a phi_config it is transformers.Trainer to the last bit; with one, what the model sees is what the timetable says."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phiforge.core.errors import ConfigError
from phiforge.golden.api import PHIExtendedConfig, PHITrainingConfig
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train.adapter import quiet
from phiforge.train.phi_trainer import PHITrainer
from phiforge.train.regularization import read_dropout, read_weight_decay

VOCABULARY, LENGTH, ROWS = 64, 24, 60


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    quiet()
    yield
    torch.set_num_threads(before)


def dataset(n: int = ROWS) -> list[dict[str, Any]]:
    """Rows of different lengths; some of their tokens are not learnt."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(n):
        ids = random.integers(0, VOCABULARY, int(random.integers(8, LENGTH)))
        labels = ids.copy()
        labels[: number % 5] = -100
        rows.append({"input_ids": ids.tolist(), "labels": labels.tolist(), "row": number})
    return rows


class Collate:
    """Pads, and remembers which rows it was given."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.seen.append([row["row"] for row in rows])
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int) -> torch.Tensor:
            return torch.tensor([[*row[name], *[value] * (longest - len(row[name]))] for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def new_model(family: str = "llama", dropout: float = 0.0) -> Any:
    spec = {"family": family, "width": 16, "depth": 1, "heads": 2, "vocab_size": VOCABULARY, "context_length": LENGTH}
    model = build(resolve(DecoderSpec.model_validate(spec)), seed=0)
    model.config.attention_dropout = dropout
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    return model


def arguments(folder: Path, **settings: Any) -> Any:
    values = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": 1,
    }
    return transformers.TrainingArguments(**(values | settings))


def trained(trainer: Any, **settings: Any) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(**settings)
    return [line for line in trainer.state.log_history if "loss" in line]


def golden(folder: Path, config: PHITrainingConfig, *, model: Any = None, data: Any = None, **settings: Any) -> tuple[PHITrainer, Collate]:
    collate = Collate()
    return (
        PHITrainer(
            phi_config=config,
            model=model or new_model(),
            args=arguments(folder, **settings),
            train_dataset=data or dataset(),
            data_collator=collate,
            watchdog=False,
        ),
        collate,
    )


@pytest.mark.parametrize("settings", [{"num_train_epochs": 2}, {"max_steps": 7, "gradient_accumulation_steps": 2, "warmup_steps": 2}])
def test_without_a_config_it_is_transformers_trainer(settings: dict[str, Any], tmp_path: Path) -> None:
    histories = []
    for number, kind in enumerate((PHITrainer, transformers.Trainer)):
        trainer = kind(
            model=new_model(dropout=0.1),
            args=arguments(tmp_path / str(number), **settings),
            train_dataset=dataset(),
            eval_dataset=dataset(6),
            data_collator=Collate(),
        )
        lines = trained(trainer)
        histories.append([(line["loss"], line["grad_norm"], line["learning_rate"], line["epoch"]) for line in lines])
        histories.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert len(histories[0]) >= 7
    assert histories[0] == histories[2]
    assert all(torch.equal(a, b) for a, b in zip(histories[1], histories[3], strict=True))


class Reading(transformers.TrainerCallback):
    """Reads from model and optimizer, after each step, what that step was made with."""

    def __init__(self) -> None:
        self.read: list[tuple[float, float, float]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        places = set(read_dropout(model).values())
        assert len(places) == 1
        self.read.append((places.pop(), read_weight_decay(optimizer), optimizer.param_groups[0]["lr"]))


@pytest.mark.parametrize("length", [{"num_train_epochs": 1}, {"num_train_epochs": 2}, {"max_steps": 1}, {"max_steps": 13}])
@pytest.mark.parametrize("mode", ["phi_decay", "phi_warmup", "phi_cosine"])
def test_what_the_model_sees_is_the_plan(length: dict[str, Any], mode: str, tmp_path: Path) -> None:
    config = PHITrainingConfig(base_batch_size=3, lr_schedule_mode=mode, base_learning_rate=3e-3)
    trainer, collate = golden(tmp_path, config, **length)
    reading = Reading()
    trainer.add_callback(reading)
    lines = trained(trainer)
    plan = trainer.phi_timetable
    assert len(lines) == plan.steps == trainer.state.max_steps == trainer.state.global_step
    assert plan.rows == 60 * length["num_train_epochs"] if "num_train_epochs" in length else plan.steps == length["max_steps"]
    measured = [seen for seen in collate.seen if len(seen) <= 4]  # the rows measured for their difficulty come in larger pieces
    given = iter(measured)
    for step, (line, (dropout, decay, rate)) in enumerate(zip(lines, reading.read, strict=True)):
        rows = 0
        while rows < plan.batch(step):
            piece = next(given)
            rows += len(piece)
        assert rows == plan.batch(step) == line["batch_size"]
        assert dropout == plan.dropout_at(step) == line["dropout"]
        assert decay == plan.weight_decay_at(step) == line["weight_decay"]
        assert rate == line["learning_rate"] == pytest.approx(plan.rate_at(step) * 3e-3, rel=1e-12)
    assert next(given, None) is None
    assert lines[-1]["epoch"] == pytest.approx(plan.rows / 60)
    steps = range(plan.steps)
    assert [trainer.phi_schedulers["batch"].at_step(step) for step in steps] == [line["batch_size"] for line in lines]
    assert set(trainer.phi_schedulers) == {"lr", "batch", "regularization", "data"}


def test_a_uniform_epoch_has_every_row_once(tmp_path: Path) -> None:
    trainer, collate = golden(tmp_path, PHITrainingConfig(base_batch_size=7, phi_training_phases=False), num_train_epochs=2)
    trained(trainer)
    rows = [row for piece in collate.seen for row in piece]
    assert sorted(rows[:ROWS]) == sorted(rows[ROWS:]) == list(range(ROWS))
    assert rows[:ROWS] != rows[ROWS:]


def test_exploitation_draws_difficult_rows_first(tmp_path: Path) -> None:
    config = PHIExtendedConfig(base_batch_size=4, difficulty="column:row", sampling="fibonacci", phi_batch_progression=False)
    trainer, collate = golden(tmp_path, config, num_train_epochs=1)
    trained(trainer)
    plan = trainer.phi_timetable
    rows = [row for piece in collate.seen for row in piece]
    exploited = rows[plan.phase_border :]
    assert len(set(exploited)) == len(exploited)  # without replacement
    assert np.mean(exploited[:10]) > 45 and np.mean(rows[: plan.phase_border]) < 40  # the number of a row is its difficulty


@pytest.mark.parametrize("capacity", [1, 3, 5, 64])
def test_micro_batches_make_the_unsplit_step(capacity: int, tmp_path: Path) -> None:
    """The same losses, norms and weights whatever a forward pass may hold; so the weighting is by tokens."""
    config = PHITrainingConfig(base_batch_size=10, phi_dropout_schedule=False, base_dropout=0.0, base_learning_rate=5e-3)
    found = []
    for rows in (128, capacity):
        trainer, _ = golden(tmp_path, config, num_train_epochs=1, per_device_train_batch_size=rows)
        lines = trained(trainer)
        found.append((lines, [parameter.detach().clone() for parameter in trainer.model.parameters()]))
    for a, b in zip(found[0][0], found[1][0], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, atol=2e-6)


def test_a_loss_that_takes_no_token_count_is_weighted_all_the_same(tmp_path: Path) -> None:
    """A model whose forward takes no num_items_in_batch gives means; micro-batches then weigh by their label tokens."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head, self.drop = torch.nn.Embedding(VOCABULARY, 8), torch.nn.Linear(8, VOCABULARY), torch.nn.Dropout(0.0)

        def forward(self, input_ids: Any, labels: Any, attention_mask: Any = None) -> dict[str, Any]:
            logits = self.head(self.drop(self.embed(input_ids)))
            return {"loss": torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}

    config = PHITrainingConfig(base_batch_size=10, phi_dropout_schedule=False, base_dropout=0.0, phi_training_phases=False)
    losses = []
    for capacity in (64, 3):
        trainer, _ = golden(tmp_path, config, model=Plain(), num_train_epochs=1, per_device_train_batch_size=capacity)
        losses.append([line["loss"] for line in trained(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("difficulty", ["unigram", "loss"])
@pytest.mark.parametrize("stop", [3, 7, 11])
def test_resumed_is_uninterrupted(difficulty: str, stop: int, tmp_path: Path) -> None:
    """Bit-equal in rows, losses and weights, whether stopped in the first phase, the second, or between two log lines."""
    config = PHIExtendedConfig(base_batch_size=4, base_learning_rate=1e-2, difficulty=difficulty)
    settings = {"num_train_epochs": 1.5, "save_strategy": "steps", "save_steps": stop, "logging_steps": 2}
    whole, rows = golden(tmp_path / "whole", config, model=new_model(dropout=0.1), **settings)
    history = trained(whole)
    checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
    resumed, again = golden(tmp_path / "whole", config, model=new_model(dropout=0.1), **settings)
    later = trained(resumed, resume_from_checkpoint=str(checkpoint))
    assert [{**line} for line in later] == history
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [piece for piece in again.seen if len(piece) <= 4]
    assert steps == [piece for piece in rows.seen if len(piece) <= 4][-len(steps) :]


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    settings = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 5}
    trained(golden(tmp_path, PHITrainingConfig(base_batch_size=4), **settings)[0])
    other, _ = golden(tmp_path, PHITrainingConfig(base_batch_size=4, batch_phi_phases=2), **settings)
    with pytest.raises(ConfigError, match="another plan") as caught:
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert "\n" not in str(caught.value)


def test_epoch_strategies_count_epochs_of_rows(tmp_path: Path) -> None:
    config = PHITrainingConfig(base_batch_size=4)
    trainer = PHITrainer(
        config,
        model=new_model(),
        args=arguments(tmp_path, num_train_epochs=3, save_strategy="epoch", eval_strategy="epoch", logging_strategy="epoch"),
        train_dataset=dataset(),
        eval_dataset=dataset(6),
        data_collator=Collate(),
    )
    trained(trainer)
    evaluated = [line["epoch"] for line in trainer.state.log_history if "eval_loss" in line]
    assert len(evaluated) == 3 and all(abs(epoch - whole) < 0.2 for epoch, whole in zip(evaluated, (1, 2, 3), strict=True))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 4  # of three epochs, and of the first weights, which the watchdog goes back to
    state = json.loads((trainer_state(tmp_path)).read_text(encoding="utf-8"))
    assert state["num_train_epochs"] == 3 and math.isclose(state["epoch"], 3)


def trainer_state(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])) / "trainer_state.json"
