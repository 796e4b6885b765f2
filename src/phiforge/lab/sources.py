"""`compare` for trainings that exist already: gathered into arms, paired, checked, and judged as an experiment's trials are.

Nothing is trained. Runs pair by the seed that they recorded; each value is the one a run ended with (see lab/reading.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from phiforge.core.atomic import write_json
from phiforge.core.config import nearest
from phiforge.core.errors import ConfigError
from phiforge.core.hardware import preflight_disk
from phiforge.core.runs import Run
from phiforge.lab.arms import ArmPlan
from phiforge.lab.decide import Evidence, assemble
from phiforge.lab.experiment import flat, lower_is_better
from phiforge.lab.items import add_items
from phiforge.lab.poison import apply, check_trials
from phiforge.lab.readers import read_all
from phiforge.lab.reading import Reading, finite, step_of
from phiforge.lab.sides import By, arms_of, baseline_arm, even_ends, paired
from phiforge.lab.tables import Table, read_table
from phiforge.lab.trials import Outcome, Point, kept_metrics

BASELINES = ("baseline", "control", "standard", "stock", "default", "base")
TABLES = (".csv", ".tsv")
_ROOM = 10_000_000  # bytes of disk for a verdict and its page
_DEFAULTS = ("eval_bits_per_byte", "eval_loss", "eval/loss", "val_loss", "loss")  # the first that every run has, where none is declared
_LOWER = ("loss", "nll", "ppl", "perplexity", "bits", "bpb", "bpc", "error", "err", "mse", "mae", "rmse", "wer", "cer", "entropy")
_HIGHER = ("accuracy", "acc", "reward", "score", "f1", "bleu", "rouge", "auc", "recall", "precision", "match", "pass", "win")


@dataclass(kw_only=True)
class Gathered:
    """The arms, the baseline first in `trials`. settings: arm -> what its configs have different from the baseline's."""

    metric: str
    lower: bool
    baseline: str
    trials: dict[str, list[Outcome]]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    clock: bool = False  # whether seconds were logged
    tokens: bool = False
    by_order: bool = False


def compare_existing(
    runs: Sequence[Path | str],
    against: Sequence[Path | str] = (),
    *,
    metric: str | None = None,
    lower_is_better: bool | None = None,
    out: Path | None = None,
    alpha: float = 0.05,
    until_clear: bool = False,
    by: By = "seed",
    best: bool = False,
    name: str = "",
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """The verdict (verdict.json's content) on `runs` against `against`.

    runs: run folders (or folders of them), trainer_state.json, W&B runs, lines of JSON; or one CSV file. against: the baseline's; for a
    CSV the name of its baseline arm, none = the one called baseline, control or standard, else the first. metric: none = eval_bits_per_byte
    or eval_loss, whichever all have; a CSV's only column of numbers. by: `order` pairs the runs as they are listed. best: a run's value is
    the best on its way (shown with a warning). out: a folder for verdict.json. Raises ConfigError, DataError, RunError: one line each.
    """
    _check_words(metric=metric, lower_is_better=lower_is_better, alpha=alpha, by=by, best=best)
    if out is not None:
        _refuse_foreign(out)
    tables = [Path(run) for run in runs if Path(run).suffix.lower() in TABLES]
    if tables:
        found = _from_table(tables, list(runs), against, metric, lower_is_better, by)
    else:
        found = _from_runs(runs, against, metric, lower_is_better, by, best)
    return _judge(found, out=out, alpha=alpha, until_clear=until_clear, name=name, command=command)


def _check_words(*, metric: Any, lower_is_better: Any, alpha: Any, by: Any, best: Any) -> None:
    """The settings come from a command line: each must be what it should be."""
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 0.5:
        raise ConfigError(f"alpha={alpha} must be a number above 0 and below 0.5")
    if by not in ("seed", "order"):
        raise ConfigError(f"by={by!r}: runs pair by seed or by order")
    for name, value in (("lower_is_better", lower_is_better), ("best", best)):
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{name}={value} must be true or false")
    if metric is not None and not isinstance(metric, str):
        raise ConfigError(f"metric={metric} is no name")


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "verdict.json").is_file())):
        raise ConfigError(f"{out}: holds files that are no comparison", fix="choose an empty folder with --out")
    if (out / "experiment.yaml").is_file():
        raise ConfigError(f"{out}: holds an experiment of its own", fix="choose another --out")
    preflight_disk(out, _ROOM)


