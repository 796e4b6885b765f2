"""A comparison as a report needs it: verdict.json, and of the trials' run folders what is still there.

Nothing but a missing or unreadable verdict.json is an error. A field that is absent or of another kind than expected is empty; a run
folder that is gone costs its curves only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from phiforge.core.errors import RunError
from phiforge.core.runs import METRICS, read_jsonl
from phiforge.report.read import dicts, number_of

VERDICT = "verdict.json"
SCHEMA_VERSION = 1
_LARGEST = 500_000_000  # bytes of a verdict.json


@dataclass
class Trial:
    """One arm with one seed. `folder`: its run, where it is still there."""

    seed: Any
    status: str
    value: float | None
    metrics: dict[str, Any]
    error: str
    seconds: float | None
    path: str | None
    folder: Path | None

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Its metrics.jsonl; nothing where the run is gone."""
        return dicts(list(read_jsonl(self.folder / METRICS))) if self.folder else []

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Its samples.jsonl."""
        found = dicts(list(read_jsonl(self.folder / "samples.jsonl"))) if self.folder else []
        return [line for line in found if isinstance(line.get("text"), str)]

    @property
    def complete(self) -> bool:
        """Whether it counts."""
        return self.status == "complete" and self.value is not None


@dataclass
class Curve:
    """A metric of one trial on its way: equally long lists. `seconds` may hold nothing but None."""

    seed: Any
    tokens: list[float | None]
    seconds: list[float | None]
    values: list[float]


@dataclass
class Arm:
    """One arm. `look`: its line in every chart (report/svg.look); 0 = the baseline."""

    name: str
    role: str
    control_of: str
    about: str
    settings: dict[str, Any]
    tuned: dict[str, Any]
    tuning: list[dict[str, Any]]
    trials: list[Trial]
    look: int = 0
    curves: list[Curve] = field(default_factory=list)

    @property
    def complete(self) -> list[Trial]:
        """The trials that count."""
        return [trial for trial in self.trials if trial.complete]


@dataclass
class Experiment:
    """verdict.json, read."""

    path: Path
    data: dict[str, Any]
    arms: list[Arm]
    comparisons: list[dict[str, Any]]
    metric: str
    lower_is_better: bool
    baseline: str

    def text(self, name: str) -> str:
        """A field of words; empty where it is none."""
        value = self.data.get(name)
        return value if isinstance(value, str) else ""

    def words(self, name: str) -> list[str]:
        """A list of words."""
        value = self.data.get(name)
        return [str(item) for item in value] if isinstance(value, list) else []

    def part(self, name: str) -> dict[str, Any]:
        """An object."""
        value = self.data.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def name(self) -> str:
        """Its own, else the folder's."""
        return self.text("name") or self.path.name

    @property
    def command(self) -> list[str]:
        """What was typed, without the program's name."""
        words = self.words("command")
        return words[1:] if words[:1] == ["phiforge"] else words

    @property
    def family(self) -> list[dict[str, Any]]:
        """The comparisons that decide."""
        return [c for c in self.comparisons if c.get("role") != "control"]

    @property
    def controls(self) -> list[dict[str, Any]]:
        """Those that are shown beside."""
        return [c for c in self.comparisons if c.get("role") == "control"]

    def arm(self, name: Any) -> Arm | None:
        """By name."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def trials(self) -> Iterator[tuple[Arm, Trial]]:
        """Every trial with its arm."""
        for arm in self.arms:
            for trial in arm.trials:
                yield arm, trial


def is_experiment(path: Path | str) -> bool:
    """Whether `path` holds a verdict.json."""
    return (Path(path) / VERDICT).is_file()


def read_experiment(path: Path) -> Experiment:
    """Read `path`/verdict.json. Raises RunError where it is missing, damaged or of a newer schema."""
    file = path / VERDICT
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError("too large")
        data = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        what = f"holds no {VERDICT}" if path.is_dir() else "does not exist"
        raise RunError(f"{path}: {what}", fix="`phiforge compare` makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{file}: can't be read: {str(error).splitlines()[0]}", fix="`phiforge compare` with --resume writes it anew"
        ) from None
    version = data.get("schema_version", 0)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RunError(f"{file}: written by a newer phiforge (schema {version}, this one reads {SCHEMA_VERSION})", fix="upgrade phiforge")
    return _build(path.resolve(), data)


def _build(path: Path, data: dict[str, Any]) -> Experiment:
    metric = data.get("metric")
    metric = metric if isinstance(metric, dict) else {}
    baseline = str(data.get("baseline") or "")
    arms = [_arm(path, raw) for raw in dicts(data.get("arms"))]
    looks = iter(range(1, len(arms) + 1))
    for arm in arms:
        arm.look = 0 if arm.name == baseline else next(looks)
    experiment = Experiment(
        path=path,
        data=data,
        arms=arms,
        comparisons=dicts(data.get("comparisons")),
        metric=str(metric.get("name") or "metric"),
        lower_is_better=metric.get("lower_is_better") is not False,
        baseline=baseline,
    )
    curves = experiment.part("curves")
    for arm in arms:
        arm.curves = _curves(curves.get(arm.name)) or _logged(arm, experiment.metric)
    return experiment


def _arm(path: Path, raw: dict[str, Any]) -> Arm:
    def part(name: str) -> dict[str, Any]:
        value = raw.get(name)
        return value if isinstance(value, dict) else {}

    return Arm(
        name=str(raw.get("name", "?")),
        role=str(raw.get("role") or "arm"),
        control_of=str(raw.get("control_of") or ""),
        about=str(raw.get("about") or ""),
        settings=part("settings"),
        tuned=part("tuned"),
        tuning=dicts(raw.get("tuning")),
        trials=[_trial(path, trial) for trial in dicts(raw.get("trials"))],
    )


def _trial(path: Path, raw: dict[str, Any]) -> Trial:
    where = raw.get("path") if isinstance(raw.get("path"), str) else None
    metrics = raw.get("metrics")
    return Trial(
        seed=raw.get("seed"),
        status=str(raw.get("status") or "missing"),
        value=number_of(raw.get("value")),
        metrics=metrics if isinstance(metrics, dict) else {},
        error=str(raw.get("error") or ""),
        seconds=number_of(raw.get("seconds")),
        path=where,
        folder=_folder(path, where),
    )


def _folder(path: Path, where: str | None) -> Path | None:
    try:
        return path / where if where and (path / where).is_dir() else None
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return None


def _curves(raw: Any) -> list[Curve]:
    """As verdict.json holds them: points of [tokens, seconds, value]."""
    found = []
    for line in dicts(raw):
        points = [[number_of(item) for item in point] for point in line.get("points") or () if isinstance(point, list) and len(point) == 3]
        kept = [(tokens, seconds, value) for tokens, seconds, value in points if value is not None]
        if kept:
            found.append(Curve(line.get("seed"), [p[0] for p in kept], [p[1] for p in kept], [p[2] for p in kept]))
    return found


def _logged(arm: Arm, metric: str) -> list[Curve]:
    """From the runs themselves, where verdict.json has none."""
    found = []
    for trial in arm.complete:
        points = [
            (number_of(line.get("tokens")), number_of(line.get("seconds")), value)
            for line in trial.lines
            if (value := number_of(line.get(metric))) is not None
        ]
        if points:
            found.append(Curve(trial.seed, [p[0] for p in points], [p[1] for p in points], [p[2] for p in points]))
    return found
