"""What would make a comparison say something that isn't so, looked for before it is judged.

A trial whose value can't stand beside the baseline's becomes `invalid`, with the reason; what a reader should know becomes a warning.
Nothing is dropped: an invalid trial keeps its place, and its seed has no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phiforge.lab.checks import CHECKS
from phiforge.lab.scene import Finding, Scene, Trial
from phiforge.lab.trials import Outcome

Trials = Mapping[str, Sequence[Outcome]]


def check_trials(
    trials: Trials, *, baseline: str, metric: str, lower: bool = True, timed: bool = False, by_order: bool = False
) -> list[Finding]:
    """Everything found in arm -> outcomes.

    `timed`: the budget is in seconds, so that unequal tokens are meant. `by_order`: seeds are places in a list.

    Which cases there are, and what becomes of each, is in docs/compare.md; a row of `CHECKS` is one.
    """
    table = {arm: [Trial.of(outcome) for outcome in found] for arm, found in trials.items()}
    base = {trial.outcome.seed: trial for trial in table[baseline]}
    scene = Scene(table=table, baseline=baseline, base=base, metric=metric, lower=lower, timed=timed, by_order=by_order)
    found = [finding for check in CHECKS for finding in check(scene)]
    return list(dict.fromkeys(found))


def apply(trials: Trials, findings: Sequence[Finding]) -> tuple[dict[str, list[Outcome]], list[str]]:
    """(trials with the invalid ones marked, warnings in words). An arm's invalid finding without a seed marks all of its trials."""
    reasons: dict[tuple[str, Any], list[str]] = {}
    for finding in findings:
        if finding.invalid:
            seeds = [finding.seed] if finding.seed is not None else [outcome.seed for outcome in trials[finding.arm]]
            for seed in seeds:
                reasons.setdefault((finding.arm, seed), []).append(finding.text)
    marked = {
        arm: [
            replace(outcome, status="invalid", value=None, error="; ".join(reasons[arm, outcome.seed]))
            if (arm, outcome.seed) in reasons and outcome.complete
            else outcome
            for outcome in found
        ]
        for arm, found in trials.items()
    }
    return marked, told(findings)


def told(findings: Sequence[Finding]) -> list[str]:
    """One line for each thing found in an arm, its seeds together."""
    groups: dict[tuple[str, str, bool], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.arm, finding.invalid), []).append(finding)
    lines = []
    for (_, arm, invalid), found in groups.items():
        seeds = [str(finding.seed) for finding in found if finding.seed is not None]
        who = f"{arm}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds[:8])}{', ...' if len(seeds) > 8 else ''}" if seeds else arm
        texts = list(dict.fromkeys(finding.text for finding in found))
        more = f" (and {len(texts) - 1} more like it)" if len(texts) > 1 else ""
        lines.append(f"{who}: {texts[0]}{more}{'; not counted' if invalid else ''}")
    return lines
