"""What a run does at each optimizer step: rows, rate, dropout, weight decay, phase. Pure: no torch, and any step is found at once.

The unit of progress is the row (all rows of a run hold the same number of tokens): p = rows before the step / rows planned.

A run is a list of segments in which the batch is constant and all batches are full; only the very last batch of a run that is planned in
rows may be smaller, so that its rows are exact. Borders between segments are moved to the nearest whole batch. A segment ends where the
batch grows, and at the border of the training phases where a phase means something; neither phase is empty in a run of two steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict, Unpack

from phiforge.core.errors import ConfigError
from phiforge.golden.batch import batch_shares, batch_sizes
from phiforge.golden.config import Focus, PhaseConfig, PhiConfig
from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED
from phiforge.golden.regularize import dropout_value, weight_decay_value

Rate = Callable[[float], float]  # base batches done -> multiplier of the base rate
PhaseRate = Callable[[float, float], float]  # base batches done and planned in a phase -> multiplier of the base rate


def always(done: float) -> float:
    """The rate of a run that schedules none: 1."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Steps of one batch size. phase: training phase, 1 or 2. batch_phase: 0, 1, ...; rows: in all its steps together."""

    phase: int
    batch_phase: int
    batch: int
    first_step: int
    steps: int
    first_row: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """The plan of a run. Made by `timetable_of_rows` or `timetable_of_steps`; steps count from 0.

    learning_rate, dropout, weight_decay: what their schedules start from. rate: base batches done (rows before the step / base_batch, so
    steps while the batch is constant) -> multiplier of the base learning rate. phase_rates: phase -> shape of the rate over that phase
    alone, from `warmup` base batches on.
    """

    phi: PhiConfig
    base_batch: int
    rows: int
    learning_rate: float = 1.0
    dropout: float = 0.0
    weight_decay: float = 0.0
    rate: Rate = always
    phase_rates: Mapping[int, PhaseRate] = field(default_factory=dict)
    warmup: float = 0.0
    segments: tuple[Segment, ...]

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in all."""
        last = self.segments[-1]
        return last.first_step + last.steps

    @cached_property
    def _first_steps(self) -> list[int]:
        return [segment.first_step for segment in self.segments]

    @cached_property
    def _first_rows(self) -> list[int]:
        return [segment.first_row for segment in self.segments]

    @cached_property
    def phase_border(self) -> int:
        """The row at which training phase 2 begins; `rows` where there is no phase 2 (one step, or phases that mean nothing)."""
        return next((segment.first_row for segment in self.segments if segment.phase == 2), self.rows)

    def segment(self, step: int) -> Segment:
        """The segment of a step; a step past the end is the last one's."""
        return self.segments[max(0, bisect_right(self._first_steps, step) - 1)]

    def segment_of_row(self, row: int) -> Segment:
        """The segment that reads row `row` of the run."""
        return self.segments[max(0, bisect_right(self._first_rows, row) - 1)]

    def batch(self, step: int) -> int:
        """Rows that the step takes."""
        return min(self.segment(step).batch, self.rows - self.rows_before(step)) if step < self.steps else self.segments[-1].batch

    def rows_before(self, step: int) -> int:
        """Rows taken by all steps before it; all of them for a step past the end."""
        segment = self.segment(step)
        return min(self.rows, segment.first_row + (step - segment.first_step) * segment.batch)

    def progress(self, step: int) -> float:
        """p = rows before the step / rows planned, in [0, 1]."""
        return self.rows_before(step) / self.rows

    def base_batches(self, step: int) -> float:
        """Rows before the step in base batches: the unit of `rate`. A whole number stays an int, so that a constant batch counts steps."""
        return _in_batches(self.rows_before(step), self.base_batch)

    def rate_at(self, step: int) -> float:
        """Multiplier of the base learning rate; a phase's own base rate and shape are in it."""
        done, phase, base = self.base_batches(step), self.phase(step), self._block(step).learning_rate
        own = self.phase_rates.get(phase)
        if own is None or done < self.warmup:
            value = self.rate(done)
        else:
            border = self.phase_border / self.base_batch
            start, end = (0.0, border) if phase == 1 else (border, self.rows / self.base_batch)
            start = max(start, self.warmup)
            value = own(done - start, end - start)
        return value if base is None else value * (base / self.learning_rate)

    def learning_rate_at(self, step: int) -> float:
        """The rate itself."""
        return self.learning_rate * self.rate_at(step)

    def dropout_at(self, step: int) -> float:
        """Dropout of the live modules."""
        asked = self._block(step).dropout
        return asked if asked is not None else dropout_value(self.dropout, self.progress(step), self.phi.phi_dropout_schedule)

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of the optimizer's groups that have one."""
        asked = self._block(step).weight_decay
        return (
            asked if asked is not None else weight_decay_value(self.weight_decay, self.progress(step), self.phi.phi_weight_decay_schedule)
        )

    def phase(self, step: int) -> int:
        """Training phase: 1, or 2 from 61.8 % before the end on."""
        return self.segment(step).phase

    def focus(self, step: int) -> Focus:
        """What the data of the step are drawn by. Without phi_training_phases always `exploration`, i.e. uniform."""
        return self.focus_of_phase(self.phase(step))

    def focus_of_phase(self, phase: int) -> Focus:
        """The same for a training phase."""
        if not self.phi.phi_training_phases:
            return "exploration"
        return self.phi.phase1_focus if phase == 1 else self.phi.phase2_focus

    def phases(self) -> list[tuple[int, int, Focus]]:
        """(first row, rows, focus) of each training phase that has rows."""
        border = self.phase_border
        spans = [(0, border, self.focus_of_phase(1)), (border, self.rows - border, self.focus_of_phase(2))]
        return [span for span in spans if span[1]]

    @property
    def schedules_dropout(self) -> bool:
        """Whether dropout is set by this plan, and not left as the model has it."""
        phi = self.phi
        return (
            bool(phi.phi_dropout_schedule) or phi.base_dropout is not None or any(b.dropout is not None for b in (phi.phase1, phi.phase2))
        )

    @property
    def schedules_weight_decay(self) -> bool:
        """Whether weight decay changes during the run."""
        return bool(self.phi.phi_weight_decay_schedule) or any(b.weight_decay is not None for b in (self.phi.phase1, self.phi.phase2))

    def _block(self, step: int) -> PhaseConfig:
        return self.phi.phase1 if self.phase(step) == 1 else self.phi.phase2


