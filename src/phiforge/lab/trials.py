"""One trial: an arm with one seed, as a run folder; what it left is read from there, so that it is the same whoever ran it."""

from __future__ import annotations

import ctypes
import math
import platform
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phiforge.core import atomic, console
from phiforge.core.config import Config, build, nearest, to_data
from phiforge.core.errors import ConfigError, RunError
from phiforge.core.runs import MANIFEST, Run
from phiforge.recipes.recipe import Recipe
from phiforge.recipes.runner import run_recipe
from phiforge.stats.spikes import spikes

# Numbers of a run that a report compares besides the metric, where the run has them.
KEPT = ("steps", "tokens", "seconds", "cpu_seconds", "peak_memory_bytes", "parameters", "model_step", "loss", "spikes", "grad_norm")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to run. Plain data, so that it can travel: a recipe of the trial's own steps, its folder, and what to keep of it."""

    arm: str
    seed: int
    recipe: dict[str, Any]
    folder: str
    keep_model: bool = False


def run_trial(task: Task) -> str:
    """Run it, or go on with it, in its folder; the last step's run is the folder itself. Returns the folder.

    Checkpoints go when it is done, and the model unless it is kept. Raises what the run raises; run.json then says so too.
    """
    import torch

    torch.set_num_threads(1)  # before anything is probed: the probes are to see what the run will have
    _give_back()
    folder = Path(task.folder)
    with _quiet():
        runs = run_recipe(build(Recipe, task.recipe, where=f"arm {task.arm}"), folder, resume=True, main_in_place=True, draw=False)
    for run in runs.values():
        drop_weights(run, keep_model=task.keep_model)
    return task.folder


def _give_back() -> None:
    """Return what earlier trials freed to the system (glibc): else the peak memory of a trial would grow with its place in the order.

    Measured over 8 equal trials of a 0.9M-parameter model, the first apart: 618 to 646 MB and rising without, 622 to 633 MB with.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """A trial's own lines are in its log.txt; the terminal shows the comparison."""
    before, console.console.quiet = console.console.quiet, True
    try:
        yield
    finally:
        console.console.quiet = before


def drop_weights(run: Run, *, keep_model: bool) -> None:
    """Remove checkpoints, and the model unless it is kept, from a finished run. Its run.json then names what is left."""
    manifest = Run.open(run.path).manifest  # what is on disk: an earlier drop may have been cut short
    gone = [name for name in manifest.artefacts if name.split("/")[0] == "model"] if not keep_model else []
    if gone:
        manifest.artefacts = {name: made for name, made in manifest.artefacts.items() if name not in gone}
        atomic.write_json(run.path / MANIFEST, manifest.model_dump(mode="json"))
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    if not keep_model:
        shutil.rmtree(run.path / "model", ignore_errors=True)


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluation on the way."""

    step: int
    tokens: float
    seconds: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a trial. status: complete, failed, interrupted, missing or invalid; value: the metric, where complete."""

    arm: str
    seed: int | str
    status: str
    folder: Path | None = None
    value: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float | None = None
    points: tuple[Point, ...] = ()
    streams: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it has a value that counts."""
        return self.status == "complete"

    @property
    def over(self) -> bool:
        """Whether running it again would change nothing: it is done, or it failed by itself."""
        return self.status in ("complete", "failed", "invalid")


def read_trial(folder: Path, *, arm: str, seed: int | str, metric: str, also: Iterable[str] = ()) -> Outcome:
    """The outcome that lies in a trial's folder; `missing` where there is none. Never raises for what a run may be."""
    base: dict[str, Any] = {"arm": arm, "seed": seed, "folder": folder}
    if not Run.is_run(folder):
        return Outcome(**base, status="missing")
    try:
        run = Run.open(folder)
        settings = run.config
    except RunError as error:
        return Outcome(**base, status="missing", error=str(error))
    lines = run.metrics()
    base |= {
        "seconds": run.manifest.seconds,
        "metrics": kept_metrics(run.manifest.metrics, lines, (metric, *also)),
        "points": curve(lines, metric),
        "streams": run.manifest.decisions.get("streams") or {},
        "settings": settings,
    }
    if run.status != "complete":
        status = "failed" if run.status == "failed" else "interrupted"
        return Outcome(**base, status=status, error=run.manifest.error)
    if metric not in run.manifest.metrics:
        return Outcome(**base, status="invalid", error=f"has no {metric}; {nearest(metric, run.manifest.metrics)}")
    value = run.manifest.metrics[metric]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):  # NaN is null in run.json
        return Outcome(**base, status="failed", error=f"{metric} is {'no number' if value is None else value}")
    return Outcome(**base, status="complete", value=float(value))


def kept_metrics(final: Mapping[str, Any], lines: list[dict[str, Any]], wanted: Iterable[str]) -> dict[str, Any]:
    """The numbers of a run that are compared: final metrics, the clock of training, spikes, the mean gradient norm."""
    losses = [line["loss"] for line in lines if "loss" in line]
    norms = [line["grad_norm"] for line in lines if isinstance(line.get("grad_norm"), int | float)]
    found = {
        "seconds": max((line.get("seconds", 0.0) for line in lines), default=None),
        "spikes": spikes(losses),
        "grad_norm": statistics.fmean(norms) if norms else None,
        **{name: value for name, value in final.items() if name.startswith("eval_") or name in KEPT},
        **{name: final[name] for name in wanted if name in final},
    }
    return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def curve(lines: Iterable[Mapping[str, Any]], metric: str) -> tuple[Point, ...]:
    """The evaluations on the way that tell the metric."""
    return tuple(
        Point(
            step=int(line.get("step", 0)),
            tokens=float(line.get("tokens", 0)),
            seconds=float(line.get("seconds", 0.0)),
            value=float(line[metric]),
        )
        for line in lines
        if isinstance(line.get(metric), int | float) and math.isfinite(line[metric])
    )


def refuse_other(task: Task) -> None:
    """A folder that holds a run with other settings, or made from other data, is not this trial. Raises ConfigError.

    Keys that the older run doesn't know count as their defaults.
    """
    folder = Path(task.folder)
    if not Run.is_run(folder):
        return
    run, who = Run.open(folder), f"{task.arm}, seed {task.seed}"
    recipe = build(Recipe, task.recipe, where=f"arm {task.arm}")
    step = recipe.steps[-1]
    config = build(recipe.stage_of(step).config, step.config, where=who)
    defaults = {name: info.get_default(call_default_factory=True) for name, info in type(config).model_fields.items()}
    old = run.config
    for key, value in to_data(config).items():
        default = defaults[key]
        before = old[key] if key in old else to_data(default) if isinstance(default, Config) else default
        if _grown(before, value) != value:
            raise ConfigError(f"{folder}: {who} was run with another {key}", fix="choose another --out for what has changed")
    for role, parent in step.parents.items():
        was = run.manifest.parents.get(role)
        if was and Run.is_run(parent) and Run.open(parent).fingerprint != was.fingerprint:
            raise ConfigError(f"{folder}: {who} was made from other {role} than {parent} holds now", fix="choose another --out")


def _grown(old: Any, new: Any) -> Any:
    """An older nested config with the keys that have come since."""
    return {**new, **old} if isinstance(old, dict) and isinstance(new, dict) else old
