"""What PHITrainer's plan is made of: a PHITrainingConfig as settings of a stage, and the rollbacks that are kept beside its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phiforge.core import console
from phiforge.core.atomic import write_json
from phiforge.core.config import build
from phiforge.golden.api import PHITrainingConfig
from phiforge.train import checkpoints
from phiforge.train.config import TrainConfig
from phiforge.train.watchdog import Diverged, Rollback, choose_checkpoint, forget_after, next_rollback, no_checkpoint

ROLLBACKS = "phi_rollbacks.json"


def stage_settings(config: PHITrainingConfig, args: Any) -> TrainConfig:
    """The settings of a training stage that do what the config says; a warm-up that it leaves open is that of TrainingArguments."""
    settings = config.to_settings()
    if config.warmup is None:  # of args: steps from 1 on, below 1 a fraction of the run
        settings["warmup_steps" if args.warmup_steps >= 1 else "warmup_ratio"] = args.warmup_steps
    settings["warmup_steps"] = int(settings.get("warmup_steps", 0))
    return build(TrainConfig, {"warmup_ratio": 0.0, **settings}, where="PHITrainingConfig")


def rollbacks_until(checkpoint: Path | None) -> list[Rollback]:
    """Those that a checkpoint comes after."""
    kept = checkpoint.parent / ROLLBACKS if checkpoint else None
    if checkpoint is None or kept is None or not kept.is_file():
        return []
    found = [Rollback(**values) for values in json.loads(kept.read_text(encoding="utf-8"))]
    return [rollback for rollback in found if rollback.to <= (checkpoints.step_of(checkpoint) or 0)]


def roll_back(folder: Path, diverged: Diverged, before: list[Rollback], *, leader: bool) -> Path:
    """The checkpoint in `folder` to go on from; what was saved after it is removed, and the rollback is said and kept.

    Raises PhiforgeError where there is none, or after too many rollbacks.
    """
    found = checkpoints.find(folder)
    to = choose_checkpoint(found, diverged)
    if to is None:
        raise no_checkpoint(diverged)
    rollback = next_rollback(diverged, to, before)
    if leader:
        console.warn(rollback.said)
        write_json(folder / ROLLBACKS, [made.to_json() for made in (*before, rollback)])
        forget_after(folder, to)
    return found[to]


def forget_rollbacks(folder: Path) -> None:
    """A run that starts anew has none."""
    (folder / ROLLBACKS).unlink(missing_ok=True)
