"""One training as its trainer left it, whichever trainer that was: what it logged, what it ended with, its seed.

What counts as a run's value is what it ended with, never the best on the way: the best of many looks is better by luck alone, and the
more so the more often it was looked at.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiforge.core.runs import Run

_SEED = re.compile(r"(?:^|[-_. /=])(?:seed|s)[-_=]?(\d+)$", re.IGNORECASE)
_STEPS = ("step", "_step", "global_step", "trainer/global_step", "train/global_step")
_TOKENS = ("tokens", "num_input_tokens_seen")
_SECONDS = ("seconds", "_runtime")


@dataclass(frozen=True)
class Value:
    """What a run ended with. `number` is None where it is not a finite number; `where` says which line or file it is from."""

    number: float | None
    where: str
    step: float | None


@dataclass(kw_only=True)
class Reading:
    """One training. `lines`: what it logged, in order. `final`: what it recorded at its end, measured on the weights that it kept."""

    path: Path
    kind: str
    name: str
    lines: list[dict[str, Any]]
    final: dict[str, Any] = field(default_factory=dict)
    seed: int | str | None = None
    named_seed: int | None = None
    status: str = "complete"
    error: str | None = None
    seconds: float | None = None
    cut_at: float | None = None  # the step at which it stopped before its planned end
    notes: list[str] = field(default_factory=list)
    run: Run | None = None

    def names(self) -> list[str]:
        """Every metric that has been a number here, most often logged last."""
        found = {name for line in (*self.lines, self.final) for name, value in line.items() if numeric(value)}
        return sorted(found - {*_STEPS, *_TOKENS, *_SECONDS, "epoch", "_timestamp"})

    def value(self, metric: str, *, best: bool = False, lower: bool = True) -> Value | None:
        """The last one logged, or the final one where the run records it; None where the metric never was. `best`: the best on the way."""
        logged = [(line[metric], step_of(line)) for line in self.lines if metric in line]
        if best:
            numbers = [(float(value), step) for value, step in logged if finite(value)]
            if numbers:
                value, step = (min if lower else max)(numbers, key=lambda pair: pair[0])
                return Value(value, "the best on the way", step)
        if metric in self.final:
            value = self.final[metric]
            return Value(float(value) if finite(value) else None, "final, of the weights that were kept", None)
        if logged:
            value, step = logged[-1]
            return Value(float(value) if finite(value) else None, "the last one logged", step)
        return None

    def curve(self, metric: str) -> list[list[float | None]]:
        """[tokens, seconds, value] of every evaluation; without a count of tokens, steps stand in its place."""
        return [
            [_first(line, _TOKENS) if _first(line, _TOKENS) is not None else step_of(line), _first(line, _SECONDS), float(line[metric])]
            for line in self.lines
            if finite(line.get(metric))
        ]

    def last_step(self) -> float | None:
        """The last step that was logged."""
        steps = [step for line in self.lines if (step := step_of(line)) is not None]
        return max(steps) if steps else None


def numeric(value: Any) -> bool:
    """A number, NaN and infinity included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: Any) -> bool:
    """A number that can be compared; whole numbers that no float holds can't."""
    try:
        return numeric(value) and math.isfinite(value)
    except OverflowError:
        return False


def _first(line: dict[str, Any], names: tuple[str, ...]) -> float | None:
    return next((float(line[name]) for name in names if finite(line.get(name))), None)


def step_of(line: dict[str, Any]) -> float | None:
    """The step of a logged line, whatever the trainer calls it."""
    return _first(line, _STEPS)


def split_name(name: str) -> tuple[str, int | None]:
    """A run's name as (arm, seed): `phi-seed-3`, `phi_s3` and `phi/seed=3` are seed 3 of phi; the seed is None where none is said.

    >>> split_name("phi-seed-3"), split_name("seed-0"), split_name("gpt2")
    (('phi', 3), ('', 0), ('gpt2', None))
    """
    match = _SEED.search(name)
    return (name[: match.start()], int(match.group(1))) if match else (name, None)


def run_name(folder: Path) -> str:
    """What a run's folder is called: the nearest of its last two names that says a seed, with the arm before it.

    `out/phi/seed-3`, `out/phi-seed-3` and `out/phi-seed-3/pretrain` (a recipe's step) are `phi/seed-3` and `phi-seed-3`.
    """
    own, above, top = [*reversed(folder.resolve().parts), "", "", ""][:3]
    word, before = (own, above) if split_name(own)[1] is not None or split_name(above)[1] is None else (above, top)
    return f"{before}/{word}" if before and split_name(word) == ("", split_name(word)[1]) else word
