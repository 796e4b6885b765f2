"""Everything that a run folder may hold, read so that a missing or damaged piece costs that piece only."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from phiforge.core.runs import Manifest, Run, read_jsonl

_LARGEST_JSON = 50_000_000
_LARGEST_HEADER = 100_000_000  # bytes: the limit of the safetensors format


_STEP_NAMES = ("data", "tokenizer", "pretrain", "finetune", "evaluate", "export")  # folders that recipes make


@dataclass
class RunView:
    """A run as a report needs it. What is not there is empty; what could not be read is named in `troubles`."""

    path: Path
    manifest: Manifest
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    troubles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name, with its parent's where that alone says little."""
        own, parent = self.path.name, self.path.parent.name
        return f"{parent} / {own}" if own in _STEP_NAMES and parent not in ("", "runs") else own

    @property
    def bytes(self) -> int:
        """All artefacts together."""
        return sum(artefact.bytes for artefact in self.manifest.artefacts.values())


def read_run(path: Path) -> RunView:
    """Read `path`. Raises RunError only when run.json itself is missing or damaged."""
    run = Run.open(path)
    view = RunView(path=path.resolve(), manifest=run.manifest, status=run.status)
    try:
        view.config = run.config
    except (OSError, ValueError, yaml.YAMLError) as error:
        view.troubles.append(f"config.yaml could not be read ({type(error).__name__})")
    view.metrics = dicts(run.metrics())
    view.samples = [line for line in dicts(list(read_jsonl(path / "samples.jsonl"))) if isinstance(line.get("text"), str)]
    view.data = _json(path / "data.json", view.troubles)
    view.evaluation = _json(path / "evaluation.json", view.troubles)
    view.parameters = _parameters(view)
    return view


def _json(path: Path, troubles: list[str]) -> dict[str, Any]:
    """A JSON object, or nothing and a line in `troubles`."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("too large")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        troubles.append(f"{path.name} could not be read ({type(error).__name__})")
        return {}
    return data if isinstance(data, dict) else {}


def dicts(value: Any) -> list[dict[str, Any]]:
    """The dictionaries of a list; nothing when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number_of(value: Any) -> float | None:
    """`value` where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _parameters(view: RunView) -> int | None:
    """The true size: numbers in the model's weights, from the files' own headers, else as the run says."""
    counted = [count_tensors(file) for file in sorted((view.path / "model").glob("*.safetensors"))]
    if counted and all(n is not None for n in counted):
        return sum(n for n in counted if n is not None)
    for source in (view.manifest.metrics, view.evaluation.get("model"), view.manifest.decisions):
        if isinstance(source, dict) and number_of(source.get("parameters")):
            return int(source["parameters"])
    return None


def count_tensors(path: Path) -> int | None:
    """Numbers held in a safetensors file, from its header alone (8 bytes of length, then JSON); None when it has none that can be read."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LARGEST_HEADER:
                return None
            header = json.loads(stream.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return None
