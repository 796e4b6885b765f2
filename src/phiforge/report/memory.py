"""Where a memory of 2,304 bytes suffices and where it doesn't: sentences and tables from recall.json and memory.json.

Everything is computed from the numbers in the files: a model that gains nothing is said to gain nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phiforge.report.read import dicts, number_of

Table = tuple[str, list[str], list[list[Any]]]  # title, columns, rows: as core.console.table takes them
TASKS = {"recall": ("Recall of pairs", "pairs"), "copy": ("Copying", "symbols")}
DAMAGED = (KeyError, TypeError, ValueError, AttributeError)  # what foreign or torn figures raise
BUDGETS = {"steps": "equal steps and tokens", "seconds": "equal CPU seconds"}
_CLEAR = 2.0  # standard errors that a gain must lie above zero to be called one


def read(folder: Path) -> dict[str, Any]:
    """memory.json, or recall.json under the key `recall`, of a run folder; empty where there is neither or it is damaged."""
    for name in ("memory.json", "recall.json"):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            return data if name == "memory.json" else {"recall": data}
    return {}


def opening(folder: Path) -> str:
    """The first sentence of the verdict; empty where there is none, or it can't be made of damaged figures."""
    found = read(folder)
    try:
        return memory_sentences(found)[0] if found else ""
    except DAMAGED:
        return ""


# -- the synthetic part -------------------------------------------------------------------------------------------


def accuracies(found: dict[str, Any], kind: str, task: str, budget: str) -> list[tuple[int, float, float | None, float, float]]:
    """(size, mean over seeds, its standard error, least, greatest) of one kind, by size."""
    by_size: dict[int, list[float]] = {}
    for one in dicts(found.get("results")):
        if (one.get("kind"), one.get("task"), one.get("budget")) == (kind, task, budget):
            value = number_of(one.get("accuracy", {}).get("value"))
            if value is not None:
                by_size.setdefault(int(one["size"]), []).append(value)
    rows = []
    for at, values in sorted(by_size.items()):
        mean = sum(values) / len(values)
        error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) if len(values) > 1 else None
        rows.append((at, mean, error, min(values), max(values)))
    return rows


def held(found: dict[str, Any], kind: str, task: str, budget: str = "steps") -> int:
    """The largest size whose mean accuracy, and that of all smaller ones, reaches the threshold; 0 when none does."""
    reached = 0
    for at, mean, *_ in accuracies(found, kind, task, budget):
        if mean < found["threshold"]:
            break
        reached = at
    return reached


def recall_sentence(found: dict[str, Any]) -> str:
    """What the synthetic tasks came to, in plain words."""
    return " ".join(_recall_said(found))


def _recall_said(found: dict[str, Any]) -> Iterable[str]:
    """A sentence for each task."""
    steps, seeds = found.get("steps"), len(found.get("seeds") or [])
    after = f"after {steps:,} steps each, mean of {seeds} {'seed' if seeds == 1 else 'seeds'}"
    for task, (title, unit) in TASKS.items():
        sizes = [entry["size"] for entry in dicts(found.get("asked")) if entry.get("task") == task]
        if not sizes:
            continue
        parts = []
        for kind in dicts(found.get("kinds")):
            reached = held(found, kind["name"], task)
            most = ", the most that was asked" if reached == max(sizes) else ""
            parts.append(f"{kind['label']} holds {f'up to {reached:,} {unit}{most}' if reached else f'not even {min(sizes)} {unit}'}")
        yield f"{title}, {100 * found['threshold']:.0f} % right or better: {'; '.join(parts)} ({after})."


def recall_table(found: dict[str, Any], budget: str = "steps") -> Table:
    """Accuracy by task and size, a column for each kind."""
    kinds = dicts(found.get("kinds"))
    rows: list[list[Any]] = []
    for entry in dicts(found.get("asked")):
        row: list[Any] = [TASKS[entry["task"]][0], entry["size"], f"{entry['bits']:,.0f}", f"{100 * entry['bound']:.0f}"]
        for kind in kinds:
            at = {size_: rest for size_, *rest in accuracies(found, kind["name"], entry["task"], budget)}
            row.append(_accuracy(at.get(entry["size"])))
        rows.append(row)
    columns = ["", "size", "bits asked", "bound, %", *(f"{kind['label']}, %" for kind in kinds)]
    return f"Right answers, {BUDGETS[budget]} (chance {100 * found['chance']:.1f} %)", columns, rows


def _accuracy(values: Sequence[float | None] | None) -> str:
    """The mean over seeds and its standard error, in percent."""
    if not values or values[0] is None:
        return "–"
    mean, error = values[0], values[1]
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} ± {100 * error:.1f}"


# -- trained language models --------------------------------------------------------------------------------------


def name_of(found: dict[str, Any], role: str) -> str:
    return next((str(model["name"]) for model in dicts(found.get("models")) if model.get("role") == role), role)


def _score(value: Any) -> str:
    """A score of a JSON file as text."""
    if not isinstance(value, dict) or number_of(value.get("value")) is None:
        return "–"
    error = number_of(value.get("standard_error"))
    if not error:
        return f"{value['value']:.3f}"
    digits = min(6, max(3, 1 - math.floor(math.log10(error))))  # a small gain is shown small, not as 0.000
    return f"{value['value']:.{digits}f} ± {error:.{digits}f}"


