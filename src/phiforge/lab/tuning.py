"""Each arm at its best: every setting tried on seeds that are not measured, and the best one put into the arm."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phiforge.core import console
from phiforge.lab.arms import chosen, settings_to_try
from phiforge.lab.bench import Bench, outcome_of, task_of, tuning_seeds
from phiforge.lab.experiment import flat
from phiforge.lab.trials import Outcome, Task

Run = Callable[[Bench, Sequence[Task], str, Callable[[Task, Outcome, int], None]], None]


def tune(bench: Bench, run: Run) -> None:
    """Try every setting of every arm on the tuning seeds, and put the best into the arm."""
    if bench.experiment.tune is None:
        return
    seeds = tuning_seeds(bench.experiment)
    tried: dict[str, list[tuple[dict[str, Any], list[Task]]]] = {}
    for arm in bench.design.arms:
        for setting in settings_to_try(bench.design, arm):
            folder = bench.out / "tuning" / arm.name / _label(setting)
            settings = chosen(arm, setting).settings
            tasks = [task_of(bench, arm, seed, folder / f"seed-{seed}", settings=settings) for seed in seeds]
            tried.setdefault(arm.name, []).append((setting, tasks))
    run(bench, [task for found in tried.values() for _, tasks in found for task in tasks], "tuning", lambda *_: None)
    arms = []
    for arm in bench.design.arms:
        results = [(setting, [outcome_of(bench, task) for task in tasks]) for setting, tasks in tried.get(arm.name, [])]
        bench.tuning[arm.name] = [_tried(setting, found) for setting, found in results]
        best = _best(bench, arm.name)
        if best is None and results:
            bench.warnings.append(f"tuning: every setting of {arm.name} failed; it runs as it is")
        arms.append(arm if best is None else chosen(arm, results[best][0]))
    bench.design = bench.design.with_arms(arms)
    told = {arm.name: ", ".join(f"{key} {value}" for key, value in (arm.tuned or {}).items()) for arm in arms}
    console.say("tuned: " + "; ".join(f"{name}: {said}" for name, said in told.items() if said))


def _label(setting: Mapping[str, Any]) -> str:
    """A folder's name for a setting."""
    return re.sub(r"[^A-Za-z0-9_.=,+-]", "-", ",".join(f"{key}={value}" for key, value in flat(setting).items()))


def _tried(setting: Mapping[str, Any], found: Sequence[Outcome]) -> dict[str, Any]:
    values = [outcome.value for outcome in found]
    whole = [value for value in values if value is not None]
    return {"settings": flat(setting), "values": values, "mean": statistics.fmean(whole) if len(whole) == len(values) else None}


def _best(bench: Bench, arm: str) -> int | None:
    """The place of the best setting; one that failed on a seed is none. Says where it is the end of what was tried."""
    tried = bench.tuning[arm]
    sign = 1.0 if bench.experiment.lower else -1.0
    usable = [index for index, one in enumerate(tried) if one["mean"] is not None]
    if not usable:
        return None
    best = min(usable, key=lambda index: sign * tried[index]["mean"])
    for key, value in tried[best]["settings"].items():
        numbers = [one["settings"][key] for one in tried if isinstance(one["settings"][key], int | float)]
        if len(set(numbers)) > 2 and value in (min(numbers), max(numbers)):
            end = "largest" if value == max(numbers) else "smallest"
            bench.warnings.append(f"tuning: the best {key} of {arm}, {value:g}, is the {end} that was tried: its best may lie beyond")
    return best
