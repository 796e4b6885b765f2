"""An experiment under way: its folder's trials as tasks, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiforge.core.seeds import derive
from phiforge.lab.arms import ArmPlan, Design, arm_recipe, trial_recipe
from phiforge.lab.experiment import Experiment
from phiforge.lab.settle import Settled
from phiforge.lab.trials import Outcome, Task, read_trial, run_trial

_TUNING_SEEDS = 1_000_000  # they start here, where no one counts to


@dataclass(frozen=True, kw_only=True)
class How:
    """How the runs are run; none of it changes what they give."""

    jobs: int = 1
    cluster: str | None = None
    gpus: float = 0.0
    retry: bool = False
    command: Sequence[str] = ()
    trial: Callable[[Task], str] = run_trial


@dataclass
class Bench:
    """An experiment under way."""

    design: Design
    out: Path
    name: str
    how: How
    settled: Settled = field(default_factory=Settled)
    tuning: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    planned: dict[str, list[int]] = field(default_factory=dict)  # arm -> its seeds, as far as they are decided on
    died: dict[str, str] = field(default_factory=dict)  # folder -> why its process ended, in this call
    took: list[float] = field(default_factory=list)
    known: dict[str, Outcome] = field(default_factory=dict)  # folder -> what was read there once it was over

    @property
    def experiment(self) -> Experiment:
        """What is asked."""
        return self.design.experiment


def all_seeds(experiment: Experiment) -> list[int]:
    """The seeds in the order in which they are used; with until_clear more follow, up to max_seeds."""
    seeds = list(experiment.seeds)
    if experiment.until_clear:
        more = (seed for seed in range(1, 2 * experiment.max_seeds + len(seeds) + 2) if seed not in set(experiment.seeds))
        while len(seeds) < experiment.max_seeds:
            seeds.append(next(more))
        seeds = seeds[: experiment.max_seeds]
    return seeds


def tuning_seeds(experiment: Experiment) -> list[int]:
    """Seeds to choose settings by: none of those that are measured."""
    taken = {*experiment.seeds, *all_seeds(experiment)}
    count = experiment.tune.seeds if experiment.tune else 0
    return [seed for seed in range(_TUNING_SEEDS, _TUNING_SEEDS + count + len(taken)) if seed not in taken][:count]


def task_of(
    bench: Bench,
    arm: ArmPlan,
    seed: int,
    folder: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    twin: bool = False,
    keep: bool = False,
) -> Task:
    recipe = arm_recipe(
        bench.design,
        arm.settings if settings is None else settings,
        seed=seed,
        precision=bench.settled.precision,
        dropout_seed=derive(seed, "another dropout") % 2**32 if twin else None,
        tokens=bench.settled.tokens_of(bench.design, arm.name),
    )
    own = trial_recipe(recipe, bench.design, (bench.out / "shared").absolute())
    return Task(arm=arm.name, seed=seed, recipe=own.model_dump(mode="json"), folder=str(folder.absolute()), keep_model=keep)


def outcome_of(bench: Bench, task: Task) -> Outcome:
    """What lies in the task's folder now; a process that died here counts as its failure."""
    if task.folder in bench.known:
        return bench.known[task.folder]
    experiment = bench.experiment
    found = read_trial(Path(task.folder), arm=task.arm, seed=task.seed, metric=experiment.metric, also=experiment.also)
    if not found.over and task.folder in bench.died:
        return Outcome(arm=task.arm, seed=task.seed, folder=Path(task.folder), status="failed", error=bench.died[task.folder])
    if found.over:
        bench.known[task.folder] = found
    return found


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, scale in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.1f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
