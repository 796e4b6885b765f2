"""The stream where a timetable says how many rows a step takes, and where a phase draws by difficulty."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from phiforge.core.config import Config
from phiforge.core.errors import ConfigError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.golden.config import PhiConfig
from phiforge.golden.timetable import timetable_of_rows
from phiforge.train.batches import TrainStream
from phiforge.train.focus import focus_phases

GROWING = PhiConfig(phi_batch_progression=True)


class Numbered:
    """Row i is full of i + 1000 epoch; its labels are all token i."""

    def __init__(self, n: int, epoch: int = 0) -> None:
        self.n, self.epoch = n, epoch

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        rows = np.repeat(np.asarray(indices)[:, None] + 1000 * self.epoch, 3, axis=1)
        return {"input_ids": rows, "shift_labels": rows, "position_ids": rows}


def stream(n: int = 10, **options: Any) -> TrainStream:
    return TrainStream(lambda epoch: Numbered(n, epoch), n, **({"seed": 0, "batch_size": 4} | options))


def rows_of(batches: Any) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch["input_ids"]]


@pytest.mark.parametrize("rows", [1, 7, 20, 95])
def test_the_steps_take_the_plans_rows_in_the_order_of_a_constant_batch(rows: int) -> None:
    plan = timetable_of_rows(GROWING, rows=rows, base_batch=4)
    varying, constant = stream(), stream(batch_size=1)
    varying.plan = plan
    batches = list(itertools.islice(varying, plan.steps))
    assert [len(batch["input_ids"]) for batch in batches] == [plan.batch(step) for step in range(plan.steps)]
    assert rows_of(batches) == rows_of(itertools.islice(constant, rows))
    assert [varying.rows_before(step) for step in range(plan.steps + 1)] == [0, *np.cumsum([len(b["input_ids"]) for b in batches])]


def test_any_step_is_found_at_once() -> None:
    plan = timetable_of_rows(GROWING, rows=95, base_batch=4)
    whole, late = stream(), stream()
    whole.plan = late.plan = plan
    for start in range(0, plan.steps, 3):
        late.start_step = start
        assert rows_of(itertools.islice(late, 3)) == rows_of(list(itertools.islice(whole, plan.steps))[start : start + 3])


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_a_step_and_one_without_rows_keeps_step(world: int) -> None:
    plan = timetable_of_rows(GROWING, rows=50, base_batch=4)
    whole = stream()
    whole.plan = plan
    parts = [stream(rank=rank, world_size=world) for rank in range(world)]
    for part in parts:
        part.plan = plan
    for step in range(plan.steps):
        shares = [part.whole(step) for part in parts]
        counting = [share for share in shares if (share["labels"] != -100).all()]
        assert rows_of(counting) == rows_of([whole.whole(step)])
        idle = [share for share in shares if (share["labels"] == -100).all()]
        assert len(counting) + len(idle) == world
        assert all(len(share["input_ids"]) == 1 and (share["shift_labels"] == -100).all() for share in idle)


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    writer = RunWriter(tmp_path / "run", new_manifest("pretrain", Config()), Config())
    writer.begin()
    return writer


class Rare:
    """Row i: token 0 where i < n / 2, else a token of its own, so that the second half is the difficult one."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        index = np.asarray(indices)
        rows = np.repeat(np.where(index < self.n // 2, 0, index)[:, None], 3, axis=1)
        return {"input_ids": np.repeat(index[:, None], 3, axis=1), "shift_labels": rows, "position_ids": rows}


def focused(run: RunWriter, rows: int, n: int = 40, **phi: Any) -> TrainStream:
    found = TrainStream(lambda epoch: Rare(n), n, seed=0, batch_size=4)
    plan = timetable_of_rows(PhiConfig(phi_training_phases=True, **phi), rows=rows, base_batch=4)
    focus_phases(plan, found, nn.Linear(1, 1), run, seed=0)
    return found


def test_a_phase_of_difficult_rows_begins_at_its_border_and_draws_more_of_them(run: RunWriter) -> None:
    rows = 8000
    plain, drawn = TrainStream(lambda epoch: Rare(40), 40, seed=0, batch_size=4), focused(run, rows, sampling_replacement=True)
    (focus,) = drawn.order.focus
    assert [drawn.order[g] for g in range(focus.first)] == [plain.order[g] for g in range(focus.first)]
    assert not (run.path / "difficulty-2.npy").exists(), "measured when the phase begins, not before"
    places = [drawn.order[g] for g in range(focus.first, rows)]
    assert {epoch for epoch, _ in places} == {focus.first // 40}
    counts = Counter(index for _, index in places)
    hard, easy = (sum(counts[index] for index in half) for half in (range(20, 40), range(20)))
    # phi^(rank/n): the mean weight of the upper half over that of the lower is sqrt(phi) = 1.272
    assert hard / easy == pytest.approx(1.272, abs=0.1)


def test_what_was_measured_is_kept_and_taken_up_again(run: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [focused(run, 400).order[g] for g in range(400)]
    assert run.manifest.decisions["difficulty_2"]
    assert np.load(run.path / "difficulty-2.npy").shape == (40,)

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("measured anew")

    monkeypatch.setattr("phiforge.train.focus.difficulties", never)
    assert [focused(run, 400).order[g] for g in range(400)] == places
    (run.path / "difficulty-2.npy").write_bytes(b"torn")
    with pytest.raises(AssertionError, match="measured anew"):
        focused(run, 400).order[399]


def test_what_would_fail_at_the_border_fails_before_the_first_step(run: RunWriter) -> None:
    with pytest.raises(ConfigError, match="difficulty=column:price"):
        focused(run, 400, difficulty="column:price")
    with pytest.raises(ConfigError, match="sampling=fibonacci with 64 rows"):
        focused(run, 400, n=64, sampling="fibonacci")
    assert focused(run, 400, sampling="fibonacci").order[399]


def test_with_both_phases_exploring_nothing_changes(run: RunWriter) -> None:
    assert focused(run, 400, phase2_focus="exploration").order.focus == []
