"""`phiforge compare EXPERIMENT.yaml`: every arm with every seed, and verdict.json, rewritten after each run.

A folder holds one experiment: experiment.yaml, settled.yaml, shared/, tuning/, noise/, trials/<arm>/seed-<n>/, verdict.json and the report.
Killed at any moment it loses at most the run that was going on; the same command goes on.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phiforge.core import atomic, console
from phiforge.core.config import build, load_yaml, to_data, to_yaml
from phiforge.core.errors import ConfigError, Interrupted, PreflightError
from phiforge.core.hardware import preflight_disk
from phiforge.core.lock import Lock
from phiforge.lab.arms import ArmPlan, Design, resolve, shared_recipe
from phiforge.lab.bench import Bench, How, all_seeds, duration, outcome_of, task_of, tuning_seeds
from phiforge.lab.cluster import run_tasks
from phiforge.lab.controls import add_controls, control_for
from phiforge.lab.decide import Evidence, assemble, differences, family, pairs_of
from phiforge.lab.experiment import Experiment, flat
from phiforge.lab.items import add_items
from phiforge.lab.poison import apply, check_trials
from phiforge.lab.settle import Settled, cautions, outlook, preflight, read_settled, settle, write_settled
from phiforge.lab.trials import Outcome, Task, read_trial, refuse_other
from phiforge.lab.tuning import tune
from phiforge.recipes.runner import run_recipe
from phiforge.stats.sequential import next_step, sequential_least_pairs

EXPERIMENT, VERDICT = "experiment.yaml", "verdict.json"
_ROOM_TO_START = 50_000_000  # bytes of disk without which nothing is begun
_MAY_CHANGE = {"seeds", "max_seeds", "also", "keep_models"}  # of an experiment that has begun
_SHARE = 20  # verdict.json is rewritten after each run, where that takes less than a twentieth of the time


def compare(experiment: Experiment, out: Path, *, name: str, how: How | None = None) -> dict[str, Any]:
    """Run what isn't run yet, and return the content of verdict.json.

    Every config is checked before the first run. Raises ConfigError, Interrupted (with what is done saved), or PreflightError.
    """
    how = how or How()
    design = resolve(experiment)
    bench = Bench(design, out, name, how)
    add_controls(design)  # they are checked too
    _claim(out, experiment)
    with Lock(out):
        _write_experiment(bench)
        try:
            return _run_all_of_it(bench)
        except (KeyboardInterrupt, Interrupted):
            done, of = _counts(bench)
            if bench.planned:
                write_verdict(bench, finished=False)
            fix = f"the same command goes on; {out / VERDICT} has what is known so far" if bench.planned else "the same command goes on"
            raise Interrupted(f"{out}" + (f": {done} of {of} runs done" if of else ""), fix=fix) from None


def _run_all_of_it(bench: Bench) -> dict[str, Any]:
    shared = shared_recipe(bench.design)
    if shared:
        run_recipe(shared, bench.out / "shared", resume=True, draw=False)
    bench.settled = settle(add_controls(bench.design), bench.out)
    preflight(add_controls(bench.design), bench.settled, bench.out, bench.how.jobs)
    preview(add_controls(bench.design), bench.settled, bench.how.jobs)
    tune(bench, _run)
    bench.design = add_controls(bench.design)
    _seeds_warning(bench)
    bench.warnings += cautions(bench.design, bench.settled)
    _measure(bench)
    return write_verdict(bench, finished=True)


# -- the folder -------------------------------------------------------------------------------------------------------


def _claim(out: Path, experiment: Experiment) -> None:
    """A new or empty folder, or one that holds this experiment, with room on its disk. Raises ConfigError, PreflightError."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file, and an experiment needs a folder", fix="choose another --out")
    if not (out / EXPERIMENT).is_file():
        strangers = [item.name for item in sorted(out.iterdir()) if not item.name.startswith(".")] if out.is_dir() else []
        if strangers:
            raise ConfigError(f"{out}: holds files that are no experiment ({strangers[0]}, ...)", fix="choose an empty folder with --out")
        preflight_disk(out, _ROOM_TO_START)
        with atomic.writing(out):
            out.mkdir(parents=True, exist_ok=True)
        return
    preflight_disk(out, _ROOM_TO_START)
    old, new = to_data(build(Experiment, load_yaml(out / EXPERIMENT), where=str(out / EXPERIMENT))), to_data(experiment)
    changed = [key for key in new if old.get(key) != new[key] and key not in _MAY_CHANGE]
    if changed:
        raise ConfigError(
            f"{out}: holds another experiment (it differs in {', '.join(changed)})",
            fix="choose another --out: what is asked is fixed before the first run",
        )


