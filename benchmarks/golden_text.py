"""What the parts of the golden-ratio study's document share: an experiment as it was left, and small pieces of Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BETTER, WORSE, NONE, FEW = "better", "worse", "no detectable difference", "too few seeds to say"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One experiment folder. label: the data set's name; data: what verdict.json says."""

    folder: Path
    label: str
    data: Mapping[str, Any]

    @property
    def arms(self) -> dict[str, Mapping[str, Any]]:
        """By name, in the order of the file."""
        return {arm["name"]: arm for arm in self.data["arms"]}

    @property
    def family(self) -> dict[str, Mapping[str, Any]]:
        """The comparisons that decide: arm -> comparison with the baseline."""
        return {row["arm"]: row for row in self.data["comparisons"] if row["role"] == "arm"}

    @property
    def controls(self) -> list[Mapping[str, Any]]:
        """The comparisons that are only shown."""
        return [row for row in self.data["comparisons"] if row["role"] == "control"]

    @property
    def baseline_value(self) -> float:
        """The baseline's mean metric."""
        return mean(trial["value"] for trial in self.arms[self.data["baseline"]]["trials"]) or float("nan")


def read_study(folder: Path) -> Study:
    """The experiment in a folder. Leaves with a message where there is none."""
    file = folder / "verdict.json"
    if not file.is_file():
        raise SystemExit(f"{folder}: no verdict.json; run `phiforge compare phi/tiny data=FOLDER --out {folder}` first")
    data = json.loads(file.read_text(encoding="utf-8"))
    source = next((word.split("=", 1)[1] for word in data["command"] if word.startswith("data=")), folder.name)
    return Study(folder=folder, label=Path(source).stem, data=data)


def seeds_of(study: Study) -> int:
    """Seeds planned."""
    return len(study.data["seeds"])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is there."""
    found = [float(value) for value in values if value is not None]
    return statistics.fmean(found) if found else None


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """With its sign."""
    return "-" if value is None else f"{value:+.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 4) -> str:
    """`[-0.01, 0.02]`."""
    return "" if not bounds or None in bounds else f"[{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]"


def share(value: float | None, of: float) -> str:
    """As a percentage of the baseline."""
    return "-" if value is None or not of else f"{100 * value / of:+.2f} %"
