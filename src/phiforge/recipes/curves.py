"""Every schedule of a run as a curve, before it runs: rate, batch, dropout, weight decay, the weights of the data, and the phases' borders.

Read off the same timetable that training follows, at places evenly spread over the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from phiforge.golden.sampling import FIBONACCI_LIMIT, golden_weights
from phiforge.golden.timetable import Timetable
from phiforge.train.config import TrainConfig
from phiforge.train.timetables import timetable_of

_PLACES = 144  # twice the columns of a terminal's picture
_ROWS_DRAWN = 100  # points of the curve over ranks


@dataclass
class Curve:
    """One schedule. steps, tokens, values: equally long; the last place is the end of the run. stairs: it holds until the next place.

    `over`: what the curve runs over; only `difficulty` has no steps and tokens, but `ranks` (0 = the easiest row, 1 = the hardest).
    """

    name: str
    values: list[float]
    steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stairs: bool = False
    over: str = "tokens"
    ranks: list[float] = field(default_factory=list)

    @property
    def places(self) -> list[float]:
        """Where the values are, on the curve's own axis."""
        return self.ranks if self.over == "difficulty" else [float(token) for token in self.tokens]


@dataclass
class Border:
    """Where a phase begins, and what its data are drawn by."""

    phase: int
    step: int
    tokens: int
    focus: str

    @property
    def label(self) -> str:
        """As pictures have it."""
        return f"phase {self.phase}: {self.focus}"


@dataclass
class Schedules:
    """All curves of a run and its phases' borders."""

    curves: list[Curve] = field(default_factory=list)
    borders: list[Border] = field(default_factory=list)


def plan_of(config: TrainConfig, *, rows_of_data: float, base_steps: int | None = None, length: int, dropout: float) -> Timetable:
    """The timetable of a run before its data are there. length: tokens in a row.

    rows_of_data: rows in an epoch, as well as that is known. base_steps: steps of the base batch that a time budget allows. dropout: the
    model's own. As train/loop.py has it from the data: max_steps are optimizer steps, all else is rows.
    """
    base, rows, steps = config.per_device_train_batch_size * config.gradient_accumulation_steps, None, None
    if config.max_steps is not None:
        steps = config.max_steps
    elif base_steps is not None:
        rows = base_steps * base
    elif config.max_tokens is not None:
        rows = max(1, config.max_tokens // length)
    elif config.phi.applies:
        rows = max(1, round((config.num_train_epochs or 1.0) * rows_of_data))
    else:
        steps = max(1, round((config.num_train_epochs or 1.0) * rows_of_data / base))
    return timetable_of(config, base_batch=base, rows=rows, steps=steps, dropout=dropout)


def schedules_of(config: TrainConfig, plan: Timetable, length: int) -> Schedules:
    """The curves of whatever the plan schedules. length: tokens in a row."""
    made = Schedules()
    if any(segment.phase == 2 for segment in plan.segments):
        made.borders = _borders(plan, length)
    steps = _steps(plan)
    tokens = [plan.rows_before(step) * length for step in steps]

    def curve(name: str, at: Callable[[int], float], *, stairs: bool = False) -> None:
        made.curves.append(Curve(name, [float(at(step)) for step in steps], steps, tokens, stairs))

    curve(f"learning rate ({config.lr_scheduler_type})", plan.learning_rate_at)
    if len({segment.batch for segment in plan.segments}) > 1:
        curve("batch (rows in a step)", lambda step: plan.segment(step).batch, stairs=True)
    if plan.schedules_dropout:
        curve("dropout", plan.dropout_at)
    if plan.schedules_weight_decay:
        curve("weight decay", plan.weight_decay_at)
    if any(plan.focus(segment.first_step) == "exploitation" for segment in plan.segments):
        _data_weights(config, plan, curve, made)
    return made


def _steps(plan: Timetable) -> list[int]:
    """Steps evenly spread over the rows, and the first and the last one of each segment; at the end one past the last."""
    wanted = {round(plan.rows * i / _PLACES) for i in range(_PLACES)}
    found = {plan.steps}
    for row in wanted:
        segment = plan.segment_of_row(row)
        found.add(segment.first_step + (row - segment.first_row) // segment.batch)
    for segment in plan.segments:
        found |= {segment.first_step, segment.first_step + segment.steps - 1}
    return sorted(found)


def _borders(plan: Timetable, length: int) -> list[Border]:
    borders = []
    for number, (first, _, focus) in enumerate(plan.phases(), start=1):
        step = next((segment.first_step for segment in plan.segments if segment.phase == number), 0)
        borders.append(Border(number, step, first * length, focus))
    return borders


def _data_weights(config: TrainConfig, plan: Timetable, curve: Callable[..., None], made: Schedules) -> None:
    """How much likelier a difficult row is drawn: over the run, and over the ranks where it holds."""
    if config.phi.sampling == "fibonacci":
        return  # its weights depend on the number of rows, which must be below 64; see `refusal`
    import numpy as np

    weights = golden_weights(np.arange(_ROWS_DRAWN)) * _ROWS_DRAWN
    ratio = float(weights[-1] / weights[0])
    curve("data weights, hardest row over easiest", lambda s: ratio if plan.focus(s) == "exploitation" else 1.0, stairs=True)
    ranks = [i / (_ROWS_DRAWN - 1) for i in range(_ROWS_DRAWN)]
    made.curves.append(Curve("data weights by difficulty (1 = uniform)", weights.tolist(), over="difficulty", ranks=ranks))


def refusal(config: TrainConfig, plan: Timetable, rows_of_data: float) -> str | None:
    """What the schedules can't do with so much data."""
    wanted = any(plan.focus(segment.first_step) == "exploitation" for segment in plan.segments)
    if wanted and config.phi.sampling == "fibonacci" and rows_of_data >= FIBONACCI_LIMIT:
        few = f"phi.sampling=fibonacci is for fewer than {FIBONACCI_LIMIT} rows"
        return f"{few}, and there are some {rows_of_data:,.0f} -> phi.sampling=golden"
    return None


def notes(config: TrainConfig, plan: Timetable) -> dict[str, Any]:
    """What the curves alone don't say."""
    said: dict[str, Any] = {}
    if config.phi.phi_dropout_schedule and plan.dropout == 0:
        said["dropout"] = "0 throughout: the model has none to begin with (phi.base_dropout gives it some)"
    if config.phi.phi_weight_decay_schedule and plan.weight_decay == 0:
        said["weight decay"] = "0 throughout: weight_decay is 0"
    if config.match_mean_rate:
        said["mean of the rate"] = f"that of {config.match_mean_rate} (match_mean_rate)"
    return said


def as_data(made: Schedules) -> dict[str, Any]:
    """Plain data for --json."""
    curves = []
    for curve in made.curves:
        places: dict[str, Any] = {"ranks": curve.ranks} if curve.over == "difficulty" else {"steps": curve.steps, "tokens": curve.tokens}
        curves.append({"name": curve.name, "over": curve.over, "stairs": curve.stairs, **places, "values": curve.values})
    return {"curves": curves, "borders": [{"phase": b.phase, "step": b.step, "tokens": b.tokens, "focus": b.focus} for b in made.borders]}
