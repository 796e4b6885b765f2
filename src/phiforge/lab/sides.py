"""The sides of a comparison of existing runs: which runs are an arm, and which of them pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from phiforge.core.errors import ConfigError
from phiforge.lab.reading import Reading, split_name
from phiforge.lab.trials import Outcome

By = Literal["seed", "order"]
Seed = int | str


def arms_of(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """Runs whose names all say a seed are an arm for each name without it; others are one arm."""
    split = [split_name(reading.name) for reading in readings]
    arms: dict[str, list[Reading]] = {}
    if all(seed is not None for _, seed in split):
        for (stem, _), reading in zip(split, readings, strict=True):
            arms.setdefault(_clean(stem) or "arm", []).append(reading)
        return arms
    return {_common(readings) or "arm": list(readings)}


def baseline_arm(readings: Sequence[Reading]) -> str:
    """The baseline's name; all runs of that side are one arm."""
    return _common(readings) or "baseline"


def _common(readings: Sequence[Reading]) -> str:
    """What the names begin with; a run alone is called by its name."""
    return _clean(_prefix([split_name(reading.name)[0] for reading in readings]))


def _prefix(words: Sequence[str]) -> str:
    """The letters that all words begin with."""
    first, last = min(words), max(words)
    same = next((place for place, letter in enumerate(first) if place >= len(last) or letter != last[place]), len(first))
    return first[:same]


def _clean(stem: str) -> str:
    return stem.strip("-_./= ")[:60]


def paired(trials: dict[str, list[Outcome]], by: By, warnings: list[str], where: str) -> dict[str, list[Outcome]]:
    """Every arm with one outcome for each seed of any: missing ones are named. Raises ConfigError where seeds don't pair."""
    outcomes = [outcome for found in trials.values() for outcome in found]
    unknown = [outcome for outcome in outcomes if outcome.seed in ("", None)]
    if by == "order" or len(unknown) == len(outcomes):
        warnings.append(
            "pairs are by the order in which the runs are listed, " + ("as asked" if by == "order" else "as no run says its seed")
        )
        trials = {arm: [replace(outcome, seed=place) for place, outcome in enumerate(found, 1)] for arm, found in trials.items()}
    elif unknown:
        one = unknown[0]
        raise ConfigError(
            f"{one.folder or where}: no seed is recorded, and others have one", fix="name its folder like phi-seed-3, or pair with by=order"
        )
    trials = {arm: _once(arm, found, warnings, where) for arm, found in trials.items()}
    seeds = sorted({outcome.seed for found in trials.values() for outcome in found}, key=lambda seed: (isinstance(seed, str), seed))
    names = list(trials)
    own = {arm: {outcome.seed: outcome for outcome in found} for arm, found in trials.items()}
    if not any(set(own[names[0]]) & set(own[arm]) for arm in names[1:]):
        sides = "; ".join(f"{arm}: {', '.join(map(str, list(found)[:6]))}" for arm, found in own.items())
        raise ConfigError(f"no seed is on both sides ({sides})", fix="by=order pairs the runs as they are listed")
    return {
        arm: [found.get(seed) or Outcome(arm=arm, seed=seed, status="missing", error="no run with this seed") for seed in seeds]
        for arm, found in own.items()
    }


def _once(arm: str, found: list[Outcome], warnings: list[str], where: str) -> list[Outcome]:
    """One outcome for each seed. A folder given twice counts once; two runs with one seed don't pair."""
    kept: dict[Seed, Outcome] = {}
    for outcome in found:
        first = kept.setdefault(outcome.seed, outcome)
        if first is outcome:
            continue
        if outcome.folder is not None and first.folder is not None and outcome.folder.resolve() == first.folder.resolve():
            warnings.append(f"{outcome.folder}: is given twice for {arm} and counts once")
            continue
        both = f"{first.folder} and {outcome.folder}" if outcome.folder else where
        raise ConfigError(f"{arm}: seed {outcome.seed} is there twice ({both})", fix="leave one out, or pair with by=order")
    return list(kept.values())


def even_ends(trials: dict[str, list[Outcome]]) -> None:
    """Sources that don't say whether a run was finished: one that ends before the others of its arm was not."""
    for arm, found in trials.items():
        ends = [outcome.points[-1].step for outcome in found if outcome.complete and outcome.points]
        usual = max(ends, default=0)
        trials[arm] = [
            replace(outcome, status="interrupted", value=None, error=f"ends at step {outcome.points[-1].step}, others of {arm} at {usual}")
            if outcome.complete and outcome.points and outcome.points[-1].step < usual
            else outcome
            for outcome in found
        ]
