"""What every arm cost, and how quietly it went: time, memory, tokens, gradient norms, loss spikes, rollbacks."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from phiforge.report.compare_parts import labelled, marked
from phiforge.report.experiment import Arm, Experiment, Trial
from phiforge.report.format import count, duration, number, size, words
from phiforge.report.html import Markup, card, join, tag
from phiforge.report.read import number_of
from phiforge.stats.spikes import TALL, WIDE, WINDOW
from phiforge.stats.spikes import spikes as count_spikes


def _metric(name: str) -> Callable[[Trial], float | None]:
    return lambda trial: number_of(trial.metrics.get(name))


def _seconds(trial: Trial) -> float | None:
    return trial.seconds if trial.seconds is not None else number_of(trial.metrics.get("seconds"))


def _three(value: float) -> str:
    return f"{value:.3g}"


_GATHERED: list[tuple[str, Callable[[Trial], float | None], Callable[[float], str]]] = [
    ("time", _seconds, duration),
    ("CPU time", _metric("cpu_seconds"), duration),
    ("peak memory", _metric("peak_memory_bytes"), size),
    ("steps", _metric("steps"), lambda value: number(round(value))),
    ("tokens", _metric("tokens"), lambda value: count(round(value))),
    ("gradient norm, median", lambda trial: _middle(_logged(trial, "grad_norm")), _three),
    ("largest", lambda trial: max(_logged(trial, "grad_norm"), default=None), _three),
    ("loss spikes", lambda trial: spikes(trial), _three),
    ("rollbacks", lambda trial: rollbacks(trial), _three),
]


def cost_table(x: Experiment) -> tuple[list[str], list[list[str]]]:
    """(columns, a row for each arm): the value with its spread, then means over the trials that count. Columns that nobody has are out."""
    columns = ["arm", words(x.metric), "spread over seeds", *(name for name, _, _ in _GATHERED)]
    rows = [[arm.name, *_value(arm), *(_mean_of(arm, take, say) for _, take, say in _GATHERED)] for arm in x.arms]
    kept = [0, *(i for i in range(1, len(columns)) if any(row[i] != "–" for row in rows))]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def costs(x: Experiment) -> Markup:
    """The table, and how soon each arm was as good as the baseline in the end."""
    columns, rows = cost_table(x)
    if len(columns) == 1:
        return Markup("")
    table = labelled(columns, [[marked(arm, arm.name), *row[1:]] for arm, row in zip(x.arms, rows, strict=True)])
    against = [c for c in x.comparisons if isinstance(c.get("to_baseline_loss"), dict) and c.get("against", x.baseline) == x.baseline]
    second: Any = ""
    if against:
        reached = [_reached(x, c) for c in against]
        second = join([tag("h3", "Until it reached the baseline's final value"), labelled(["arm", "steps", "tokens", "time"], reached)])
    note = (
        f"Means over the trials that count. A loss spike: a logged training loss that is no number, or {WIDE:g} robust standard"
        f" deviations and {TALL:.0%} above the median of the {WINDOW} calm ones before it."
    )
    return card("Time, memory, and how quietly it went", table, second, note=note)


def _value(arm: Arm) -> tuple[str, str]:
    values = [trial.value for trial in arm.complete if trial.value is not None]
    if not values:
        return "–", "–"
    return f"{statistics.fmean(values):.4f}", f"{statistics.stdev(values):.2g}" if len(values) > 1 else "–"


def _mean_of(arm: Arm, take: Callable[[Trial], float | None], say: Callable[[float], str]) -> str:
    values = [value for trial in arm.complete if (value := take(trial)) is not None]
    return say(statistics.fmean(values)) if values else "–"


def _reached(x: Experiment, c: dict[str, Any]) -> list[Any]:
    steps, tokens, seconds = (number_of(c["to_baseline_loss"].get(name)) for name in ("steps", "tokens", "seconds"))
    said = [number(round(steps)) if steps else "–", count(round(tokens)) if tokens else "–", duration(seconds)]
    return [marked(x.arm(c.get("arm")), c.get("arm")), *said]


def _logged(trial: Trial, name: str) -> list[float]:
    return [value for line in trial.lines if (value := number_of(line.get(name))) is not None]


def _middle(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def spikes(trial: Trial) -> float | None:
    """As the trial counted them, else from its logged training losses; None where it logged none."""
    counted = number_of(trial.metrics.get("spikes"))
    if counted is not None:
        return counted
    losses = [number_of(line["loss"]) for line in trial.lines if "loss" in line]
    return float(count_spikes(losses)) if losses else None


def rollbacks(trial: Trial) -> float | None:
    """How often the watchdog went back; None where the run is not there."""
    return float(sum(bool(line.get("rollback")) for line in trial.lines)) if trial.lines else None