class Bases(TypedDict, total=False):
    """What a timetable is made from besides its length; each may be left out.

    learning_rate: the base that a phase's own learning_rate is relative to. dropout: the model's own, where phi.base_dropout is not set.
    rate_of: base batches planned -> the run's rate. phase_rates: phase -> shape of a rate of its own. warmup_of: base batches planned ->
    those of warm-up, in which a phase's own shape does not hold yet.
    """

    learning_rate: float
    dropout: float
    weight_decay: float
    rate_of: Callable[[float], Rate]
    phase_rates: Mapping[int, PhaseRate]
    warmup_of: Callable[[float], float]


def timetable_of_rows(phi: PhiConfig, *, rows: int, base_batch: int, **bases: Unpack[Bases]) -> Timetable:
    """The plan of a run over exactly `rows` rows; how many steps that is follows from the batches.

    base_batch: rows in one optimizer step to start from (all processes and accumulation together). bases: see Bases. Raises ConfigError.

    >>> plan = timetable_of_rows(PhiConfig(phi_batch_progression=True), rows=1000, base_batch=8)
    >>> [(segment.batch, segment.steps) for segment in plan.segments], plan.batch(plan.steps - 1)
    ([(8, 48), (12, 26), (20, 16)], 4)
    """
    if rows < 1:
        raise ConfigError(f"a run over {rows} rows has no step")
    parts = _parts(phi, base_batch)
    in_phase1 = sum(part.phase == 1 for part in parts)
    counts, row = [], 0
    for number, part in enumerate(parts, start=1):
        left = math.ceil((rows - row) / part.batch)
        if number == len(parts):
            count = left
        else:
            count = min(left, max(0, round((rows * sum(p.share for p in parts[:number]) - row) / part.batch)))
        if number == in_phase1 < len(parts):
            count = max(1, min(count, (rows - row - 1) // part.batch))  # a row is left to phase 2, unless one step takes them all
        counts.append(count)
        row = min(rows, row + count * part.batch)
    return _timetable(phi, base_batch, rows, parts, counts, bases)


def timetable_of_steps(phi: PhiConfig, *, steps: int, base_batch: int, **bases: Unpack[Bases]) -> Timetable:
    """The plan of a run of exactly `steps` optimizer steps, all of full batches; its rows follow. As `timetable_of_rows` otherwise.

    >>> plan = timetable_of_steps(PhiConfig(phi_batch_progression=True), steps=90, base_batch=8)
    >>> [(segment.batch, segment.steps, segment.rows) for segment in plan.segments], plan.rows
    ([(8, 48, 384), (12, 26, 312), (20, 16, 320)], 1016)
    """
    if steps < 1:
        raise ConfigError(f"a run of {steps} steps is none")
    parts = _parts(phi, base_batch)
    in_phase1 = sum(part.phase == 1 for part in parts)
    work = [part.share / part.batch for part in parts]  # the steps of the parts are in these proportions
    counts, step = [], 0
    for number in range(1, len(parts) + 1):
        end = steps if number == len(parts) else round(steps * sum(work[:number]) / sum(work))
        if number == in_phase1 < len(parts):
            end = max(1, min(end, steps - 1))
        counts.append(max(0, min(end, steps) - step))
        step += counts[-1]
    rows = sum(count * part.batch for count, part in zip(counts, parts, strict=True))
    return _timetable(phi, base_batch, rows, parts, counts, bases)


@dataclass(frozen=True)
class _Part:
    """A stretch of the run before it is cut to whole steps. share: of all rows."""

    phase: int
    batch_phase: int
    batch: int
    share: float


def _parts(phi: PhiConfig, base_batch: int) -> list[_Part]:
    """Stretches of one batch size and one phase, in order; their shares sum to 1."""
    if base_batch < 1:
        raise ConfigError(f"a batch of {base_batch} rows is none", fix="at least 1")
    blocks = {1: phi.phase1, 2: phi.phase2}
    for number, block in blocks.items():
        if block.batch_size is not None and block.batch_size > phi.max_batch_size:
            raise ConfigError(
                f"phase{number}.batch_size={block.batch_size} is above max_batch_size={phi.max_batch_size}", fix="change one of the two"
            )
    whole = not phi.phi_training_phases and all(block == PhaseConfig() for block in blocks.values())
    if not phi.phi_batch_progression:
        sizes, shares = [base_batch], [1.0]
    else:
        sizes = batch_sizes(base_batch, phi.batch_phi_phases, phi.max_batch_size)
        shares = batch_shares(phi.batch_phi_phases)
    if len(sizes) == 1:
        spans = [(1, 0, sizes[0], 1.0)] if whole else [(1, 0, sizes[0], INV_PHI_SQUARED), (2, 0, sizes[0], INV_PHI)]
    else:
        spans = [(1 if k == 0 else 2, k, size, share) for k, (size, share) in enumerate(zip(sizes, shares, strict=True))]
    parts: list[_Part] = []
    for phase, batch_phase, size, share in spans:
        own = blocks[phase].batch_size
        if own is not None and parts and parts[-1].phase == phase:  # one size for the whole phase: one part
            parts[-1] = _Part(phase, parts[-1].batch_phase, own, parts[-1].share + share)
        else:
            parts.append(_Part(phase, batch_phase, own or size, share))
    return parts


def _in_batches(rows: int, base_batch: int) -> float:
    whole, rest = divmod(rows, base_batch)
    return rows / base_batch if rest else whole


def _timetable(phi: PhiConfig, base_batch: int, rows: int, parts: list[_Part], counts: list[int], bases: Bases) -> Timetable:
    """The timetable of parts that take so many steps each; parts without a step are left out."""
    dropout = bases.get("dropout", 0.0) if phi.base_dropout is None else phi.base_dropout
    if phi.phi_dropout_schedule == "cyclic" and dropout * 1.5 >= 1:
        raise ConfigError(f"phi_dropout_schedule=cyclic swings up to 1.5 x {dropout}, which is no dropout", fix="a base below 0.66")
    segments, step, row = [], 0, 0
    for part, count in zip(parts, counts, strict=True):
        taken = min(count * part.batch, rows - row)
        if count:
            segments.append(
                Segment(
                    phase=part.phase,
                    batch_phase=part.batch_phase,
                    batch=part.batch,
                    first_step=step,
                    steps=count,
                    first_row=row,
                    rows=taken,
                )
            )
        step, row = step + count, row + taken
    total = _in_batches(rows, base_batch)
    return Timetable(
        phi=phi,
        base_batch=base_batch,
        rows=rows,
        learning_rate=bases.get("learning_rate", 1.0),
        dropout=dropout,
        weight_decay=bases.get("weight_decay", 0.0),
        rate=bases["rate_of"](total) if "rate_of" in bases else always,
        phase_rates=dict(bases.get("phase_rates", {})),
        warmup=bases["warmup_of"](total) if "warmup_of" in bases else 0.0,
        segments=tuple(segments),
    )
