"""The verdict: one of four words per arm, earned by one test that was chosen before, and everything that is shown beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phiforge.core.errors import ConfigError, DataError
from phiforge.stats import power as fixed
from phiforge.stats import sequential
from phiforge.stats.corrections import holm, least_pairs
from phiforge.stats.paired import bootstrap_interval, checked, effect_size, paired_t, sign_flip, spread, wilcoxon

Verdict = Literal["better", "worse", "no detectable difference", "too few seeds to say"]
NONE: Verdict = "no detectable difference"
TOO_FEW: Verdict = "too few seeds to say"


@dataclass(frozen=True)
class Judgement:
    """One arm against the baseline. Plain values only (`dataclasses.asdict` of it is JSON); None = not defined for so few pairs.

    Only `p_holm`, with n, makes the verdict. Differences are arm minus baseline, in the metric's unit.
    """

    arm: str
    n: int  # pairs
    verdict: Verdict
    p: float  # of the deciding test: exact sign-flip, or with until_clear the anytime p of the betting test
    p_holm: float
    mean: float | None
    interval: tuple[float, float] | None  # Student's t, 95 %
    t_p: float | None
    wilcoxon_p: float | None
    bootstrap: tuple[float, float] | None  # BCa, 95 %, of the mean
    effect_size: float | None  # dz with Hedges' factor; None below 2 pairs, or where all differences are equal and not 0
    minimum_detectable: (
        float | None
    )  # metric units: found with 80 % probability at alpha / m; None where n can't call anything, or no noise was seen
    seeds_needed: int | None  # to call the measured effect with 80 % probability; None above 1,000, or where nothing was measured
    e_value: float | None  # largest so far, with until_clear
    least_pairs: int  # fewer can't call anything in this family
    family_size: int
    alpha: float
    sentence: str  # the same in plain English


@dataclass(frozen=True)
class Decision:
    """What decides on one arm, and what is decided."""

    n: int
    verdict: Verdict
    p: float
    p_holm: float
    e_value: float | None
    least_pairs: int


def decide(
    differences: Mapping[str, ArrayLike],
    *,
    alpha: float = 0.05,
    lower_is_better: bool = True,
    until_clear: bool = False,
    family_size: int | None = None,
) -> dict[str, Decision]:
    """The verdicts alone, in a fraction of the time of `judge`; same arguments, same errors."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha={alpha} is not between 0 and 1", fix="0.05 is the custom")
    m = max(len(differences) if family_size is None else family_size, 1)
    if m < len(differences):
        raise DataError(f"family_size={m}, but {len(differences)} arms are given", fix="count every arm that was declared")
    values = {arm: checked(given, name=f"differences of arm {arm!r}") for arm, given in differences.items()}
    games = {arm: sequential.anytime(found) for arm, found in values.items()} if until_clear else {}
    p = {arm: games[arm].p if until_clear else sign_flip(found) for arm, found in values.items()}
    adjusted = dict(zip(p, holm(list(p.values()), family=m), strict=True))
    least = sequential.sequential_least_pairs(m, alpha) if until_clear else least_pairs(m, alpha)
    decided = {}
    for arm, found in values.items():
        mean = float(found.mean()) if found.size else 0.0
        verdict = TOO_FEW if found.size < least else NONE
        # The sequential test remembers its best moment; a mean that has since turned round is no longer a clear direction.
        turned = until_clear and games[arm].direction != np.sign(mean)
        if verdict == NONE and adjusted[arm] <= alpha and mean != 0 and not turned:
            verdict = "better" if (mean < 0) == lower_is_better else "worse"
        e_value = games[arm].e_value if until_clear else None
        decided[arm] = Decision(int(found.size), verdict, p[arm], adjusted[arm], e_value, least)
    return decided


