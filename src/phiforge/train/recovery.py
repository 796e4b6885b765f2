"""What a training stage does when the watchdog raises Diverged: which checkpoint, which plan from there on, and where it is written down.

A rollback is a decision of the run (run.json), so that a resumed run takes the same way; metrics.jsonl has a line of it at the step gone
back to. What was logged and saved after that step is dropped: it belongs to a branch that was given up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phiforge.core import console
from phiforge.core.runs import METRICS, RunWriter, read_jsonl
from phiforge.golden.timetable import Timetable
from phiforge.train import checkpoints
from phiforge.train.config import TrainConfig
from phiforge.train.regularization import Regularize
from phiforge.train.schedules import Schedule
from phiforge.train.timetables import rate_of
from phiforge.train.watchdog import (
    KEY,
    Diverged,
    Guard,
    Rollback,
    choose_checkpoint,
    forget_after,
    next_rollback,
    no_checkpoint,
    standard_timetable,
)

InForce = Callable[[int], dict[str, float]]


def is_guarded(config: TrainConfig) -> bool:
    """Whether the run has a watchdog: as asked; by default where anything golden is on."""
    if config.watchdog != "auto":
        return bool(config.watchdog)
    return config.phi.applies or config.lr_scheduler_type.startswith("phi_") or config.warmup_type != "linear"


def standard_rate(config: TrainConfig) -> Callable[[float], Schedule]:
    """Base batches planned -> the standard schedule: the config's own shape, or a cosine where that is golden; a linear warm-up."""
    name = "cosine" if config.lr_scheduler_type.startswith("phi_") else config.lr_scheduler_type
    standard = config.model_copy(update={"lr_scheduler_type": name, "warmup_type": "linear", "match_mean_rate": None})
    return lambda total: rate_of(standard, total)


class Recovery:
    """The plan of a stage's run, and what rollbacks make of it. shown: a plan -> what is logged beside a loss."""

    def __init__(self, plan: Timetable, config: TrainConfig, shown: Callable[[Timetable], InForce] | None) -> None:
        self.golden, self.plan, self.config, self.shown = plan, plan, config, shown
        self.rollbacks: list[Rollback] = []

    def attach(self, trainer: Any) -> None:
        """Watch a StreamTrainer."""
        self.trainer = trainer
        self.guard = Guard(trainer)
        trainer.add_callback(self.guard)

    def follow(self, rollbacks: list[Rollback]) -> None:
        """Make the trainer do what the plan is after these rollbacks."""
        self.rollbacks, self.plan, self.guard.rollbacks = rollbacks, self.golden, len(rollbacks)
        if not rollbacks:
            return
        for rollback in rollbacks:
            self.plan = standard_timetable(self.plan, rollback.to, standard_rate(self.config), scale=rollback.scale)
        trainer = self.trainer
        trainer.schedule, trainer.args.max_steps = self.plan.rate_at, self.plan.steps
        trainer.stream.order.focus = []
        if trainer.stream.plan is not None:
            trainer.stream.plan = self.plan
        if self.shown is not None:
            trainer.in_force = self.shown(self.plan)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Regularize):
                callback.timetable = self.plan

    # -- on disk ---------------------------------------------------------------------------------------------

    def resume(self, run: RunWriter) -> None:
        """Before a run goes on: take over its rollbacks, and finish one that was cut off in the middle."""
        decided = _decided(run)
        if decided and run.leader:
            _forget_abandoned(run.path / "checkpoints", decided)
        self.follow(decided)

    def say(self, run: RunWriter) -> None:
        """Have a line of each rollback in metrics.jsonl."""
        said = [line["rollback"] for line in read_jsonl(run.path / METRICS) if "rollback" in line]
        for rollback in self.rollbacks:
            if rollback.to_json() not in said:
                run.metric({"step": rollback.to, "rollback": rollback.to_json()})

    def back(self, diverged: Diverged, run: RunWriter, also: list[str]) -> Path:
        """The checkpoint to go on from. also: further .jsonl files of the run that are cut at it.

        Raises PhiforgeError when it has been tried often enough, or there is no such checkpoint.
        """
        folder = run.path / "checkpoints"
        found = checkpoints.find(folder)
        to = choose_checkpoint(found, diverged)
        if to is None:
            raise no_checkpoint(diverged)
        rollback = next_rollback(diverged, to, self.rollbacks)
        run.decide(_name(len(self.rollbacks) + 1), rollback.to_json, rollback.reason)
        run.log(rollback.said)
        if run.leader:
            forget_after(folder, to)
        for name in (METRICS, *also):
            run.truncate(name, to)
        self.follow([*self.rollbacks, rollback])
        self.say(run)
        return found[to]


def train_guarded(trainer: Any, recovery: Recovery | None, checkpoint: Path | None, run: RunWriter, also: list[str]) -> None:
    """Train to the end, however often that means going back (twice at most)."""
    lost = 0.0
    while True:
        try:
            trainer.train_from(checkpoint)
            break
        except Diverged as diverged:
            if recovery is None:
                raise
            spent = trainer.cpu_seconds
            checkpoint = recovery.back(diverged, run, also)
            lost += spent - _extra(checkpoint).get("cpu_seconds", 0.0)
    trainer.cpu_seconds += lost


def _name(number: int) -> str:
    return f"rollback_{number}"


def _decided(run: RunWriter) -> list[Rollback]:
    found: list[Rollback] = []
    while (values := run.manifest.decisions.get(_name(len(found) + 1))) is not None:
        found.append(Rollback(**values))
    return found


def _extra(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / checkpoints.EXTRA).read_text(encoding="utf-8")))


def _forget_abandoned(folder: Path, decided: list[Rollback]) -> None:
    """Remove checkpoints of a branch that was given up, which a kill right after the decision has left."""
    for step, path in checkpoints.find(folder).items():
        state = json.loads((path / checkpoints.STATE).read_text(encoding="utf-8"))
        known = (state["stateful_callbacks"].get(KEY) or {}).get("rollbacks", 0)
        if step > decided[-1].to and known < len(decided):
            forget_after(folder, decided[-1].to)
            console.say(f"{folder}: checkpoints after step {decided[-1].to:,} were given up by the watchdog and are removed")
            return