def _write_experiment(bench: Bench) -> None:
    """experiment.yaml; seeds that were changed after results were known are remembered."""
    file = bench.out / EXPERIMENT
    before = list(build(Experiment, load_yaml(file), where=str(file)).seeds) if file.is_file() else bench.experiment.seeds
    settled = read_settled(bench.out)
    if before != bench.experiment.seeds and settled and (bench.out / VERDICT).is_file():
        write_settled(bench.out, settled.model_copy(update={"earlier_seeds": [*settled.earlier_seeds, before]}))
    atomic.write_text(file, to_yaml(bench.experiment))


def _seeds_warning(bench: Bench) -> None:
    earlier = (read_settled(bench.out) or Settled()).earlier_seeds
    if earlier and not bench.experiment.until_clear:
        counts = " to ".join(str(len(seeds)) for seeds in [*earlier, bench.experiment.seeds])
        bench.warnings.append(
            f"the seeds were changed ({counts}) when results were known already: the error rate of {bench.experiment.alpha:.0%} is not kept"
            " (until_clear keeps it)"
        )


# -- running ----------------------------------------------------------------------------------------------------------


def _run(bench: Bench, tasks: Sequence[Task], what: str, after: Callable[[Task, Outcome, int], None]) -> None:
    """Run the tasks that are not over; `after(task, outcome, how many are left)` as each is done."""
    waiting = []
    for task in tasks:
        refuse_other(task)
        outcome = outcome_of(bench, task)
        if bench.how.retry and outcome.status in ("failed", "invalid"):
            shutil.rmtree(task.folder)
            del bench.known[task.folder]
            outcome = outcome_of(bench, task)
        if not outcome.over:
            waiting.append(task)
    if not waiting:
        return
    if len(waiting) < len(tasks):
        console.say(f"{what}: {len(tasks) - len(waiting)} of {len(tasks)} runs are done already")
    how = bench.how
    retries = 1 if how.cluster else 0
    results = run_tasks(how.trial, waiting, out=bench.out, jobs=how.jobs, cluster=how.cluster, gpus=how.gpus, retries=retries)
    with console.progress(what, len(tasks), count=True) as bar:
        bar.set(len(tasks) - len(waiting))
        for done, (index, result) in enumerate(results, 1):
            task = waiting[index]
            if isinstance(result, Interrupted | KeyboardInterrupt | PreflightError):  # not the arm's fault: nothing is counted
                if isinstance(result, PreflightError):
                    shutil.rmtree(task.folder, ignore_errors=True)
                raise result
            if isinstance(result, BaseException):
                bench.died[task.folder] = f"{type(result).__name__}: {result}" if not hasattr(result, "what") else str(result)
            outcome = outcome_of(bench, task)
            bench.took += [outcome.seconds] if outcome.seconds else []
            bar.set(len(tasks) - len(waiting) + done)
            bar.print(_line(bench, outcome, len(tasks) - len(waiting) + done, len(tasks)))
            after(task, outcome, len(waiting) - done)


def _line(bench: Bench, outcome: Outcome, done: int, of: int) -> str:
    metric = bench.experiment.metric
    said = f"{metric} {outcome.value:.5g}" if outcome.value is not None else f"{outcome.status}: {outcome.error}"
    left = (of - done) * statistics.fmean(bench.took) / max(1, bench.how.jobs) if bench.took else 0.0
    took = f", {outcome.seconds:.0f} s" if outcome.seconds else ""
    return f"[{done}/{of}] {outcome.arm}, seed {outcome.seed}: {said}{took}" + (f"; about {duration(left)} left" if done < of else "")