def judge(
    differences: Mapping[str, ArrayLike],
    *,
    alpha: float = 0.05,
    lower_is_better: bool = True,
    until_clear: bool = False,
    family_size: int | None = None,
    baseline: str = "the baseline",
) -> dict[str, Judgement]:
    """The verdict on every arm of a family: arm -> differences (arm minus baseline), one per paired seed, in the order of the seeds.

    The exact sign-flip test decides, with Holm's correction over the arms; with `until_clear` the sequential test alone does, and seeds may
    be added until it speaks. `too few seeds to say` is arithmetic, not data: 2 / 2^n > alpha / m (for until_clear: no wealth of n pairs
    reaches m / alpha). `family_size` is m where arms were declared that have no list here; an arm with an empty list counts as well.
    Non-finite differences are a DataError: the caller leaves failed pairs out, and says so.
    """
    decided = decide(differences, alpha=alpha, lower_is_better=lower_is_better, until_clear=until_clear, family_size=family_size)
    m = max(len(differences) if family_size is None else family_size, 1)
    return {arm: _judgement(arm, checked(differences[arm]), found, m, alpha, baseline) for arm, found in decided.items()}


def _judgement(arm: str, values: NDArray[np.float64], decided: Decision, m: int, alpha: float, baseline: str) -> Judgement:
    n, until_clear = decided.n, decided.e_value is not None
    t = paired_t(values) if n else None
    interval = (t.low, t.high) if t is not None and t.low is not None and t.high is not None else None
    effect = effect_size(values) if n else None
    needed = _seeds_needed(values, effect, m, alpha, decided.least_pairs, until_clear)
    detectable = _minimum_detectable(values, m, alpha, until_clear)
    mean = t.mean if t else None
    return Judgement(
        arm=arm, n=n, verdict=decided.verdict, p=decided.p, p_holm=decided.p_holm, mean=mean, interval=interval, t_p=t.p if t else None,
        wilcoxon_p=wilcoxon(values) if n else None, bootstrap=bootstrap_interval(values) if n else None, effect_size=effect,
        minimum_detectable=detectable, seeds_needed=needed, e_value=decided.e_value, least_pairs=decided.least_pairs, family_size=m,
        alpha=alpha, sentence=_sentence(arm, baseline, decided, m, mean, interval, detectable, needed),
    )  # fmt: skip


def _minimum_detectable(values: NDArray[np.float64], m: int, alpha: float, until_clear: bool) -> float | None:
    """In the metric's unit: the least dz times the standard deviation that was measured."""
    if spread(values) == 0:  # no noise was seen: that is no measure of it
        return None
    find = sequential.sequential_minimum_detectable if until_clear else fixed.minimum_detectable_effect
    effect = find(int(values.size), m=m, alpha=alpha)
    return None if effect is None else effect * spread(values)


def _seeds_needed(values: NDArray[np.float64], effect: float | None, m: int, alpha: float, least: int, until_clear: bool) -> int | None:
    if values.size < 2 or effect == 0:
        return None
    if effect is None:  # all differences are one number: as many pairs as it takes to say so
        return least
    find = sequential.sequential_seeds_needed if until_clear else fixed.seeds_needed
    return find(effect, m=m, alpha=alpha)


def _sentence(
    arm: str,
    baseline: str,
    decided: Decision,
    m: int,
    mean: float | None,
    interval: tuple[float, float] | None,
    detectable: float | None,
    needed: int | None,
) -> str:
    """One line for people."""
    n, verdict, least = decided.n, decided.verdict, decided.least_pairs
    pairs = f"{n} pair" + ("" if n == 1 else "s")
    family = f" after Holm over {m} arms" if m > 1 else ""
    if verdict == TOO_FEW:
        return f"Too few seeds to say whether {arm} differs from {baseline}: {pairs}, and fewer than {least} can't decide anything here."
    difference = f"mean difference {mean:+.4g}" + (f" (95 % interval {interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
    anytime = "" if decided.e_value is None else "anytime "
    told = f"{difference} over {pairs}, {anytime}p = {decided.p_holm:.3g}{family}"
    if verdict != NONE:
        return f"{arm} is {verdict} than {baseline}: {told}."
    found = "" if not detectable else f"; an effect of {detectable:.3g} would have been found in 4 of 5 such experiments"
    more = "" if needed is None or needed <= n else f"; if the measured one is real, about {needed} seeds would show it"
    return f"No detectable difference between {arm} and {baseline}: {told}{found}{more}."
