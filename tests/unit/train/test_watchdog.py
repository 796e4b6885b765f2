"""The watchdog: what it barks at and what it doesn't, the standard plan, and a stage that goes back, is killed, and goes on."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phiforge.core.config import build
from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import Run
from phiforge.golden.config import PhiConfig
from phiforge.golden.schedules import schedule
from phiforge.golden.timetable import timetable_of_rows
from phiforge.train import pretrain
from phiforge.train.config import PretrainConfig
from phiforge.train.recovery import is_guarded, standard_rate
from phiforge.train.trainer import StreamTrainer
from phiforge.train.watchdog import PATIENCE, SPREADS, Diverged, Rollback, Watcher, choose_checkpoint, next_rollback, standard_timetable
from tests.invariants.test_same_run import metrics_of, parents_in, train


def healthy(n: int, seed: int, noise: float = 0.1) -> np.ndarray:
    """A curve that falls like those of small models, with heavy-tailed noise as single rows have."""
    steps = np.arange(n)
    return 4.0 * (1 + steps / 20) ** -0.3 + 2.0 + noise * np.random.default_rng(seed).standard_t(4, n)


def first_bark(losses: Any, watcher: Watcher | None = None) -> Diverged | None:
    watcher = watcher or Watcher()
    return next((found for step, loss in enumerate(losses) if (found := watcher.see(step, float(loss)))), None)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, 1.0])
def test_healthy_runs_are_left_alone(noise: float) -> None:
    for seed in range(20):
        assert first_bark(healthy(1500, seed, noise)) is None
    assert first_bark(np.full(500, 2.0)) is None
    assert first_bark(np.linspace(2.0, 1.0, 500)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 7, 300])
def test_what_is_no_number_is_seen_at_once(value: float, step: int) -> None:
    losses = healthy(400, 0)
    losses[step] = value
    found = first_bark(losses)
    assert found is not None and found.step == found.good == step


def test_a_spike_that_stays_is_seen_and_one_that_passes_is_not() -> None:
    losses = healthy(400, 1)
    losses[200 : 200 + PATIENCE - 1] += 5
    assert first_bark(losses) is None
    losses[200 : 200 + PATIENCE] += 5
    found = first_bark(losses)
    assert found is not None and found.step == 200 + PATIENCE - 1 and found.good == 200
    assert "\n" not in found.reason and found.reason.startswith("a loss above")


def test_a_run_that_takes_off_at_once_is_seen_before_there_is_a_window() -> None:
    # the shape of a run at a rate of 1
    losses = [7.7, 7.7, 7.8, 7.9, 8.1, 9.1, 9.4, 9.8, 10.2, 10.9, 13, 15, 17, 18, 19, 22, 26, 30, 35, 40]
    found = first_bark(losses)
    assert found is not None and found.step < 20
    assert first_bark([0.2, 0.9] * 4 + [1.3] * 20) is None  # single rows differ as much
    within = first_bark([6.9, 12, 25, 40, 63, 60, 58, 63, 61, 60])  # inside the first steps, and it stays there
    assert within is not None and within.good == 2


def test_trouble_begins_where_the_spike_did_when_it_ends_in_nan() -> None:
    losses = healthy(400, 1)
    losses[200:203] += 5
    losses[203] = math.nan
    found = first_bark(losses)
    assert found is not None and (found.step, found.good) == (203, 200)


def test_its_state_is_enough_to_go_on() -> None:
    losses = healthy(300, 2)
    losses[150 : 150 + PATIENCE] += 5
    for cut in (10, 151, 153):
        before, after = Watcher(), Watcher()
        assert first_bark(losses[:cut], before) is None
        after.restore(before.state())
        whole = Watcher()
        for step in range(cut):
            whole.see(step, float(losses[step]))
        for step in range(cut, 160):
            a, b = after.see(step, float(losses[step])), whole.see(step, float(losses[step]))
            assert (a is None) == (b is None) and after.state() == whole.state()
    assert SPREADS > 3


def test_the_checkpoint_is_one_from_before_the_trouble() -> None:
    trouble = Diverged(57, 53, "a loss of nan", math.nan)
    assert choose_checkpoint([0, 10, 50, 53, 54, 60], trouble) == 53  # 53 steps made: the trouble came in the next one
    assert choose_checkpoint([54], trouble) is None
    first = next_rollback(trouble, 53, [])
    assert first == Rollback(at=58, to=53, reason="a loss of nan", loss=None)
    second = next_rollback(trouble, 53, [first])
    assert second.scale == 0.5
    with pytest.raises(PhiforgeError, match="after 2 rollbacks"):
        next_rollback(trouble, 53, [first, second])


@pytest.mark.parametrize("rows, base, first", [(1000, 8, 0), (1000, 8, 30), (1000, 8, 60), (7, 2, 1), (1, 1, 0), (10_000_000, 8, 700_000)])
def test_the_standard_plan_keeps_what_was_done_and_reads_the_same_rows(rows: int, base: int, first: int) -> None:
    phi = PhiConfig(phi_batch_progression=True, phi_training_phases=True, phi_dropout_schedule=True, phi_weight_decay_schedule=True)
    golden = timetable_of_rows(phi, rows=rows, base_batch=base, dropout=0.1, weight_decay=0.01)
    plan = standard_timetable(golden, first, lambda total: schedule("cosine", total))
    assert plan.rows == rows and plan.rows_before(plan.steps) == rows and plan.rows_before(first) == golden.rows_before(first)
    for step in range(max(0, first - 3), first):
        assert plan.batch(step) == golden.batch(step)
    for step in (first, first + 1, plan.steps - 1):
        if first <= step < plan.steps - 1:
            assert plan.batch(step) == base
        assert (plan.dropout_at(step), plan.weight_decay_at(step), plan.focus(step)) == (0.1, 0.01, "exploration")
        assert plan.rate_at(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * plan.rows_before(step) / rows)), abs=1e-9)
    half = standard_timetable(golden, first, lambda total: schedule("constant", total), scale=0.5)
    assert half.rate_at(first) == 0.5
    again = standard_timetable(plan, min(first + 1, plan.steps), lambda total: schedule("cosine", total))
    assert (again.steps, again.rows) == (plan.steps, plan.rows)


def test_it_is_on_where_anything_golden_is() -> None:
    def guarded(**settings: Any) -> bool:
        return is_guarded(build(PretrainConfig, settings, where="test"))

    assert not guarded() and not guarded(lr_scheduler_type="linear")
    assert guarded(lr_scheduler_type="phi_decay") and guarded(phi={"phi_batch_progression": True}) and guarded(warmup_type="phi")
    assert guarded(watchdog=True) and not guarded(watchdog=False, lr_scheduler_type="phi_decay")


def test_the_standard_rate_is_the_configs_own_or_a_cosine() -> None:
    for name, standard in (("phi_decay", "cosine"), ("linear", "linear"), ("warmup_stable_decay", "warmup_stable_decay")):
        config = build(PretrainConfig, {"lr_scheduler_type": name, "warmup_type": "phi", "warmup_steps": 10}, where="test")
        rate, expected = standard_rate(config)(100), schedule(standard, 100, warmup=10)
        assert [rate(step) for step in range(100)] == [expected(step) for step in range(100)]


GOLDEN: dict[str, Any] = {
    "max_steps": 40,
    "sample_prompts": [],
    "lr_scheduler_type": "phi_decay",
    "phi": {"phi_batch_progression": True, "phi_dropout_schedule": True, "phi_training_phases": True, "phi_weight_decay_schedule": True},
    "logging_steps": 3,
    "save_steps": 8,
    "eval_steps": 20,
}


def poison(monkeypatch: pytest.MonkeyPatch, steps: list[int]) -> None:
    """Spoil the weights before each of these optimizer steps, once."""
    left, step_of = list(steps), StreamTrainer.training_step

    def spoiling(self: StreamTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if left and self.state.global_step == left[0]:
            left.pop(0)
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))
        return step_of(self, *args, **kwargs)

    monkeypatch.setattr(StreamTrainer, "training_step", spoiling)


class Killed(BaseException):
    """As if the process were gone."""


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return parents_in(tmp_path_factory.mktemp("parents"))


@pytest.fixture(scope="module")
def gone_back(parents: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose weights were spoilt before its 27th step."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, [26])
        return train(tmp_path_factory.mktemp("gone") / "run", parents, **GOLDEN)


def test_a_stage_goes_back_says_so_and_is_finished(gone_back: Run) -> None:
    run = gone_back
    assert run.manifest.decisions["rollback_1"] == {"at": 27, "to": 24, "reason": "a loss of nan", "loss": None, "scale": 1.0}
    lines = metrics_of(run.path)
    assert [line["step"] for line in lines if "rollback" in line] == [24]
    assert lines == sorted(lines, key=lambda line: line["step"]) and all(math.isfinite(line.get("loss", 0.0)) for line in lines)
    after = [line for line in lines if "loss" in line and line["step"] > 24]
    assert {line["batch_size"] for line in after[:-1]} == {4} and all("weight_decay" not in line for line in after)
    assert max(line["batch_size"] for line in lines if "loss" in line and line["step"] <= 24) == 6
    assert "back to the checkpoint of step 24" in (run.path / "log.txt").read_text(encoding="utf-8")
    final = run.manifest.metrics
    assert final["steps"] > 40 and math.isfinite(final["eval_bits_per_byte"])  # the same rows in smaller batches
    seconds = [line["seconds"] for line in run.metrics() if "seconds" in line]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("moment", ["decided", "cut", "later"])
def test_killed_around_a_rollback_it_ends_as_if_it_had_not_been(
    moment: str, gone_back: Run, parents: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def dies(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        poison(patch, [26])
        if moment == "decided":
            patch.setattr("phiforge.train.recovery.forget_after", dies)
        elif moment == "cut":
            patch.setattr("phiforge.train.recovery.Recovery.say", lambda self, run: dies() if self.rollbacks else None)
        else:
            patch.setattr(pretrain, "_finish", dies)
        with pytest.raises(Killed):
            train(tmp_path / "run", parents, **GOLDEN)
    if moment == "decided":  # and one of the branch that was given up is still there
        found = tmp_path / "run" / "checkpoints"
        shutil.copytree(found / "checkpoint-24", found / "checkpoint-25")
    run = train(tmp_path / "run", parents, resume=True, **GOLDEN)
    assert metrics_of(run.path) == metrics_of(gone_back.path)
    a, b = ((path / "model" / "model.safetensors").read_bytes() for path in (run.path, gone_back.path))
    assert a == b


def test_a_stage_that_diverges_thrice_fails_in_one_line(parents: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, [5, 8, 11])
    with pytest.raises(PhiforgeError, match="after 2 rollbacks") as caught:
        train(tmp_path / "run", parents, **(GOLDEN | {"max_steps": 20}))
    assert "\n" not in str(caught.value)
    assert [line["rollback"]["scale"] for line in metrics_of(tmp_path / "run") if "rollback" in line] == [1.0, 0.5]


def test_without_it_the_run_fails_where_it_did_before(parents: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, [5])
    with pytest.raises(PhiforgeError, match="training has diverged"):
        train(tmp_path / "run", parents, **(GOLDEN | {"max_steps": 20, "watchdog": False}))
