"""How a data set of any kind becomes the batches that a timetable asks for.

One item of the loader is a whole optimizer step: this process's share of its rows, collated in as many micro-batches as memory asks for.
It seeks: step s has the same rows whether the run was resumed or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phiforge.core.atomic import atomic_file
from phiforge.core.errors import ConfigError, DataError
from phiforge.golden.config import PhiConfig
from phiforge.golden.sampling import WeightedDraw, sampling_weights
from phiforge.train.batches import Order
from phiforge.train.difficulty import IGNORED, shifted_labels

Collator = Callable[[list[Any]], dict[str, Any]]


@dataclass(frozen=True)
class StepBatch:
    """All rows of one optimizer step on this process. rows: how many each micro-batch holds. step_rows: those of all processes."""

    micro: list[dict[str, Any]]
    rows: list[int]
    step_rows: int

    def shares(self, world_size: int, *, by_tokens: bool) -> list[float]:
        """What part of the step's mean each micro-batch is, times the processes (whose means are averaged): by label tokens, or by rows."""
        if by_tokens and "labels" in self.micro[0]:
            counts = [int((micro["labels"][..., 1:] != IGNORED).sum()) for micro in self.micro]
            return [count / max(1, sum(counts)) for count in counts]
        return [rows * world_size / self.step_rows for rows in self.rows]


class StepRows:
    """Batch sampler without an end: the rows of step after step, from `start_step` on.

    rows_before: step -> rows taken before it. A process without a row computes one that counts for nothing, so that all keep step.
    """

    def __init__(self, order: Order, rows_before: Callable[[int], int], *, rank: int = 0, world_size: int = 1) -> None:
        self.order, self.rows_before, self.rank, self.world_size = order, rows_before, rank, world_size
        self.start_step = 0

    def rows(self, step: int) -> list[int]:
        """Places in the data set of all rows of a step, over all processes."""
        return [self.order[g][1] for g in range(self.rows_before(step), self.rows_before(step + 1))]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while rows := self.rows(step):
            low, high = (len(rows) * place // self.world_size for place in (self.rank, self.rank + 1))
            yield [(len(rows), index) for index in rows[low:high]] or [(-len(rows), rows[0])]
            step += 1


class Numbered:
    """A data set whose items come with the count of rows of their step, as `StepRows` gives it."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        return key[0], self.data[key[1]]


class CollateStep:
    """Items of a step -> StepBatch. capacity: most rows of a micro-batch; micro-batches are of one size, or differ by one row."""

    def __init__(self, collate: Collator, capacity: int) -> None:
        self.collate, self.capacity = collate, capacity

    def __call__(self, items: list[tuple[int, Any]]) -> StepBatch:
        step_rows, features = items[0][0], [item for _, item in items]
        passes = -(-len(features) // self.capacity)
        borders = [len(features) * place // passes for place in range(passes + 1)]
        pieces = [features[low:high] for low, high in itertools.pairwise(borders)]
        micro = [self.collate(piece) for piece in pieces]
        if step_rows < 0:  # a row that counts for nothing
            for name in ("labels", "shift_labels"):
                if name in micro[0]:
                    micro[0][name] = torch.full_like(micro[0][name], IGNORED)
            return StepBatch(micro, [0], -step_rows)
        return StepBatch(micro, [len(piece) for piece in pieces], step_rows)


def loader(
    data: Any, sampler: StepRows, collate: Collator, capacity: int, *, workers: int = 0, pin_memory: bool = False
) -> torch.utils.data.DataLoader:
    """The training loader. It has no length (transformers then counts steps alone) and draws nothing from the global generator."""
    return torch.utils.data.DataLoader(
        Numbered(data),  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=CollateStep(collate, capacity),
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )


class DrawnPhase:
    """Rows `first` ... `first + rows - 1` of a run, drawn by difficulty, which is measured when the first of them is asked for.

    measure: () -> (n,) difficulties. What was measured is kept in each checkpoint, so that a resumed run draws the same.
    """

    def __init__(self, phi: PhiConfig, measure: Callable[[], np.ndarray], *, phase: int, first: int, rows: int, n: int, seed: int) -> None:
        self.phi, self.measure, self.phase, self.seed = phi, measure, phase, seed
        self.first, self.rows, self.epoch = first, rows, first // n
        self.difficulty: np.ndarray | None = None
        self._drawn: WeightedDraw | None = None
        sampling_weights(np.zeros(n), phi.sampling)  # raises now what it would raise when the phase begins

    @property
    def name(self) -> str:
        """Its file in a checkpoint."""
        return f"phi_difficulty-{self.phase}.npy"

    def draw(self, k: int) -> int:
        """The row of the data that the k-th draw takes."""
        if self._drawn is None:
            if self.difficulty is None:
                self.difficulty = self.measure()
            weights, again = sampling_weights(self.difficulty, self.phi.sampling), self.phi.sampling_replacement
            self._drawn = WeightedDraw(weights, seed=self.seed, first=self.first, rows=self.rows, epoch=self.epoch, replacement=again)
        return self._drawn.draw(k)

    def save(self, folder: Path) -> None:
        """Into a checkpoint, where it has been measured."""
        if self.difficulty is not None and folder.is_dir():
            with atomic_file(folder / self.name) as temporary, temporary.open("wb") as stream:
                np.save(stream, self.difficulty, allow_pickle=False)

    def load(self, folder: Path | None) -> None:
        """From a checkpoint; without it, it will be measured (again)."""
        kept = folder is not None and (folder / self.name).is_file()
        self.difficulty = np.load(folder / self.name, allow_pickle=False) if folder is not None and kept else None
        self._drawn = None


class CollatedRows:
    """A data set as a RowSource for `difficulties`: rows collated as for training, as numpy arrays."""

    def __init__(self, data: Any, collate: Collator) -> None:
        self.data, self.collate = data, collate

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The rows `indices`. A pair of preferences counts as one row, its answers one after the other."""
        found = self.collate([self.data[int(index)] for index in indices])
        arrays = {name: value.detach().cpu().numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}
        if "labels" not in arrays and "completion_mask" in arrays:  # the collators of TRL
            arrays["labels"] = np.where(arrays["completion_mask"] == 1, arrays["input_ids"], IGNORED)
        if "labels" not in arrays and "shift_labels" not in arrays:
            raise ConfigError(
                "the data collator gives no labels, so the difficulty of a row can't be measured",
                fix="difficulty=column:NAME, or phi_training_phases=False",
            )
        times = len(arrays["input_ids"]) // len(indices)
        if times > 1:
            labels = shifted_labels(arrays)
            return {"shift_labels": np.concatenate(np.split(labels, times), axis=1)}
        return arrays


def column_of(data: Any, name: str) -> Any:
    """The values of a column, in the order of rows; None where the data has none of that name."""
    if name in (getattr(data, "column_names", None) or []):
        return list(data[name])
    if len(data) and isinstance(data[0], dict) and name in data[0]:
        return [data[index][name] for index in range(len(data))]
    return None


def require_length(data: Any) -> int:
    """Rows of a training set. Raises ConfigError for one that is only iterable, DataError for an empty one."""
    try:
        n = len(data)
    except TypeError:
        raise ConfigError(
            f"phi_config needs a train_dataset whose length is known, not {type(data).__name__}",
            fix="a datasets.Dataset or a list; or phi_config=None",
        ) from None
    if n < 1:
        raise DataError("train_dataset is empty")
    return n
