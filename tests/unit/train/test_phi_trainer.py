"""PHITrainer on LoRA models, before TRL's trainers, with the watchdog; what it refuses."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phiforge.core.errors import ConfigError, DataError, PhiforgeError
from phiforge.golden.api import PHIExtendedConfig, PHITrainingConfig
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train.adapter import quiet
from phiforge.train.phi_trainer import PHITrainer, PHITrainerMixin
from phiforge.train.regularization import read_dropout
from phiforge.train.watchdog import PATIENCE

VOCABULARY, LENGTH = 32, 12
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    quiet()
    yield
    torch.set_num_threads(before)


def new_model() -> Any:
    spec = {"family": "llama", "width": 16, "depth": 1, "heads": 2, "vocab_size": VOCABULARY, "context_length": LENGTH}
    return build(resolve(DecoderSpec.model_validate(spec)), seed=0)


def dataset(n: int = 40) -> list[dict[str, Any]]:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (n, LENGTH))
    return [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]


def trainer_of(folder: Path, config: PHITrainingConfig | None, model: Any = None, cls: type = PHITrainer, **settings: Any) -> Any:
    data = settings.pop("train_dataset", dataset())
    args = transformers.TrainingArguments(**(SETTINGS | {"output_dir": str(folder)} | settings))
    return cls(phi_config=config, model=model or new_model(), args=args, train_dataset=data)


def train(trainer: Any, **settings: Any) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(**settings)
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by a name that it is giving up
def test_a_lora_model_has_its_dropout_scheduled_and_its_base_left_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
    base = new_model()
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    model = peft.get_peft_model(base, settings)
    trainer = trainer_of(tmp_path, PHITrainingConfig(base_batch_size=4, base_learning_rate=1e-2), model, num_train_epochs=2)
    seen: list[dict[str, float]] = []

    class Reading(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(read_dropout(model))

    trainer.add_callback(Reading())
    train(trainer)
    plan = trainer.phi_timetable
    assert all(set(places.values()) == {plan.dropout_at(step)} for step, places in enumerate(seen)) and len(seen) == plan.steps
    assert any("lora_dropout" in name for name in seen[0])
    trained = {name.replace("base_layer.", "").removeprefix("base_model.model."): p for name, p in model.named_parameters()}
    assert all(torch.equal(trained[name], value) for name, value in before.items())
    assert any("lora_B" in name and bool(p.abs().sum() > 0) for name, p in trained.items())


def words() -> Any:
    """A tokenizer of ten words."""
    tokenizers = pytest.importorskip("tokenizers")
    names = "<pad> <eos> a b c d e f g h".split()
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["DPO", "KTO"])
def test_trl_trainers_follow_the_same_plan(method: str, tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    draw = random.Random(0)

    def text() -> str:
        return " " + " ".join(draw.choices("abcdefgh", k=draw.randint(2, 5)))

    rows = [
        {"prompt": text(), "chosen": text(), "rejected": text(), "hard": number}
        if method == "DPO"
        else {"prompt": text(), "completion": text(), "label": bool(number % 2), "hard": number}
        for number in range(20)
    ]
    golden = type(f"PHI{method}Trainer", (PHITrainerMixin, getattr(trl, f"{method}Trainer")), {})
    config = PHIExtendedConfig(base_batch_size=4, base_learning_rate=1e-2, base_dropout=0.05, difficulty="column:hard")
    histories = {}
    for capacity in (64, 4):
        args = getattr(trl, f"{method}Config")(
            **(SETTINGS | {"output_dir": str(tmp_path), "per_device_train_batch_size": capacity, "num_train_epochs": 2, "bf16": False})
        )
        trainer = golden(
            phi_config=config,
            model=new_model(),
            ref_model=new_model(),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=words(),
        )
        histories[capacity] = train(trainer)
        plan = trainer.phi_timetable
        assert plan.rows == 40 and len(histories[capacity]) == plan.steps
        for step, line in enumerate(histories[capacity]):
            assert line["batch_size"] == plan.batch(step)
            assert line["learning_rate"] == pytest.approx(1e-2 * plan.rate_at(step), rel=1e-12)
            assert line["dropout"] == plan.dropout_at(step)
    first = [histories[capacity][0]["loss"] for capacity in (64, 4)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert {line["batch_size"] for line in histories[64]} >= {4, 6, 10}  # and what is left over at the end


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_pairs_are_weighted_alike_however_they_are_cut(tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    draw = random.Random(1)
    rows = [
        {key: " " + " ".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for key in ("prompt", "chosen", "rejected")} for _ in range(16)
    ]
    golden = type("PHIDPOTrainer", (PHITrainerMixin, trl.DPOTrainer), {})
    config = PHITrainingConfig(base_batch_size=5, base_learning_rate=1e-2, base_dropout=0.0, phi_dropout_schedule=False)
    losses = []
    for capacity in (64, 3):
        args = trl.DPOConfig(**(SETTINGS | {"output_dir": str(tmp_path), "per_device_train_batch_size": capacity, "bf16": False}))
        data = datasets.Dataset.from_list(rows)
        trainer = golden(config, model=new_model(), ref_model=new_model(), args=args, train_dataset=data, processing_class=words())
        losses.append([line["loss"] for line in train(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) > 1


class Poison(transformers.TrainerCallback):
    """Spoils the weights after a step, in the process that it is in, `times` times."""

    def __init__(self, step: int, value: float, times: int = 1) -> None:
        self.step, self.value, self.times = step, value, times

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step and self.times:
            self.times -= 1
            with torch.no_grad():
                model.lm_head.weight.mul_(self.value)


def guarded(folder: Path, **settings: Any) -> Any:
    config = PHITrainingConfig(base_batch_size=2, base_learning_rate=1e-3)
    return trainer_of(folder, config, num_train_epochs=6, save_strategy="steps", save_steps=10, **settings)


@pytest.mark.parametrize("value", [float("nan"), 1e3])
def test_a_run_that_diverges_goes_back_and_on_by_the_standard_schedule(value: float, tmp_path: Path, capsys: Any) -> None:
    trainer = guarded(tmp_path)
    trainer.add_callback(Poison(57, value))
    lines = train(trainer)
    (rollback,) = [line["rollback"] for line in trainer.state.log_history if "rollback" in line]
    assert rollback["to"] == 50 and rollback["at"] == (58 if np.isnan(value) else 57 + PATIENCE)
    assert "back to the checkpoint of step 50" in " ".join(capsys.readouterr().err.split())
    before, after = lines[:50], lines[50:]
    assert max(line["batch_size"] for line in before) == 3 and {line["batch_size"] for line in after[:-1]} == {2}
    assert {line.get("dropout", 0.1) for line in after} == {0.1} and all("weight_decay" not in line for line in after)
    assert sum(line["batch_size"] for line in lines) == 240 and trainer.state.epoch == pytest.approx(6)
    assert all(np.isfinite(line["loss"]) and line["loss"] < 5 for line in lines)
    rates = [line["learning_rate"] for line in after]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 1e-4  # linear, to zero
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_a_rollback_is_part_of_a_resumed_run(tmp_path: Path) -> None:
    whole = guarded(tmp_path)
    whole.add_callback(Poison(47, float("nan")))
    history = train(whole)
    resumed = guarded(tmp_path)
    again = train(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-60"))
    assert again == history
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_run_that_diverges_at_once_starts_again_from_its_first_weights(tmp_path: Path) -> None:
    trainer = guarded(tmp_path)
    trainer.add_callback(Poison(3, float("nan")))
    lines = train(trainer)
    assert [line["rollback"]["to"] for line in trainer.state.log_history if "rollback" in line] == [0]
    assert {line["batch_size"] for line in lines} == {2} and len(lines) == 120


def test_after_two_rollbacks_it_gives_up_in_one_line(tmp_path: Path) -> None:
    trainer = guarded(tmp_path)
    trainer.add_callback(Poison(47, float("nan"), times=9))
    with pytest.raises(PhiforgeError, match="after 2 rollbacks") as caught:
        train(trainer)
    assert "\n" not in str(caught.value)


def test_the_second_time_the_rate_is_halved(tmp_path: Path) -> None:
    trainer = guarded(tmp_path)
    trainer.add_callback(Poison(47, float("nan"), times=2))
    train(trainer)
    assert [line["rollback"]["scale"] for line in trainer.state.log_history if "rollback" in line] == [1.0, 0.5]


def test_without_a_checkpoint_there_is_no_way_back(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, PHITrainingConfig(base_batch_size=2), num_train_epochs=2)
    trainer.add_callback(Poison(5, float("nan")))
    with pytest.raises(PhiforgeError, match="no checkpoint from before"):
        train(trainer)


def test_what_is_refused(tmp_path: Path) -> None:
    config = PHITrainingConfig()

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            yield from dataset()

    cases: list[tuple[type[Exception], str, Any]] = [
        (ConfigError, "first argument of PHITrainer is phi_config", lambda: PHITrainer(new_model())),
        (ConfigError, "length is known", lambda: trainer_of(tmp_path, config, train_dataset=Endless(), max_steps=5)),
        (DataError, "empty", lambda: trainer_of(tmp_path, config, train_dataset=[])),
        (ConfigError, "no column 'hard'", lambda: trainer_of(tmp_path, PHIExtendedConfig(difficulty="column:hard"))),
        (ConfigError, "fibonacci", lambda: trainer_of(tmp_path, PHIExtendedConfig(sampling="fibonacci"), train_dataset=dataset(70))),
        (ConfigError, "no checkpoint to resume", lambda: trainer_of(tmp_path, config).train(resume_from_checkpoint=True)),
    ]
    for kind, said, make in cases:
        with pytest.raises(kind) as caught:
            make()
        assert said in str(caught.value) and "\n" not in str(caught.value)
