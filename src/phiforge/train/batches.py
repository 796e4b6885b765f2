"""Which rows make which batch: a stream without an end (but a plan's) that starts at any step at once.

Row g of the whole run (g = 0, 1, ...) belongs to epoch g // n and is the (g % n)-th of that epoch's own permutation, so a batch may
straddle two epochs and no row is dropped. Step s takes rows s*G ... s*G + G - 1 (G = rows in one optimizer step, all processes together);
within it each forward pass of each process takes a slice. So the rows of a step are the same for 8 x 1, 1 x 8 and 2 processes x 4.

Where the batch varies, a plan says how many rows came before step s; the stream then gives the whole step at once (this process's share
of it) and the trainer cuts it into forward passes. Where a training phase wants difficult rows, they are drawn for it alone (`Focus`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from phiforge.core.seeds import derive
from phiforge.data.packed import IGNORED

Batch = dict[str, torch.Tensor]


class RowSource(Protocol):
    """Anything with a length that gives rows by index, stacked: `input_ids`, `shift_labels`, `position_ids`, each (B, T) int64."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]: ...


class Plan(Protocol):
    """What a golden.timetable.Timetable tells the stream."""

    def rows_before(self, step: int) -> int: ...


class Focus(Protocol):
    """Rows `first` ... `first + rows - 1` of the run, drawn by difficulty: the k-th of them is row draw(k) of the data of `epoch`."""

    @property
    def first(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def epoch(self) -> int: ...

    def draw(self, k: int) -> int: ...


class Order:
    """The permutation of each epoch, from the seed alone. Only the last two epochs are held."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self.focus: Sequence[Focus] = ()
        self._held: dict[int, np.ndarray] = {}

    def __getitem__(self, g: int) -> tuple[int, int]:
        """(epoch, index of the row in that epoch's data) of the g-th row of the run."""
        for focus in self.focus:
            if focus.first <= g < focus.first + focus.rows:
                return focus.epoch, focus.draw(g - focus.first)
        epoch, place = divmod(g, self.n)
        if epoch not in self._held:
            self._held = {e: p for e, p in self._held.items() if e == epoch - 1}
            self._held[epoch] = np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.n)
        return epoch, int(self._held[epoch][place])


class TrainStream:
    """Batches for the trainer, from any step on.

    rows_of: epoch -> that epoch's rows; every epoch must have at least `n` of them. Has no length on purpose: transformers then counts
    steps alone, and its own slow way to skip batches is never taken.
    """

    def __init__(
        self,
        rows_of: Callable[[int], RowSource],
        n: int,
        *,
        seed: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rows_of, self.n = rows_of, n
        self.order = Order(n, seed)
        self.batch_size, self.accumulation, self.rank, self.world_size = batch_size, accumulation, rank, world_size
        self.start_step = 0
        self.plan: Plan | None = None  # set where the batch varies
        self._rows: dict[int, RowSource] = {}

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimizer step, over all processes; where the batch varies, of the base batch."""
        return self.batch_size * self.accumulation * self.world_size

    def rows_before(self, step: int) -> int:
        """Rows of all steps before `step`, over all processes."""
        return step * self.rows_per_step if self.plan is None else self.plan.rows_before(step)

    def batch(self, step: int, micro: int) -> Batch:
        """This process's batch of forward pass `micro` of optimizer step `step`."""
        first = step * self.rows_per_step + (micro * self.world_size + self.rank) * self.batch_size
        return self._stacked(range(first, first + self.batch_size))

    def whole(self, step: int) -> Batch:
        """This process's share of all rows of `step`.

        Shares differ by at most one row. A process without any computes one row that counts for nothing, to keep step with the others.
        """
        first, end = self.rows_before(step), self.rows_before(step + 1)
        low, high = (first + (end - first) * place // self.world_size for place in (self.rank, self.rank + 1))
        if low < high:
            return self._stacked(range(low, high))
        batch = self._stacked(range(first, first + 1))
        return batch | {name: torch.full_like(batch[name], IGNORED) for name in ("shift_labels", "labels")}

    def _stacked(self, rows: Iterable[int]) -> Batch:
        places = [self.order[g] for g in rows]
        parts = [self._rows_of(epoch).batch([i for e, i in places if e == epoch]) for epoch in sorted({e for e, _ in places})]
        batch = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        return batch | {"labels": batch["shift_labels"]}  # transformers takes the absence of `labels` for `no loss wanted`

    def _rows_of(self, epoch: int) -> RowSource:
        if epoch not in self._rows:
            self._rows = {e: rows for e, rows in self._rows.items() if e == epoch - 1} | {epoch: self.rows_of(epoch)}
        return self._rows[epoch]

    def __iter__(self) -> Iterator[Batch]:
        step = self.start_step
        while True:
            if self.plan is not None:
                if self.plan.rows_before(step) == self.plan.rows_before(step + 1):
                    return
                yield self.whole(step)
            else:
                for micro in range(self.accumulation):
                    yield self.batch(step, micro)
            step += 1
