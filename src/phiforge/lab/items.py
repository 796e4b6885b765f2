"""Item by item: where runs keep which test questions they answered right, an arm and the baseline are compared on each of them.

A run's `items.jsonl` has one {"item": name, "correct": bool} a line. It is shown beside the verdict; the declared metric alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phiforge.core.errors import DataError
from phiforge.core.runs import read_jsonl
from phiforge.lab.trials import Outcome
from phiforge.stats.agreement import pooled_items

ITEMS = "items.jsonl"


def read_items(folder: Path) -> dict[str, bool]:
    """item -> whether it was answered right; empty where the run keeps none. Raises DataError for a bad line."""
    file = folder / ITEMS
    outcomes: dict[str, bool] = {}
    for number, line in enumerate(read_jsonl(file), 1):
        item, correct = (line.get("item"), line.get("correct")) if isinstance(line, dict) else (None, None)
        if isinstance(item, bool) or not isinstance(item, str | int) or not isinstance(correct, bool):
            raise DataError(f"{file}, line {number}: needs an item (text or number) and correct (true or false)")
        if str(item) in outcomes:
            raise DataError(f"{file}, line {number}: item {item!r} is there twice")
        outcomes[str(item)] = correct
    return outcomes


def add_items(verdict: dict[str, Any], trials: Mapping[str, Sequence[Outcome]]) -> None:
    """Fill `items` of every comparison whose runs keep outcomes; what can't be compared is said in its notes."""
    cache: dict[Path, dict[str, bool]] = {}
    folders = {(arm, outcome.seed): outcome.folder for arm, found in trials.items() for outcome in found if outcome.complete}
    for row in verdict["comparisons"]:
        pairs = [(folders.get((row["against"], pair["seed"])), folders.get((row["arm"], pair["seed"]))) for pair in row["pairs"]]
        try:
            row["items"], notes = compare_items([(_read(cache, base), _read(cache, arm)) for base, arm in pairs])
        except DataError as error:
            row["items"], notes = None, [str(error)]
        row["notes"] = [*row["notes"], *notes]


def _read(cache: dict[Path, dict[str, bool]], folder: Path | None) -> dict[str, bool]:
    if folder is None or not folder.is_dir():
        return {}
    if folder not in cache:
        cache[folder] = read_items(folder)
    return cache[folder]


def compare_items(pairs: Sequence[tuple[dict[str, bool], dict[str, bool]]]) -> tuple[dict[str, Any] | None, list[str]]:
    """({n01, n10, p, items, seeds}, notes) of (baseline's, arm's) outcomes for each seed; None where no pair has any.

    Only items that every run of every pair answered count. With one seed it is McNemar's exact test; with several an item counts once,
    by its net difference (stats/agreement.py).
    """
    ready = [pair for pair in pairs if pair[0] and pair[1]]
    if not ready:
        return None, []
    notes = []
    if len(ready) < len(pairs):
        notes.append(f"items: {len(pairs) - len(ready)} of {len(pairs)} pairs keep no outcomes of single items")
    shared = set.intersection(*(set(side) for pair in ready for side in pair))
    most = max(len(side) for pair in ready for side in pair)
    if not shared:
        return None, [*notes, "items: the runs answered different items, so they can't be compared item by item"]
    if len(shared) < most:
        notes.append(f"items: {len(shared)} of up to {most} items were answered by every run, and these count")
    order = sorted(shared)
    tables = [[[pair[side][item] for item in order] for pair in ready] for side in (0, 1)]
    return {**asdict(pooled_items(*tables)), "items": len(order), "seeds": len(ready)}, notes