# -- measuring --------------------------------------------------------------------------------------------------------


def _folder(bench: Bench, arm: str, seed: int) -> Path:
    return bench.out / "trials" / arm / f"seed-{seed}"


def _trial_task(bench: Bench, arm: ArmPlan, seed: int) -> Task:
    keep = bench.experiment.keep_models or seed == bench.experiment.seeds[0]
    return task_of(bench, arm, seed, _folder(bench, arm.name, seed), keep=keep)


def _noise_tasks(bench: Bench) -> list[Task]:
    seeds = bench.experiment.seeds[: bench.experiment.noise_pairs]
    return [task_of(bench, bench.design.baseline, seed, bench.out / "noise" / f"seed-{seed}", twin=True) for seed in seeds]


def _measure(bench: Bench) -> None:
    """The noise floor, then every arm with every seed, one seed after another; until it is clear, where that is asked."""
    experiment, arms = bench.experiment, bench.design.arms
    seeds = all_seeds(experiment)
    m = max(1, sum(arm.role == "arm" for arm in arms))
    first = min(len(seeds), sequential_least_pairs(m, experiment.alpha)) if experiment.until_clear else len(seeds)
    bench.planned = {arm.name: seeds[:first] for arm in arms}
    noise = _noise_tasks(bench)
    _run_seeds(bench, [_trial_task(bench, bench.design.baseline, task.seed) for task in noise] + noise, "noise floor")
    _run_seeds(bench, [_trial_task(bench, arm, seed) for seed in seeds[:first] for arm in arms], "runs")
    for seed in seeds[first:]:
        evidence = evidence_of(bench, finished=False)
        found = {arm: differences(pairs_of(evidence, arm, evidence.baseline)) for arm in family(evidence)}
        step = next_step(found, max_pairs=len(seeds), alpha=experiment.alpha)
        if not step.go_on:
            console.say(f"no further seed: {step.reason}")
            break
        waiting = {arm for arm, standing in step.arms.items() if standing == "open"}
        wanted = [arm for arm in arms if arm.role == "baseline" or arm.name in waiting or arm.control_of in waiting]
        console.say(f"seed {seed}: {step.reason}")
        for arm in wanted:
            bench.planned[arm.name].append(seed)
        _run_seeds(bench, [_trial_task(bench, arm, seed) for arm in wanted], f"seed {seed}")


def _run_seeds(bench: Bench, tasks: Sequence[Task], what: str) -> None:
    cost, written = 0.0, -math.inf

    def after(task: Task, outcome: Outcome, left: int) -> None:
        nonlocal cost, written
        if time.monotonic() - written < _SHARE * cost:  # a verdict on many quick runs must not cost more than the runs
            return
        began = time.monotonic()
        verdict = write_verdict(bench, finished=False)
        written = time.monotonic()
        cost = written - began
        if left and task.arm == bench.design.arms[-1].name and console.console.is_terminal:
            _standing(verdict)

    _run(bench, tasks, what, after)


def _standing(verdict: Mapping[str, Any]) -> None:
    """The differences so far; the verdict comes with the last run."""
    rows = [(row["arm"], row["n"], row["mean"], *(row["interval"] or ["", ""])) for row in verdict["comparisons"] if row["role"] == "arm"]
    console.table(f"so far, against {verdict['baseline']}", ["arm", "pairs", "mean difference", "from", "to"], rows)


def _counts(bench: Bench) -> tuple[int, int]:
    """Runs that are over, and planned so far."""
    outcomes = [_read(bench, arm, seed) for arm, seeds in bench.planned.items() for seed in seeds]
    return sum(outcome.over for outcome in outcomes), len(outcomes)


def _read(bench: Bench, arm: str, seed: int) -> Outcome:
    return outcome_of(bench, Task(arm=arm, seed=seed, recipe={}, folder=str(_folder(bench, arm, seed).absolute())))


