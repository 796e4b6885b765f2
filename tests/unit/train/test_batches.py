"""Which rows make which batch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from phiforge.train.batches import Order, TrainStream


class Numbered:
    """Row i is full of i + 1000 epoch."""

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


@pytest.mark.parametrize("n", [1, 10, 63])
def test_each_epoch_has_every_row_once_in_its_own_order(n: int) -> None:
    order = Order(n, seed=1)
    epochs = [[order[g] for g in range(e * n, (e + 1) * n)] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(row for _, row in epoch) == list(range(n))
    if n > 5:
        assert [row for _, row in epochs[0]] != [row for _, row in epochs[1]]


def test_a_batch_may_straddle_two_epochs_and_no_row_is_lost() -> None:
    seen = rows_of(itertools.islice(stream(n=10), 5))  # 20 rows: two epochs
    assert sorted(seen) == [*range(10), *range(1000, 1010)]


def test_any_step_is_found_at_once() -> None:
    whole, late = stream(), stream()
    late.start_step = 7
    skipped = list(itertools.islice(whole, 12))[7:]
    for a, b in zip(skipped, late, strict=False):
        assert (a["input_ids"] == b["input_ids"]).all()


@pytest.mark.parametrize("batch_size, accumulation, world_size", [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)])
def test_a_step_has_the_same_rows_however_it_is_cut(batch_size: int, accumulation: int, world_size: int) -> None:
    whole = [set(rows_of([stream(batch_size=8).batch(step, 0)])) for step in range(6)]
    for step in range(6):
        cut = [
            row
            for rank in range(world_size)
            for micro in range(accumulation)
            for row in rows_of(
                [stream(batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size).batch(step, micro)]
            )
        ]
        assert len(cut) == 8
        assert set(cut) == whole[step]


def test_it_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(stream())  # type: ignore[arg-type]


def test_the_seed_decides() -> None:
    assert rows_of([stream(n=50, seed=1).batch(0, 0)]) != rows_of([stream(n=50, seed=2).batch(0, 0)])
    assert rows_of([stream(n=50, seed=1).batch(0, 0)]) == rows_of([stream(n=50, seed=1).batch(0, 0)])
