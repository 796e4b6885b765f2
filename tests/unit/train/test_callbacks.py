"""What happens beside training: metrics, early words, divergence, stopping."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phiforge.core.config import Config
from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import RunWriter, new_manifest, read_jsonl
from phiforge.train.batches import TrainStream
from phiforge.train.callbacks import SAMPLES, EarlyWords, RecordMetrics, StopWhenAsked
from phiforge.train.interrupt import graceful


class Nothing:
    def __len__(self) -> int:
        return 8

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        raise AssertionError("no batch is read here")


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    writer = RunWriter(tmp_path / "run", new_manifest("pretrain", Config()), Config())
    writer.begin()
    return writer


def state(step: int, most: int = 100) -> Any:
    return SimpleNamespace(global_step=step, max_steps=most)


def recorder(run: RunWriter) -> RecordMetrics:
    stream = TrainStream(lambda epoch: Nothing(), 8, seed=0, batch_size=4)
    callback = RecordMetrics(run, stream, 16)
    callback.on_train_begin(None, state(0), None)
    return callback


def test_a_line_has_step_tokens_and_what_was_logged(run: RunWriter) -> None:
    recorder(run).on_log(None, state(3), None, {"loss": 2.5, "learning_rate": 1e-3})
    (line,) = read_jsonl(run.path / "metrics.jsonl")
    assert (line["step"], line["tokens"], line["loss"], line["learning_rate"]) == (3, 3 * 4 * 16, 2.5, 1e-3)
    assert {"seconds", "tokens_per_second"} <= line.keys()


def test_trainers_own_summary_is_left_out(run: RunWriter) -> None:
    recorder(run).on_log(None, state(3), None, {"train_runtime": 1.0, "train_loss": 2.0})
    assert not list(read_jsonl(run.path / "metrics.jsonl"))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do(run: RunWriter, loss: float) -> None:
    with pytest.raises(PhiforgeError, match="training has diverged -> a smaller learning_rate"):
        recorder(run).on_log(None, state(3), None, {"loss": loss})
    (line,) = read_jsonl(run.path / "metrics.jsonl")
    assert line["loss"] is None


def test_early_words_are_shown_and_kept(run: RunWriter) -> None:
    shown: list[str] = []
    words = EarlyWords(run, lambda step: [("Once", f" upon\na step {step}")], 10, shown.append)
    for step in (5, 10, 15):
        words.on_step_end(None, state(step), None)
    words.on_evaluate(None, state(15), None)
    assert [json.loads(line) for line in (run.path / SAMPLES).read_text().splitlines()] == [
        {"step": 10, "prompt": "Once", "text": " upon\na step 10"}
    ]
    assert shown == ["step     10  Once upon a step 10"]


def test_a_signal_asks_for_a_checkpoint_and_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    before = signal.getsignal(signal.SIGTERM)
    with graceful() as stop:
        callback = StopWhenAsked(stop)
        callback.on_step_end(SimpleNamespace(world_size=1), state(3), control)
        assert not control.should_training_stop
        os.kill(os.getpid(), signal.SIGTERM)
        callback.on_step_end(SimpleNamespace(world_size=1), state(4), control)
        assert control.should_save
        assert control.should_training_stop
        assert stop.asked == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().out == ""