def evidence_of(bench: Bench, *, finished: bool) -> Evidence:
    """What the folders hold now."""
    experiment, design = bench.experiment, bench.design
    trials = {arm: [_read(bench, arm, seed) for seed in seeds] for arm, seeds in bench.planned.items()}
    base = {outcome.seed: outcome.value for outcome in trials[experiment.baseline] if outcome.complete}
    noise = []
    for seed in experiment.seeds[: experiment.noise_pairs]:
        twin = read_trial(bench.out / "noise" / f"seed-{seed}", arm=experiment.baseline, seed=seed, metric=experiment.metric)
        if twin.complete and base.get(seed) is not None:
            noise.append((base[seed] or 0.0, twin.value or 0.0))
    return Evidence(
        metric=experiment.metric,
        lower=experiment.lower,
        alpha=experiment.alpha,
        until_clear=experiment.until_clear,
        arms=design.arms,
        trials=trials,
        controls={arm.name: [control.name for control in control_for(design, arm)] for arm in design.arms if arm.role == "arm"},
        noise=noise,
        finished=finished and all(outcome.over for found in trials.values() for outcome in found),
    )


def write_verdict(bench: Bench, *, finished: bool) -> dict[str, Any]:
    """Judge what is there and write verdict.json."""
    experiment = bench.experiment
    evidence, warnings = evidence_of(bench, finished=finished), list(bench.warnings)
    if finished:  # it reads every run again
        timed = experiment.budget is not None and experiment.budget.seconds is not None
        found = check_trials(evidence.trials, baseline=experiment.baseline, metric=experiment.metric, lower=experiment.lower, timed=timed)
        trials, told = apply(evidence.trials, found)
        evidence, warnings = replace(evidence, trials=trials), warnings + told
    head = {
        "name": bench.name,
        "description": experiment.description,
        "question": experiment.question,
        "prediction": experiment.prediction,
        "command": list(bench.how.command),
        "recipe": experiment.recipe,
        "step": bench.design.step,
        "measure": bench.design.measure,
        "also": experiment.also,
        "precision": bench.settled.precision,
        "tokens_per_second": bench.settled.rates or None,
        "budget": {
            "tokens": experiment.budget.tokens if experiment.budget else None,
            "seconds": experiment.budget.seconds if experiment.budget else None,
        },
        "seeds": bench.planned[experiment.baseline],
        "tuning_seeds": tuning_seeds(experiment),
    }
    verdict = assemble(evidence, head, folder=bench.out.absolute(), tuning=bench.tuning, warnings=warnings)
    add_items(verdict, evidence.trials)
    if experiment.tune:
        verdict["shared"].append("the number of settings tried for each arm, on seeds of their own, by the same validation text")
    atomic.write_json(bench.out / VERDICT, verdict)
    return verdict


def preview(design: Design, settled: Settled | None, jobs: int = 1) -> dict[str, Any]:
    """Say what will run before it does; the same as data."""
    from phiforge.core.hardware import size

    plan = outlook(design, settled)
    rows = [(arm.name, arm.role if not arm.control_of else f"control of {arm.control_of}", _settings(arm.settings)) for arm in design.arms]
    console.table("arms", ["arm", "role", "settings"], rows)
    tokens = f"{plan['tokens_per_run']:,} tokens each" if plan["tokens_per_run"] else "as long as the recipe says"
    seeds = f"{plan['seeds']} seeds" + (" at most" if plan["at_most"] else "")
    extra = f" ({plan['tuning_runs']} for tuning)" if plan["tuning_runs"] else ""
    console.say(f"{plan['runs']} runs{extra}: {len(design.arms)} arms x {seeds}, {tokens}; decided by {design.experiment.metric}")
    if plan["seconds"]:
        each, whole = duration(plan["seconds_per_run"]), duration(plan["seconds"] / max(1, jobs))
        console.say(f"training takes about {each} a run, {whole} in all; starting and measuring each run come on top")
    if plan["disk_bytes"]:
        console.say(f"up to {size(plan['disk_bytes'])} of disk")
    if plan["parameters"]:
        console.say(f"{plan['parameters']:,} parameters in the baseline")
    for caution in cautions(design, settled):
        console.warn(caution)
    return {
        "arms": [{"name": arm.name, "role": arm.role, "control_of": arm.control_of, "settings": flat(arm.settings)} for arm in design.arms],
        "shared": list(design.shared),
        **plan,
    }


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in flat(settings).items()) or "as the recipe says"
