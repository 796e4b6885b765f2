"""From what the trials left to verdict.json: pairs, the judgement on each arm, and what is shown beside it.

Only the declared metric, over the seeds that both runs of a pair finished, decides. All else is shown.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phiforge.lab.arms import ArmPlan
from phiforge.lab.controls import TUNED
from phiforge.lab.experiment import flat
from phiforge.lab.pairing import pairing
from phiforge.lab.trials import Outcome, Point
from phiforge.stats.noise import same_config_sd, sd
from phiforge.stats.paired import paired_t
from phiforge.stats.verdict import NONE, TOO_FEW, Judgement, judge

SCHEMA_VERSION = 1
_SMALL = 0.1  # of the standard deviation over seeds: a smaller difference is said to be small


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a verdict rests on. trials: arm -> one outcome a seed, missing ones included, in the order of the seeds.

    noise: pairs of the baseline's values that differ in the dropout seed alone. finished: whether every planned trial is over.
    """

    metric: str
    lower: bool
    alpha: float
    until_clear: bool
    arms: Sequence[ArmPlan]
    trials: Mapping[str, Sequence[Outcome]]
    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    noise: Sequence[tuple[float, float]] = ()
    finished: bool = True

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return next(arm.name for arm in self.arms if arm.role == "baseline")


Pair = tuple[Outcome, Outcome]


def pairs_of(evidence: Evidence, arm: str, against: str) -> list[Pair]:
    """(arm, against) for every seed that both finished, in the order of the seeds."""
    other = {outcome.seed: outcome for outcome in evidence.trials[against] if outcome.complete}
    return [(outcome, other[outcome.seed]) for outcome in evidence.trials[arm] if outcome.complete and outcome.seed in other]


def differences(pairs: Sequence[Pair]) -> list[float]:
    """Arm minus the other, of each pair."""
    return [(one.value or 0.0) - (two.value or 0.0) for one, two in pairs]


def family(evidence: Evidence) -> list[str]:
    """The arms that the error rate is kept over."""
    return [arm.name for arm in evidence.arms if arm.role == "arm"]


def compare_all(evidence: Evidence) -> list[dict[str, Any]]:
    """One comparison for each arm with the baseline, then the controls: with the baseline, and the arms with them."""
    base = evidence.baseline
    shown = [(arm.name, base) for arm in evidence.arms if arm.role == "control"]
    shown += [(arm, control) for arm, controls in evidence.controls.items() for control in controls]
    judged, beside = _judged(evidence, [(arm, base) for arm in family(evidence)], "arm"), _judged(evidence, shown, "control")
    for row in judged:
        _hold_to_both(evidence, row, beside)
    return judged + beside


def _hold_to_both(evidence: Evidence, row: dict[str, Any], beside: Sequence[Mapping[str, Any]]) -> None:
    """An arm that tuning gave another setting than the baseline must differ from the baseline at that setting too.

    Both tests must speak, so the second one needs no correction of its own.
    """
    for control in beside:
        if row["verdict"] in (NONE, TOO_FEW) or control["arm"] != row["arm"] or not control["against"].endswith(f"={TUNED}"):
            continue
        mean = control["mean"] or 0.0
        same_way = (mean < 0) == (row["mean"] < 0) and mean != 0
        if not (same_way and control["p"] <= evidence.alpha):
            note = (
                f"tuning gave {row['arm']} another setting than {row['against']}, and beside {row['against']} at that setting"
                f" ({control['against']}) the difference is {mean:+.4g} (p = {control['p']:.3g}): not called {row['verdict']}"
            )
            row["verdict"] = NONE
            row["notes"].append(note)
            row["sentence"] = f"{row['arm']}: {note}. Each at what was chosen for it: {row['sentence']}"


def _judged(evidence: Evidence, rows: Sequence[tuple[str, str]], role: str) -> list[dict[str, Any]]:
    """Judge rows (arm, against) as one family."""
    made = []
    pairs = {row: pairs_of(evidence, *row) for row in rows}
    for against in dict.fromkeys(against for _, against in rows):
        judged = judge(
            {arm: differences(pairs[arm, other]) for arm, other in rows if other == against},
            alpha=evidence.alpha,
            lower_is_better=evidence.lower,
            until_clear=evidence.until_clear,
            family_size=len(rows),
            baseline=against,
        )
        made += [_comparison(evidence, judgement, against, role, pairs[arm, against]) for arm, judgement in judged.items()]
    return made


