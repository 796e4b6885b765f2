"""What is settled once for all runs of an experiment, so that arms are alike: the precision, by a short run of the baseline.

The same run tells how fast training is here, and whether the metric that is to decide is reported at all, before hours are spent.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phiforge.core import atomic, hardware
from phiforge.core.config import Config, build, load_yaml, nearest, to_data, to_yaml
from phiforge.core.errors import ConfigError
from phiforge.core.runs import Run
from phiforge.lab.arms import LENGTHS, ArmPlan, Design, arm_recipe, config_of, settings_to_try, trains, trial_recipe
from phiforge.lab.trials import KEPT, Task, run_trial
from phiforge.recipes.plan import plan_recipe
from phiforge.recipes.recipe import Recipe
from phiforge.stats.corrections import least_pairs
from phiforge.train.config import TrainConfig
from phiforge.train.timetables import warmup_of

SETTLED = "settled.yaml"
PROBE_STEPS = 6
RATE_ROUNDS = 3
# What a training run would do besides training; what a config doesn't have is left out.
_SPARE: dict[str, Any] = {
    "max_steps": PROBE_STEPS,
    "eval_steps": PROBE_STEPS,
    "save_steps": PROBE_STEPS,
    "logging_steps": 1,
    "warmup_steps": 0,
    "eval_tokens": 1024,
    "final_eval_tokens": 1024,
    "load_best_model_at_end": False,
    "sample_prompts": [],
    "sample_questions": 0,
}


class Settled(Config):
    """settled.yaml. rates: arm -> tokens a second, where the budget is in seconds. earlier_seeds: seed lists that had results before."""

    precision: str | None = None
    tokens_per_second: float | None = None
    tokens_per_step: float | None = None
    parameters: int | None = None
    metrics: list[str] = []
    rates: dict[str, float] = {}
    earlier_seeds: list[list[int]] = []

    def tokens_of(self, design: Design, arm: str) -> int | None:
        """What a budget in seconds comes to in all runs of an arm; None for another budget. A control of later has the baseline's rate."""
        seconds = design.experiment.budget.seconds if design.experiment.budget else None
        rate = self.rates.get(arm) or self.rates.get(design.experiment.baseline)
        return max(1, round(seconds * rate)) if seconds and rate else None


def read_settled(out: Path) -> Settled | None:
    """What was settled when the experiment began; None before."""
    file = out / SETTLED
    return build(Settled, load_yaml(file), where=str(file)) if file.is_file() else None


def write_settled(out: Path, settled: Settled) -> None:
    """Keep it."""
    atomic.write_text(out / SETTLED, to_yaml(settled))


def settle(design: Design, out: Path) -> Settled:
    """Probe once, keep the answer. Raises what the baseline's run raises, ConfigError for a metric that it doesn't report."""
    found = read_settled(out)
    if found is None:
        found = _probe(design, out)
        check_metric(design, found.metrics)
        if design.experiment.budget and design.experiment.budget.seconds:
            found = found.model_copy(update={"rates": _rates(design, out, found.precision)})
        write_settled(out, found)
    check_metric(design, found.metrics)
    return found


def _rates(design: Design, out: Path, precision: str | None) -> dict[str, float]:
    """Tokens a second of each arm: the best of a few short runs, arms in turn, so that a busy moment of the machine falls on none alone.

    All runs of an arm then get the same tokens: a budget in seconds is measured once, not anew by each run, whose noise would decide.
    """
    best: dict[str, float] = {}
    for _ in range(RATE_ROUNDS):
        for arm in design.arms:
            trained = _try(design, arm, out, precision)[1]
            lines = [line for line in trained.metrics() if "loss" in line]
            first, last = lines[0], lines[-1]  # the first step warms up
            rate = (last["tokens"] - first["tokens"]) / max(last["seconds"] - first["seconds"], 1e-3)
            best[arm.name] = max(best.get(arm.name, 0.0), round(rate, 1))
    shutil.rmtree(out / "probe", ignore_errors=True)
    return best


def check_metric(design: Design, reported: list[str]) -> None:
    """The deciding metric and those beside it must be numbers that the run reports. Raises ConfigError."""
    if design.experiment.metric not in reported:
        raise ConfigError(
            f"{design.experiment.metric!r} is not a metric that {design.measure} ends with; {nearest(design.experiment.metric, reported)}"
        )
    for metric in design.experiment.also:
        if metric not in (*reported, *KEPT):
            raise ConfigError(f"{metric!r} is not a metric that {design.measure} reports; {nearest(metric, reported)}")


def _try(design: Design, arm: ArmPlan, out: Path, precision: str | None = None) -> tuple[Run, Run]:
    """An arm's recipe cut to a few steps, run: the measured run and the trained one."""
    folder = out / "probe"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = _short(trial_recipe(arm_recipe(design, arm.settings, seed=0, precision=precision), design, out / "shared"))
    run_trial(Task(arm=arm.name, seed=0, recipe=recipe.model_dump(mode="json"), folder=str(folder)))
    measured = Run.open(folder)
    return measured, measured if design.step == design.measure else Run.open(folder / design.step)