def _judge(found: Gathered, *, out: Path | None, alpha: float, until_clear: bool, name: str, command: Sequence[str]) -> dict[str, Any]:
    findings = check_trials(found.trials, baseline=found.baseline, metric=found.metric, lower=found.lower, by_order=found.by_order)
    trials, warnings = apply(found.trials, findings)
    plans = [ArmPlan(name=arm, role="baseline" if arm == found.baseline else "arm", settings=found.settings.get(arm, {})) for arm in trials]
    evidence = Evidence(metric=found.metric, lower=found.lower, alpha=alpha, until_clear=until_clear, arms=plans, trials=trials)
    seeds = list(dict.fromkeys(outcome.seed for outcomes in trials.values() for outcome in outcomes))
    others = [arm for arm in trials if arm != found.baseline]
    head = {
        "name": name or f"{', '.join(others)} against {found.baseline}",
        "description": "runs that existed already",
        "question": "",
        "prediction": "",
        "command": list(command),
        "budget": {"tokens": None, "seconds": None},
        "recipe": "",
        "step": "",
        "seeds": seeds,
    }
    verdict = assemble(evidence, head, folder=(out or Path.cwd()).resolve(), tuning={}, warnings=[*found.warnings, *warnings])
    for row in verdict["comparisons"]:
        row["equal_seconds"] = row["equal_seconds"] if found.clock else None
        if row["to_baseline_loss"] and not found.tokens:
            row["to_baseline_loss"] |= {"tokens": None}
    add_items(verdict, trials)
    if out is not None:
        write_json(out / "verdict.json", verdict)
    return verdict


def direction(metric: str, said: bool | None = None) -> bool:
    """Whether lower is better: as said, else as the metric's name tells. Raises ConfigError where it tells nothing.

    >>> direction("eval_loss"), direction("val/ppl"), direction("eval_acc")
    (True, True, False)
    """
    if said is not None:
        return said
    words = "".join(letter if letter.isalnum() else " " for letter in metric.lower()).split()
    for word in reversed(words):  # reward_loss is a loss
        if word in (*_LOWER, *_HIGHER):
            return word in _LOWER
    told = lower_is_better(metric)
    if told is None:
        raise ConfigError(
            f"metric {metric!r}: its name does not tell which way is better", fix="lower_is_better=true or lower_is_better=false"
        )
    return told


# -- from a table -------------------------------------------------------------------------------------------------------


def _from_table(
    tables: list[Path], runs: Sequence[Path | str], against: Sequence[Path | str], metric: str | None, lower: bool | None, by: By
) -> Gathered:
    if len(runs) > 1:
        raise ConfigError(f"{tables[0]}: a table holds all arms, so it is given alone", fix="put all rows into one file")
    if len(against) > 1:
        raise ConfigError(f"--against {' '.join(map(str, against))}: a table has one baseline", fix="--against NAME")
    table = read_table(tables[0], metric, by_order=by == "order")
    arms = list(dict.fromkeys(row.arm for row in table.rows))
    if len(arms) < 2:
        raise ConfigError(f"{tables[0]}: one arm ({arms[0]}), and a comparison needs two", fix="the column arm names them")
    warnings = []
    if against:
        baseline = str(against[0])
        if baseline not in arms:
            raise ConfigError(f"{tables[0]}: no arm {baseline!r}; {nearest(baseline, arms)}")
    else:
        known = {arm.lower(): arm for arm in reversed(arms)}
        baseline = next((known[word] for word in BASELINES if word in known), arms[0])
        if baseline.lower() not in BASELINES:
            warnings.append(f"the baseline is {baseline}, the first arm of the table; --against NAME says another")
    if table.history:
        warnings.append(f"a trial's value is the {table.metric} of its last step")
    ordered = [baseline, *(arm for arm in arms if arm != baseline)]
    trials = {arm: [_of_row(table, row) for row in table.rows if row.arm == arm] for arm in ordered}
    trials = paired(trials, by, warnings, str(tables[0]))
    even_ends(trials)
    found = Gathered(metric=table.metric, lower=direction(table.metric, lower), baseline=baseline, trials=trials, warnings=warnings)
    found.by_order = by == "order"
    return found