def _comparison(evidence: Evidence, judgement: Judgement, against: str, role: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    arm = judgement.arm
    row = asdict(judgement) | {"arm": arm, "against": against, "role": role}
    row["pairs"] = [
        {"seed": one.seed, "value": one.value, "baseline": two.value, "difference": difference}
        for (one, two), difference in zip(pairs, differences(pairs), strict=True)
    ]
    row["equal_seconds"] = equal_seconds(evidence, pairs)
    row["to_baseline_loss"] = to_baseline_loss(pairs, lower=evidence.lower)
    row["items"] = None
    row["notes"] = _missing_notes(evidence, arm, against)
    if role == "control":
        row["notes"].append("shown beside the verdicts, outside their family")
    _hold_back(evidence, row)
    _tell_of_size(evidence, row)
    return row


def _hold_back(evidence: Evidence, row: dict[str, Any]) -> None:
    """A verdict that the missing runs, or the ones still to come, would flatter is not given."""
    early = row["verdict"] == NONE if evidence.until_clear else row["verdict"] != TOO_FEW  # what is clear sequentially stays so
    if not evidence.finished and early:
        row["verdict"] = TOO_FEW
        row["notes"].append("not all planned runs are over: the verdict comes with the last one")
        row["sentence"] = f"{row['arm']}: not all planned runs are over, so there is no verdict yet."
        return
    failed = {name: _lost(evidence, name) for name in (row["arm"], row["against"])}
    only_arm = sorted(failed[row["arm"]] - failed[row["against"]], key=str)
    only_base = sorted(failed[row["against"]] - failed[row["arm"]], key=str)
    for called, name, seeds in (("better", row["arm"], only_arm), ("worse", row["against"], only_base)):
        if row["verdict"] == called and seeds:
            note = (
                f"{name} has no result on seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} where the other has:"
                f" what survived flatters it, so {row['arm']} is not called {called}"
            )
            row["verdict"] = NONE
            row["notes"].append(note)
            row["sentence"] = f"{row['arm']}: {note}. On the pairs that finished: {row['sentence']}"


def _lost(evidence: Evidence, arm: str) -> set[int | str]:
    """Seeds without a value. A run that was never logged may be one that broke."""
    return {outcome.seed for outcome in evidence.trials[arm] if not outcome.complete}


def _tell_of_size(evidence: Evidence, row: dict[str, Any]) -> None:
    """A difference that is real and next to nothing is called what the test calls it, and said to be small."""
    spread = sd([outcome.value for outcome in evidence.trials[row["against"]] if outcome.value is not None])
    if row["verdict"] in (NONE, TOO_FEW) or not spread or abs(row["mean"]) >= _SMALL * spread:
        return
    note = f"a small difference: {abs(row['mean']) / spread:.1%} of the standard deviation over seeds of {row['against']} ({spread:.3g})"
    row["notes"].append(note)
    row["sentence"] += f" It is {note}."


def _missing_notes(evidence: Evidence, arm: str, against: str) -> list[str]:
    """Which seeds have no pair, and why."""
    notes = []
    for name in (arm, against):
        for status in ("failed", "invalid", "missing", "interrupted"):
            seeds = [outcome.seed for outcome in evidence.trials[name] if outcome.status == status]
            if seeds:
                notes.append(
                    f"{name}: {status} on {len(seeds)} of {len(evidence.trials[name])} seeds ({', '.join(map(str, seeds))}); no pair"
                )
    return notes


# -- shown beside it --------------------------------------------------------------------------------------------------


def equal_seconds(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """The mean difference at equal training time: each curve, read where the quickest arm (its median run) ends.

    Curves are the evaluations on the way, of fewer tokens than the last one. None where fewer than two pairs have a curve.
    """
    took = [[trial.points[-1].seconds for trial in found if trial.complete and trial.points] for found in evidence.trials.values()]
    ends = [statistics.median(seconds) for seconds in took if seconds]
    ready = [(one, two) for one, two in pairs if one.points and two.points]
    if len(ready) < 2 or not ends:
        return None
    at = min(ends)
    read = [(value_at(one.points, at), value_at(two.points, at)) for one, two in ready]
    values = [one - two for one, two in read if one is not None and two is not None]
    if len(values) < 2:
        return None
    t = paired_t(values)
    return {"seconds": at, "mean": t.mean, "interval": [t.low, t.high], "n": len(values)}


def value_at(points: Sequence[Point], seconds: float) -> float | None:
    """A curve's value at a time, straight between its points; None before the first."""
    if not points or seconds < points[0].seconds:
        return None
    for before, after in itertools.pairwise(points):
        if before.seconds <= seconds <= after.seconds:
            width = after.seconds - before.seconds
            part = (seconds - before.seconds) / width if width > 0 else 1.0
            return before.value + part * (after.value - before.value)
    return points[-1].value


def to_baseline_loss(pairs: Sequence[Pair], *, lower: bool) -> dict[str, Any] | None:
    """Steps, tokens and seconds at which the arm first has the value that the baseline ends with: the median over the pairs.

    None where most pairs never get there. `reached` of `of` pairs did; `baseline` is what the baseline took itself.
    """
    ready = [(one, two) for one, two in pairs if one.points and two.points]
    found = [reach(one.points, two.points[-1].value, lower=lower) for one, two in ready]
    got = [point for point in found if point is not None]
    if not got or 2 * len(got) < len(ready):
        return None
    padded = sorted(point.tokens if point else math.inf for point in found)
    if not math.isfinite(statistics.median(padded)):
        return None
    ends = [two.points[-1] for _, two in ready]
    return {**_medians(got), "reached": len(got), "of": len(ready), "baseline": _medians(ends)}


def _medians(points: Sequence[Point]) -> dict[str, float]:
    return {name: statistics.median(getattr(point, at) for point in points) for name, at in _AXES.items()}


_AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}


def reach(points: Sequence[Point], target: float, *, lower: bool) -> Point | None:
    """Where a curve first is as good as `target`, straight between its points; None where it never is."""
    sign = 1.0 if lower else -1.0
    before: Point | None = None
    for point in points:
        if sign * point.value <= sign * target:
            if before is None:
                return point
            part = (before.value - target) / (before.value - point.value)
            return Point(
                step=round(before.step + part * (point.step - before.step)),
                tokens=before.tokens + part * (point.tokens - before.tokens),
                seconds=before.seconds + part * (point.seconds - before.seconds),
                value=target,
            )
        before = point
    return None


def noise_floor(evidence: Evidence) -> dict[str, Any]:
    """How much the metric moves where nothing that is asked about changes."""
    values = [outcome.value for outcome in evidence.trials[evidence.baseline] if outcome.complete and outcome.value is not None]
    how = f"standard deviation of {evidence.baseline} over {len(values)} seed{'s' if len(values) != 1 else ''}"
    same = same_config_sd(list(evidence.noise)) if evidence.noise else None
    if same is not None:
        how += f"; {len(evidence.noise)} pair{'s' if len(evidence.noise) != 1 else ''} of runs that differ in the dropout seed alone"
        how += " (a model without dropout repeats itself exactly)" if same == 0 else ""
    return {"sd_over_seeds": sd(values) if values else None, "same_config_sd": same, "how": how}


def assemble(
    evidence: Evidence, head: Mapping[str, Any], *, folder: Path, tuning: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """verdict.json. head: name, description, command, budget and the like, as they are to stand in it."""
    m = len(family(evidence))
    shared, apart = pairing(evidence.trials, evidence.baseline)
    how = "sequential betting test, looked at after every seed" if evidence.until_clear else "exact sign-flip test"
    done = {
        "schema_version": SCHEMA_VERSION,
        **head,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": evidence.finished,
        "metric": {"name": evidence.metric, "lower_is_better": evidence.lower},
        "alpha": evidence.alpha,
        "until_clear": evidence.until_clear,
        "decided_by": f"{how}, Holm over {m} arm{'s' if m != 1 else ''}",
        "family_size": m,
        "baseline": evidence.baseline,
        "arms": [_arm(arm, evidence.trials[arm.name], folder, tuning.get(arm.name)) for arm in evidence.arms],
        "comparisons": compare_all(evidence),
        "noise": noise_floor(evidence),
        "shared": shared,
        "not_shared": apart,
        "warnings": list(warnings),
        "failures": [
            {"arm": outcome.arm, "seed": outcome.seed, "error": outcome.error}
            for found in evidence.trials.values()
            for outcome in found
            if outcome.status in ("failed", "invalid")
        ],
        "curves": {
            arm: [{"seed": trial.seed, "points": [[p.tokens, p.seconds, p.value] for p in trial.points]} for trial in found if trial.points]
            for arm, found in evidence.trials.items()
        },
    }
    return finite(done)


def _arm(arm: ArmPlan, found: Sequence[Outcome], folder: Path, tuning: Any) -> dict[str, Any]:
    return {
        "name": arm.name,
        "role": arm.role,
        "control_of": arm.control_of,
        "about": arm.about,
        "settings": flat(arm.settings),
        "tuned": dict(arm.tuned) if arm.tuned is not None else None,
        "tuning": tuning,
        "trials": [_trial(outcome, folder) for outcome in found],
    }


def _trial(outcome: Outcome, folder: Path) -> dict[str, Any]:
    inside = outcome.folder is not None and outcome.folder.is_relative_to(folder)
    return {
        "seed": outcome.seed,
        "status": outcome.status,
        "path": None if outcome.folder is None else str(outcome.folder.relative_to(folder) if inside else outcome.folder),
        "value": outcome.value,
        "metrics": dict(outcome.metrics),
        "error": outcome.error,
        "seconds": outcome.seconds,
    }


def finite(value: Any) -> Any:
    """Plain JSON data: numbers that JSON has not become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