def _probe(design: Design, out: Path) -> Settled:
    measured, trained = _try(design, design.baseline, out)
    lines = [line for line in trained.metrics() if line.get("tokens_per_second")]
    final = trained.manifest.metrics
    steps = final.get("steps") or PROBE_STEPS
    asked = trained.config.get("precision", "auto")
    numbers = {name for name, value in measured.manifest.metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    settled = Settled(
        precision=trained.manifest.decisions.get("precision") if asked == "auto" else asked,
        tokens_per_second=lines[-1]["tokens_per_second"] if lines else None,
        tokens_per_step=final["tokens"] / steps if final.get("tokens") else None,
        parameters=final.get("parameters"),
        metrics=sorted(numbers),
    )
    shutil.rmtree(out / "probe", ignore_errors=True)
    return settled


def _short(recipe: Recipe) -> Recipe:
    """The recipe with every training step cut to a few steps."""
    steps = []
    for step in recipe.steps:
        config = dict(step.config)
        if trains(step.stage):
            fields = recipe.stage_of(step).config.model_fields
            config |= dict.fromkeys(LENGTHS) | {key: value for key, value in _SPARE.items() if key in fields}
        steps.append(step.model_copy(update={"config": config}))
    return recipe.model_copy(update={"steps": steps})


def foreseen(design: Design, out: Path) -> Settled:
    """What `plan` says of the baseline, for a look ahead of the first run: nothing is written."""
    try:
        plans = {plan.name: plan.facts for plan in plan_recipe(arm_recipe(design, design.baseline.settings), out)}
    except ConfigError:  # by the vocabulary that plan guesses; the tokenizer may choose one that fits
        return Settled()
    facts = plans.get(design.step, {})
    tokens, steps = facts.get("tokens in all"), facts.get("steps")
    return Settled(
        tokens_per_second=_first_number(facts.get("speed")),
        tokens_per_step=tokens / steps if tokens and steps else None,
        parameters=round(_first_number(facts.get("parameters, counted")) or 0) or None,
    )


def _first_number(text: Any) -> float | None:
    """1234.0 of `1,234 tokens/s (tried here)`."""
    found = re.match(r"[0-9][0-9,]*", str(text)) if text else None
    return float(found[0].replace(",", "")) if found else None


# -- what is to come --------------------------------------------------------------------------------------------------


def outlook(design: Design, settled: Settled | None) -> dict[str, Any]:
    """What the experiment will take: runs, tokens and seconds of one, of all, and disk. None = not known yet."""
    experiment = design.experiment
    tune = experiment.tune
    tuning = tune.seeds * sum(len(settings_to_try(design, arm)) for arm in design.arms) if tune else 0
    seeds = experiment.max_seeds if experiment.until_clear else len(experiment.seeds)
    runs = len(design.arms) * seeds + tuning + min(experiment.noise_pairs, seeds)
    settled = settled or Settled()
    config = to_data(config_of(arm_recipe(design, design.baseline.settings), design.step))
    tokens = _tokens(config, settled)
    seconds = config.get("train_seconds")
    if seconds is None and tokens and settled.tokens_per_second:
        seconds = tokens / settled.tokens_per_second
    disk = _disk(design, config, settled.parameters) if settled.parameters else None
    return {
        "runs": runs,
        "at_most": experiment.until_clear,
        "tuning_runs": tuning,
        "seeds": seeds,
        "tokens_per_run": tokens,
        "seconds_per_run": seconds,
        "seconds": seconds * runs if seconds else None,
        "parameters": settled.parameters,
        "disk_bytes": disk,
    }


def cautions(design: Design, settled: Settled | None) -> list[str]:
    """What can be said of the plan before it is paid for: too few seeds to decide anything, a run that is mostly warm-up."""
    experiment, told = design.experiment, []
    m = sum(arm.role == "arm" for arm in design.arms)
    least = least_pairs(m, experiment.alpha)
    if not experiment.until_clear and len(experiment.seeds) < least:
        told.append(f"{len(experiment.seeds)} seeds can't decide anything over {m} arm{'s' if m > 1 else ''}: it takes at least {least}")
    config: Any = config_of(arm_recipe(design, design.baseline.settings), design.step)
    tokens = _tokens(to_data(config), settled or Settled()) if isinstance(config, TrainConfig) else None
    if tokens and settled and settled.tokens_per_step:
        steps = tokens / settled.tokens_per_step
        warmup = warmup_of(config, round(steps))
        if warmup > _MOSTLY * steps:
            told.append(
                f"{warmup:,.0f} of about {steps:,.0f} steps of the baseline are warm-up, in which schedules hardly differ:"
                " more tokens, or less warmup_steps"
            )
    return told


def _tokens(config: Mapping[str, Any], settled: Settled) -> int | None:
    if config.get("max_tokens"):
        return int(config["max_tokens"])
    if config.get("max_steps") and settled.tokens_per_step:
        return round(config["max_steps"] * settled.tokens_per_step)
    return None


_MOSTLY = 0.35  # of a run in warm-up, from which on it is said
_RUN_BYTES = 400_000  # of a trial without its weights: config, log, metrics, samples


def _disk(design: Design, config: Mapping[str, Any], parameters: int) -> int:
    """A model for each arm (or run), the checkpoints of the run that is going on, and the rest of each run."""
    runs = len(design.arms) * (design.experiment.max_seeds if design.experiment.until_clear else len(design.experiment.seeds))
    models = runs if design.experiment.keep_models else len(design.arms)
    kept = (config.get("save_total_limit") or 10) + 2
    return 4 * parameters * models + 12 * parameters * kept + _RUN_BYTES * runs


def preflight(design: Design, settled: Settled, out: Path, jobs: int) -> None:
    """Raise PreflightError when the runs won't fit on the disk."""
    need = outlook(design, settled)["disk_bytes"]
    if need:
        hardware.preflight_disk(out, need * max(1, jobs) if jobs > 1 else need)