def _of_row(table: Table, row: Any) -> Outcome:
    points = [
        Point(step=int(step), tokens=step, seconds=math.nan, value=value) for step, value in table.points.get((row.arm, row.seed), [])
    ]
    return Outcome(
        arm=row.arm, seed=row.seed, status="complete" if row.why is None else "failed", value=row.value, points=tuple(points),
        error=None if row.why is None else f"line {row.line}: {row.why}", metrics={table.metric: row.value, **row.others},
    )  # fmt: skip


# -- from runs ----------------------------------------------------------------------------------------------------------


def _from_runs(
    runs: Sequence[Path | str], against: Sequence[Path | str], metric: str | None, lower: bool | None, by: By, best: bool
) -> Gathered:
    if not runs or not against:
        raise ConfigError(
            "a comparison has two sides", fix="phiforge compare RUN... --against RUN..., or one CSV file with columns arm,seed,METRIC"
        )
    for path in against:
        if Path(path).suffix.lower() in TABLES:
            raise ConfigError(f"--against {path}: a table holds all arms", fix=f"phiforge compare {path} --against NAME")
    sides = [[reading for path in side for reading in read_all(Path(path))] for side in (against, runs)]
    readings = [reading for side in sides for reading in side]
    metric = _metric_of(readings, metric)
    lower = direction(metric, lower)
    warnings = [f"{reading.path}: {note}" for reading in readings for note in reading.notes]
    warnings += [
        f"{r.path}: its name says seed {r.named_seed}, and it recorded seed {r.seed}, which counts"
        for r in readings
        if r.named_seed is not None and r.seed is not None and r.seed != r.named_seed
    ]
    warnings += [f"{r.path}: was put back on its way" for r in readings if r.run is None and any(line.get("rollback") for line in r.lines)]
    if best:
        warnings.append(f"values are the best {metric} on each run's way, as asked: the best of many looks is better by luck, too")
    _same_cut(readings, warnings)
    baseline, rest = baseline_arm(sides[0]), arms_of(sides[1])
    arms = {baseline: sides[0], **{name if name != baseline else f"{name} (compared)": found for name, found in rest.items()}}
    trials = {arm: [_outcome(reading, arm, metric, best, lower) for reading in found] for arm, found in arms.items()}
    trials = paired(trials, by, warnings, "")
    if any(reading.kind == "lines" for reading in readings):
        even_ends(trials)
    _tell_where(readings, metric, best, lower, warnings)
    found = Gathered(metric=metric, lower=lower, baseline=baseline, trials=trials, settings=_settings(arms, baseline), warnings=warnings)
    found.by_order = by == "order"
    found.clock = all(finite(line.get("seconds", line.get("_runtime"))) for r in readings for line in r.lines if metric in line)
    found.tokens = all(
        finite(line.get("tokens", line.get("num_input_tokens_seen"))) for r in readings for line in r.lines if metric in line
    )
    if not found.tokens:
        warnings.append("the runs don't log tokens: steps stand in their place in curves")
    return found


