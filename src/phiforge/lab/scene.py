"""What the checks of a comparison look at: trials with what their run folders know, pair by pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import METRICS, Run, read_jsonl
from phiforge.lab.trials import Outcome

# Clock and machine fields: two runs that are the same differ in them.
_CLOCK = ("seconds", "cpu_seconds", "peak_memory_bytes", "tokens_per_second", "_runtime", "_timestamp")
_FEW_LINES = 3  # logged lines from which two equal histories are no accident


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something found. seed None: it holds for the whole arm. invalid: the trial's value can't count."""

    kind: str
    arm: str
    seed: int | str | None
    invalid: bool
    text: str


@dataclass(kw_only=True)
class Trial:
    """An outcome with what its run folder knows. `run` is None for other trainers' and for tables."""

    outcome: Outcome
    run: Run | None
    lines: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, outcome: Outcome) -> Trial:
        """Read what is there; a damaged folder is none."""
        if outcome.folder is None or not Run.is_run(outcome.folder):
            return cls(outcome=outcome, run=None)
        try:
            return cls(
                outcome=outcome,
                run=Run.open(outcome.folder),
                lines=[line for line in read_jsonl(outcome.folder / METRICS) if isinstance(line, dict)],
            )
        except PhiforgeError:
            return cls(outcome=outcome, run=None)

    @cached_property
    def history(self) -> str | None:
        """A digest of all that was logged, clocks apart; None where too little was."""
        if not self.lines and len(self.outcome.points) >= _FEW_LINES:
            return repr([(point.step, point.value) for point in self.outcome.points])
        lines = [{key: value for key, value in line.items() if key not in _CLOCK} for line in self.lines]
        lines = [line for line in lines if any(isinstance(value, float) for value in line.values())]
        if len(lines) < _FEW_LINES:
            return None
        return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()

    @cached_property
    def weights(self) -> str | None:
        """A digest of the model that it made; None where it keeps none."""
        files = (
            {name: made.sha256 for name, made in self.run.manifest.artefacts.items() if name.endswith(".safetensors")} if self.run else {}
        )
        return json.dumps(files, sort_keys=True) if files else None

    def parent(self, role: str) -> Run | None:
        """The parent run, where it is still there."""
        made = self.run.manifest.parents.get(role) if self.run else None
        try:
            return Run.open(made.path) if made and Run.is_run(made.path) else None
        except PhiforgeError:
            return None


@dataclass(kw_only=True)
class Scene:
    """What a check looks at."""

    table: dict[str, list[Trial]]
    baseline: str
    base: dict[Any, Trial]
    metric: str
    lower: bool
    timed: bool
    by_order: bool

    def each(self) -> Iterator[tuple[str, Trial]]:
        """(arm, trial) of all."""
        for arm, found in self.table.items():
            for trial in found:
                yield arm, trial

    def pairs(self) -> Iterator[tuple[str, Trial, Trial]]:
        """(arm, its trial, the baseline's with that seed) where both are there, controls included."""
        for arm, trial in self.each():
            base = self.base.get(trial.outcome.seed)
            if arm != self.baseline and base is not None and trial.outcome.status != "missing" and base.outcome.status != "missing":
                yield arm, trial, base


def finding(kind: str, arm: str, trial: Trial | None, text: str, *, invalid: bool) -> Finding:
    """One thing found in a trial; `trial=None`: in the whole arm."""
    return Finding(kind=kind, arm=arm, seed=None if trial is None else trial.outcome.seed, invalid=invalid, text=text)
