"""Phases that want difficult rows: measured when the phase begins, kept in the run folder, so that a resumed run draws the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from torch import nn

from phiforge.core.atomic import atomic_file
from phiforge.core.errors import ConfigError
from phiforge.core.runs import RunWriter
from phiforge.golden.config import PhiConfig
from phiforge.golden.sampling import WeightedDraw, sampling_weights
from phiforge.golden.timetable import Timetable
from phiforge.train.batches import TrainStream
from phiforge.train.difficulty import difficulties


class PhaseDraw:
    """Rows `first` ... `first + rows - 1` of a run, drawn by difficulty, from the data of the epoch in which the phase begins.

    The difficulty is measured at the first draw, by the model as it is then: the stream is read one step at a time, so the phase begins.
    """

    def __init__(
        self, phi: PhiConfig, stream: TrainStream, model: nn.Module, run: RunWriter, *, phase: int, first: int, rows: int, seed: int
    ) -> None:
        self.phi, self.stream, self.model, self.run, self.phase = phi, stream, model, run, phase
        self.first, self.rows, self.seed = first, rows, seed
        self.epoch = first // stream.n
        self._drawn: WeightedDraw | None = None

    @property
    def path(self) -> Path:
        """Where the difficulties are kept: (n,) float64."""
        return self.run.path / f"difficulty-{self.phase}.npy"

    def draw(self, k: int) -> int:
        """The row of the data that the k-th draw takes."""
        if self._drawn is None:
            weights = sampling_weights(self._difficulty(), self.phi.sampling)
            self._drawn = WeightedDraw(
                weights, seed=self.seed, first=self.first, rows=self.rows, epoch=self.epoch, replacement=self.phi.sampling_replacement
            )
        return self._drawn.draw(k)

    def _difficulty(self) -> np.ndarray:
        name, known = f"difficulty_{self.phase}", self._kept()
        if known is not None and self.run.manifest.decisions.get(name) == _digest(known):
            return known
        found = difficulties(self.phi.difficulty, self.stream.rows_of(self.epoch), self.stream.n, model=self.model)
        if self.run.leader:
            with atomic_file(self.path) as temporary:
                np.save(temporary, found, allow_pickle=False)
        self.run.decide(name, lambda: _digest(found), f"sha256 of {self.path.name}, measured as phase {self.phase} began")
        return found

    def _kept(self) -> np.ndarray | None:
        try:
            return np.asarray(np.load(self.path, allow_pickle=False), np.float64)
        except (OSError, ValueError):
            return None


def focus_phases(plan: Timetable, stream: TrainStream, model: nn.Module, run: RunWriter, *, seed: int) -> None:
    """Tell the stream which phases of the plan are drawn by difficulty. Raises ConfigError now for what would fail only at the border."""
    spans = [(number, first, rows) for number, (first, rows, focus) in enumerate(plan.phases(), 1) if focus == "exploitation"]
    if spans and plan.phi.difficulty.startswith("column:"):
        raise ConfigError(
            f"difficulty={plan.phi.difficulty}: rows of packed text have no columns",
            fix="difficulty=unigram or loss; PHITrainer takes a column of its data set",
        )
    if spans:
        sampling_weights(np.zeros(stream.n), plan.phi.sampling)
    stream.order.focus = [
        PhaseDraw(plan.phi, stream, model, run, phase=phase, first=first, rows=rows, seed=seed) for phase, first, rows in spans
    ]


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, np.float64).tobytes()).hexdigest()