def bits_table(found: dict[str, Any]) -> Table | None:
    """Bits per byte by place; None where it was not measured."""
    part = found.get("positions") or {}
    models = [model for model in dicts(part.get("models")) if dicts(model.get("bins"))]
    if not models:
        return None
    places: dict[int, dict[Any, Any]] = {}
    for model in models:
        for one in dicts(model["bins"]):
            row = places.setdefault(one["first"], {"last": one["last"]})
            row["last"] = max(row["last"], one["last"])
            row[model["role"]] = one
    forgetful = [model["role"] for model in models if any("gain" in place for place in model["bins"])]
    rows = []
    for first, row in sorted(places.items()):
        cells: list[Any] = [f"{first:,} to {row['last']:,}"]
        for model in models:
            place: Any = row.get(model["role"])
            sliding = " *" if place and place["how"] == "sliding" else ""
            cells.append(_score(place["bits_per_byte"]) + sliding if place else "–")
        cells += [_score(row.get(role, {}).get("gain")) for role in forgetful]
        rows.append(cells)
    columns = ["tokens before", *(name_of(found, model["role"]) for model in models)]
    columns += [f"{name_of(found, role)}: saved by older text" for role in forgetful]
    return "Bits per byte by place in the text (* = through a sliding window)", columns, rows


def needle_table(found: dict[str, Any]) -> Table | None:
    """Gains and choices by distance; None where none was asked."""
    part = found.get("needles") or {}
    models = [model for model in dicts(part.get("models")) if dicts(model.get("distances"))]
    if not models:
        return None
    rows: list[list[Any]] = []
    for distance in sorted({one["distance"] for model in models for one in model["distances"]}):
        cells: list[Any] = [f"{distance:,}"]
        for model in models:
            one = next((one for one in model["distances"] if one["distance"] == distance), None)
            if one is None or not one["asked"]:
                cells += ["not possible", "", ""]
            else:
                cells += [_score(one.get("gain")), _score(one.get("gain_wrong")), _share(one.get("choice"))]
        rows.append(cells)
    columns = ["tokens between"]
    for model in models:
        name = name_of(found, model["role"])
        columns += [f"{name}: against none", f"{name}: against wrong", f"{name}: right of ten"]
    return "Needles: bits gained against no needle and a wrong one, and the choice of ten", columns, rows


def _share(value: Any) -> str:
    if not isinstance(value, dict) or number_of(value.get("value")) is None:
        return "–"
    error = number_of(value.get("standard_error"))
    return f"{100 * value['value']:.0f}" + (f" ± {100 * error:.0f}" if error is not None else "") + f" % of {value.get('n', 0):,}"


def memory_sentences(found: dict[str, Any]) -> list[str]:
    """The verdict in plain words: what was held of the made tasks, what far text is worth to each model, how far a needle is found."""
    recall = found.get("recall")
    parts = [*_recall_said(recall)] if isinstance(recall, dict) else []
    parts += [*_positions_said(found), *_needles_said(found)]
    return parts or ["Nothing could be measured: the held-out text is too short."]


def _positions_said(found: dict[str, Any]) -> Iterable[str]:
    part = found.get("positions") or {}
    for model in dicts(part.get("models")):
        bins = dicts(model.get("bins"))
        if not bins:
            continue
        name, last = name_of(found, model["role"]), bins[-1]
        sliding = ", seen through a sliding window" if last["how"] == "sliding" else ""
        text = f"{name} needs {_score(last['bits_per_byte'])} bits per byte at {last['first']:,} tokens and beyond{sliding}"
        gain = last.get("gain")
        if isinstance(gain, dict) and number_of(gain.get("value")) is not None and last["first"] >= part["forget"]:
            worth = f"what lies before the last {part['forget']:,} tokens saves it {_score(gain)}"
            text += f"; {worth}" + ("" if _is_clear(gain) else ": nothing that can be told from zero")
        yield text + "."


def _needles_said(found: dict[str, Any]) -> Iterable[str]:
    for model in dicts((found.get("needles") or {}).get("models")):
        asked = [one for one in dicts(model.get("distances")) if one.get("asked")]
        if not asked:
            continue
        name = name_of(found, model["role"])
        clear = [one["distance"] for one in asked if _is_clear(one.get("gain_wrong"))]
        chosen = [one["distance"] for one in asked if _is_clear(one.get("choice"), model.get("chance", 0.1))]
        if not clear and not chosen:
            yield f"{name} finds no needle at any distance from {asked[0]['distance']:,} to {asked[-1]['distance']:,} tokens."
            continue
        far = f"is likelier for its needle than for a wrong one up to {max(clear):,} tokens away" if clear else "gains nothing by it"
        told = f"picks it of ten more often than chance up to {max(chosen):,}" if chosen else "picks it no more often than chance"
        yield f"To {name} the hidden number {far}; it {told} (asked up to {asked[-1]['distance']:,})."


def _is_clear(score: Any, above: float = 0.0) -> bool:
    """Whether a score lies two standard errors above a value."""
    if not isinstance(score, dict) or number_of(score.get("value")) is None:
        return False
    error = number_of(score.get("standard_error"))
    return error is not None and score["value"] - _CLEAR * error > above
