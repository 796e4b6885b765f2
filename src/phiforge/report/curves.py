"""Which curves a run has, from the names in its metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phiforge.report.format import words
from phiforge.report.read import RunView, dicts, number_of
from phiforge.report.svg import Chart, Series


@dataclass(frozen=True)
class _Known:
    """A chart that is drawn first, with the names that go into it."""

    title: str
    unit: str
    names: tuple[tuple[str, str], ...]  # (name in metrics.jsonl, name in the legend)
    noisy: bool = False
    stairs: bool = False


_KNOWN = (
    _Known("Bits per byte", "held-out text", (("eval_bits_per_byte", "held-out text"),)),
    _Known("Loss", "nats per token", (("loss", "training"), ("eval_loss", "held-out")), noisy=True),
    _Known("Next token right", "fraction", (("eval_accuracy", "held-out"),)),
    _Known("Learning rate", "", (("learning_rate", "learning rate"),)),
    _Known("Batch", "rows in a step", (("batch_size", "batch"),), stairs=True),
    _Known("Dropout", "", (("dropout", "dropout"),)),
    _Known("Weight decay", "", (("weight_decay", "weight decay"),)),
    _Known("Gradient norm", "before clipping", (("grad_norm", "gradient norm"),), noisy=True),
    _Known("Speed", "tokens per second", (("tokens_per_second", "speed"),), noisy=True),
)
_AXES = {"step", "tokens", "seconds", "epoch", "time", "phase"}  # a phase is a border through every chart
# said already by another curve, or a matter of the run and not of learning
_DULL = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "total_flos", "train_runtime", "train_loss", "eval_perplexity"}


def series_of(metrics: list[dict[str, Any]], name: str, label: str, *, noisy: bool = False, stairs: bool = False) -> Series | None:
    """The points of one name over steps; None when there are fewer than two."""
    x, y, error = [], [], []
    for line in metrics:
        value, step = number_of(line.get(name)), number_of(line.get("step"))
        if value is not None and step is not None:
            x.append(step)
            y.append(value)
            error.append(number_of(line.get(f"{name}_standard_error")))
    if len(set(x)) < 2:
        return None
    return Series(label, x, y, error, noisy, stairs=stairs)


def borders(view: RunView) -> tuple[tuple[float, str], ...]:
    """Where a training phase began, and where the watchdog went back: (step, label)."""
    found: list[tuple[float, str]] = []
    phase: float | None = None
    for line in view.metrics:
        step, now = number_of(line.get("step")), number_of(line.get("phase"))
        if step is not None and now is not None and phase is not None and now > phase:
            found.append((step, f"phase {now:g}"))
        phase = now if now is not None else phase
    return tuple(found + [(back.to, "rolled back") for back in rollbacks(view)])


@dataclass(frozen=True)
class Back:
    """One rollback of the watchdog: trouble at step `at`, gone back `to`."""

    at: float
    to: float
    reason: str


def rollbacks(view: RunView) -> list[Back]:
    """As metrics.jsonl has them, in order."""
    found = []
    for line in view.metrics:
        said = line.get("rollback")
        if not isinstance(said, dict):
            continue
        at, to = number_of(said.get("at")), number_of(said.get("to", line.get("step")))
        if to is not None:
            found.append(Back(at if at is not None else to, to, str(said.get("reason") or "the loss")))
    return found


def charts(view: RunView) -> tuple[list[Chart], list[Chart]]:
    """The charts that everyone looks for, and the rest."""
    known, used, marks = [], set(_AXES | _DULL | {"rollback"}), borders(view)
    for chart in _KNOWN:
        series = [
            made for name, label in chart.names if (made := series_of(view.metrics, name, label, noisy=chart.noisy, stairs=chart.stairs))
        ]
        used |= {name for name, _ in chart.names}
        if series:
            levels = _levels(view) if chart.title == "Bits per byte" else ()
            known.append(Chart(chart.title, chart.unit, tuple(series), levels, borders=marks))
    names = dict.fromkeys(name for line in view.metrics for name in line)
    rest = []
    for name in names:
        if name in used or name.endswith("_standard_error"):
            continue
        other = series_of(view.metrics, name, words(name))
        if other:
            rest.append(Chart(words(name).capitalize(), "", (other,)))
    return known, rest


def _levels(view: RunView) -> tuple[tuple[str, float], ...]:
    """The fair baselines, where this run holds an evaluation."""
    found = []
    for baseline in dicts(view.evaluation.get("baselines")):
        if baseline.get("fair") and isinstance(baseline.get("bits_per_byte"), dict):
            value = number_of(baseline["bits_per_byte"].get("value"))
            if value is not None:
                found.append((str(baseline.get("label")), value))
    return tuple(found[:2])