def _metric_of(readings: Sequence[Reading], metric: str | None) -> str:
    """The declared metric, else the first usual one that every run has."""
    names = [set(reading.names()) for reading in readings]
    known = sorted(set().union(*names))
    if metric is not None:
        if not any(reading.value(metric) for reading in readings):
            raise ConfigError(f"metric {metric!r}: no run has it; {nearest(metric, known)}")
        return metric
    shared = set.intersection(*(found for found in names if found)) if any(names) else set()
    found = next((name for name in _DEFAULTS if name in shared), None)
    if found is None:
        raise ConfigError(
            f"no usual metric is in every run; all have: {', '.join(sorted(shared)) or 'none'}", fix="--metric NAME says which one decides"
        )
    return found


def _tell_where(readings: Sequence[Reading], metric: str, best: bool, lower: bool, warnings: list[str]) -> None:
    """Which value of a run counts, where the runs differ in what they have."""
    where = {value.where for reading in readings if (value := reading.value(metric, best=best, lower=lower))}
    if len(where) > 1:
        warnings.append(f"values of {metric} are of two kinds: {'; '.join(sorted(where))}")


def _same_cut(readings: Sequence[Reading], warnings: list[str]) -> None:
    """Runs that all stopped at one step before their planned end are compared there; one that stopped alone isn't complete."""
    cuts = {reading.cut_at for reading in readings}
    if len(cuts) == 1 and None not in cuts and all(reading.error != "still running" for reading in readings):
        warnings.append(f"every run stopped at step {next(iter(cuts)):g}, before its planned end: they are compared there")
        for reading in readings:
            reading.status, reading.error = "complete", None


def _outcome(reading: Reading, arm: str, metric: str, best: bool, lower: bool) -> Outcome:
    """A reading as a trial of its arm."""
    last = {name: value for line in reading.lines for name, value in line.items() if finite(value)}
    run = reading.run
    settings = _config(run) if run is not None else {}
    streams = run.manifest.decisions.get("streams") if run is not None else None
    final = {name: value for name, value in reading.final.items() if finite(value)}
    lines = [{name: value for name, value in line.items() if value is None or finite(value)} for line in reading.lines]
    metrics = kept_metrics(final, [line for line in lines if line.get("seconds", 0) is not None], (metric,)) if run is not None else last
    made = Outcome(
        arm=arm,
        seed=reading.seed if reading.seed is not None else "",
        status=reading.status,
        folder=reading.path.resolve(),
        error=reading.error,
        metrics=metrics,
        seconds=reading.seconds,
        points=_points(reading, metric),
        streams=streams if isinstance(streams, dict) else {},
        settings=settings,
    )
    if reading.status != "complete":
        return made
    value = reading.value(metric, best=best, lower=lower)
    if value is None:
        return replace(made, status="invalid", error=f"has no {metric}; {nearest(metric, reading.names())}")
    if value.number is None:
        return replace(made, status="failed", error=f"{metric} is no finite number{f' at step {value.step:g}' if value.step else ''}")
    return replace(made, value=value.number)


def _config(run: Run) -> dict[str, Any]:
    try:
        return run.config
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _points(reading: Reading, metric: str) -> tuple[Point, ...]:
    steps = [step_of(line) for line in reading.lines if finite(line.get(metric))]
    return tuple(
        Point(
            step=int(step if step is not None else place),
            tokens=tokens if tokens is not None else place,
            seconds=seconds if seconds is not None else math.nan,
            value=value,
        )
        for place, (step, (tokens, seconds, value)) in enumerate(zip(steps, reading.curve(metric), strict=True))
        if value is not None
    )


def _settings(arms: Mapping[str, Sequence[Reading]], baseline: str) -> dict[str, dict[str, Any]]:
    """What each arm's first run was told otherwise than the baseline's first, the seeds apart."""

    def of(readings: Sequence[Reading]) -> dict[str, Any]:
        run = next((reading.run for reading in readings if reading.run is not None), None)
        return flat(_config(run)) if run is not None else {}

    base = of(arms[baseline])
    found = {}
    for arm, readings in arms.items():
        own = of(readings)
        found[arm] = {
            key: own[key] for key in own if base and own[key] != base.get(key) and key.rpartition(".")[2] not in ("seed", "dropout_seed")
        }
    return found
