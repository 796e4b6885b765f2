"""Claim: where nothing differs, `compare` says so: it calls any arm of a family different in at most 5 % of comparisons; planted effects
are found as often as predicted.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py                # some minutes on one core, results/calibration-<date>.json
    OMP_NUM_THREADS=1 python benchmarks/calibration.py --quick --no-record
    python benchmarks/calibration.py --pool results/calibration_pool.csv    # also families drawn from real A/A runs (calibration_pool.py)

A/A: per kind of noise, number of seeds (6 to 12), number of arms (1 to 10), with and without --until-clear: so many simulated families
without any effect, and the share in which any arm is called better or worse. With --until-clear a look after every pair counts. What is
called is computed for all families at once from `sign_flip_rows` and `e_process`; `decide`, the deciding half of `judge`, is asked about a
sample, and must agree. The rate of a kind is taken over the cells whose seeds are enough to call anything (the others are 0 by
arithmetic). The bar: the lower end of its 95 % Clopper-Pearson interval is <= 5 %, the upper end <= 7.5 %, that of every cell as well.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import record
from numpy.typing import NDArray
from scipy.special import betaincinv

from phiforge.stats.corrections import least_pairs
from phiforge.stats.paired import ENUMERATED, sign_flip, sign_flip_rows
from phiforge.stats.power import minimum_detectable_effect, power
from phiforge.stats.sequential import e_process, sequential_least_pairs, sequential_minimum_detectable, sequential_power
from phiforge.stats.verdict import decide, judge

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int, int]], Floats]  # (families, arms, pairs) of differences, nothing planted
ALPHA = 0.05
SIZES = [(6, 1), (8, 1), (8, 3), (10, 1), (10, 4), (12, 1), (12, 10), (16, 2), (20, 5), (24, 1)]  # seeds, arms of planted effects
CALLED = ("better", "worse")


def _shared(generator: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Arm minus one baseline, which all arms of a family share. Seeds differ in level (it cancels) and in spread; the noise is skewed."""
    families, _, pairs = shape
    spread = generator.lognormal(0, 0.8, (families, 1, pairs))
    return spread * (generator.exponential(1, shape) - generator.exponential(1, (families, 1, pairs)))


NOISE: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "heavy-tailed (t, 2 degrees)": lambda generator, shape: generator.standard_t(2, shape),
    "heavy-tailed (Cauchy)": lambda generator, shape: generator.standard_cauchy(shape),
    "tied (half zeros, else +-1, +-2)": lambda generator, shape: generator.choice([0.0, 0.0, 0.0, 0.0, 1, -1, 2, -2], shape),
    "shared seed effects": _shared,
}


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a rate."""
    low = float(betaincinv(hits, trials - hits + 1, 0.025)) if hits else 0.0
    return low, float(betaincinv(hits + 1, trials - hits, 0.975)) if hits < trials else 1.0


def p_values(differences: Floats, until_clear: bool) -> Floats:
    """(families, arms, pairs) -> (families, arms): the deciding p of every arm; the sequential one at its smallest over all looks."""
    families, arms, pairs = differences.shape
    flat = differences.reshape(-1, pairs)
    if until_clear:
        found = np.concatenate(
            [np.exp(-np.maximum(e_process(part).max(axis=1), 0)) for part in np.array_split(flat, len(flat) // 5000 + 1)]
        )
    elif pairs <= ENUMERATED:
        found = sign_flip_rows(flat)
    else:
        found = np.array([sign_flip(row) for row in flat])
    return found.reshape(families, arms)


def called(p: Floats, pairs: int, until_clear: bool) -> NDArray[np.bool_]:
    """(families, arms): which arms are called better or worse: Holm, and the least number of pairs."""
    arms = p.shape[1]
    if pairs < (sequential_least_pairs if until_clear else least_pairs)(arms, ALPHA):
        return np.zeros(p.shape, bool)
    order = np.argsort(p, axis=1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(arms, 0, -1), axis=1)
    found = np.empty(p.shape, bool)
    np.put_along_axis(found, order, steps <= ALPHA, 1)
    return found


def disagreements_of(differences: Floats, until_clear: bool, verdicts: NDArray[np.bool_]) -> int:
    """Ask `decide` itself about these families; returns how many arms it decided differently.

    With --until-clear it is asked after every pair, as long as nothing is called, as `compare` does.
    """
    wrong = 0
    for family, expected in zip(differences, verdicts, strict=True):
        looks = range(1, family.shape[1] + 1) if until_clear else [family.shape[1]]
        seen = np.zeros(len(family), bool)
        for n in looks:
            found = decide({str(i): arm[:n] for i, arm in enumerate(family)}, alpha=ALPHA, until_clear=until_clear)
            seen |= [found[str(i)].verdict in CALLED for i in range(len(family))]
        wrong += int(np.sum(seen != expected))
    return wrong


def calibrate(name: str, until_clear: bool, seeds: Sequence[int], arms: Sequence[int], families: int, asked: int) -> dict[str, Any]:
    """The family-wise rate of calling a difference where there is none: pooled over all cells, and cell by cell."""
    cells, disagreements, checked = [], 0, 0
    for n in seeds:
        for m in arms:
            differences = NOISE[name](np.random.default_rng([n, m, until_clear, sum(name.encode())]), (families, m, n))
            found = called(p_values(differences, until_clear), n, until_clear)
            hits = int(found.any(axis=1).sum())
            least = (sequential_least_pairs if until_clear else least_pairs)(m, ALPHA)
            upper = clopper_pearson(hits, families)[1]
            cells.append({"seeds": n, "arms": m, "speaks": n >= least, "hits": hits, "rate": hits / families, "upper": upper})
            if asked:
                # half of those asked about are families in which something was called: the others are nearly all silent
                picked = np.concatenate([np.flatnonzero(found.any(axis=1))[: asked // 2], np.arange(asked - asked // 2)])
                disagreements += disagreements_of(differences[picked], until_clear, found[picked])
                checked += len(picked)
    speaking = [cell for cell in cells if cell["speaks"]]
    hits, trials = sum(cell["hits"] for cell in speaking), families * len(speaking)
    low, high = clopper_pearson(hits, trials)
    worst = max(cells, key=lambda cell: cell["rate"])
    significant = sum(clopper_pearson(cell["hits"], families)[0] > ALPHA for cell in cells)
    ok = low <= 0.05 and high <= 0.075 and worst["upper"] <= 0.075 and disagreements == 0
    return {
        "name": f"A/A {name}{', until clear' if until_clear else ''}",
        "families": trials, "families_per_cell": families, "rate": hits / trials,
        "interval": [low, high], "worst_cell": worst, "cells": len(speaking), "cells_too_small": len(cells) - len(speaking),
        "cells_with_lower_end_above_5_percent": significant,
        "families_asked_of_decide": checked, "decide_disagreed": disagreements, "ok": ok,
        "rates_by_seeds_and_arms": {str(n): [cell["rate"] for cell in cells if cell["seeds"] == n] for n in seeds},
    }  # fmt: skip


def beside_an_effect(until_clear: bool, families: int) -> dict[str, Any]:
    """Holm holds the rate for the arms without effect when another arm has a large one."""
    generator = np.random.default_rng(7)
    hits = trials = 0
    for n, m in ((8, 3), (10, 4), (12, 6), (12, 10)):
        differences = generator.normal(size=(families, m, n))
        differences[:, 0] += 5.0
        hits += int(called(p_values(differences, until_clear), n, until_clear)[:, 1:].any(axis=1).sum())
        trials += families
    low, high = clopper_pearson(hits, trials)
    name = f"arms without effect beside one with{', until clear' if until_clear else ''}"
    return {"name": name, "families": trials, "rate": hits / trials, "interval": [low, high], "ok": low <= 0.05 and high <= 0.075}


def planted(n: int, m: int, until_clear: bool, scale: float, families: int) -> dict[str, Any]:
    """One arm with `scale` times the least effect that is found with 80 %: predicted against observed, in the right direction."""
    least = sequential_minimum_detectable(n, m=m) if until_clear else minimum_detectable_effect(n, m=m)
    assert least is not None
    effect = scale * least
    differences = np.random.default_rng([n, m, until_clear, int(10 * scale)]).normal(size=(families, m, n))
    differences[:, 0] += effect
    observed = float(called(p_values(differences, until_clear), n, until_clear)[:, 0].mean())
    predicted = (sequential_power if until_clear else power)(effect, n, m=m)
    return {
        "name": f"planted dz {effect:.2f}, {n} seeds, {m} arms{', until clear' if until_clear else ''}",
        "effect": effect, "seeds": n, "arms": m,
        "families": families, "predicted": predicted, "observed": observed, "ok": abs(predicted - observed) <= 0.05,
    }  # fmt: skip


def three_seeds(comparisons: int) -> dict[str, Any]:
    """On 3 seeds no difference is ever called, whatever the effect; every hundredth family goes through `judge` itself."""
    generator, said = np.random.default_rng(3), 0
    for i in range(comparisons):
        shift = 10.0 ** generator.integers(-2, 6)
        arms = {str(arm): shift + generator.normal(size=3) for arm in range(1 + i % 3)}
        found = (decide if i % 100 else judge)(arms, until_clear=bool(i % 2))
        said += any(one.verdict != "too few seeds to say" for one in found.values())
    return {"name": "3 seeds", "families": comparisons, "said_anything": said, "ok": said == 0}


def read_pool(path: Path, metric: str) -> Floats:
    """(pairs,) differences b - a of a CSV with columns arm, seed and the metric."""
    with path.open(newline="", encoding="utf-8") as file:
        values = {(row["arm"], row["seed"]): float(row[metric]) for row in csv.DictReader(file)}
    first, second = sorted({arm for arm, _ in values})
    return np.array([values[second, seed] - values[first, seed] for arm, seed in values if arm == first])


def pool_rates(path: Path, metric: str, families: int) -> list[dict[str, Any]]:
    """Families drawn from real A/A pairs: n pairs per arm without replacement, a and b swapped at random in each pair, and also left as is.

    Relabelled, the null holds by construction, so the rate checks the machinery on real noise. As is, all draws share the few pairs of the
    pool, so that rate moves with one number (how the pool's own mean fell); the pool's own p says how unusual that is.
    """
    pool, generator, rows = read_pool(path, metric), np.random.default_rng(32), []
    for until_clear in (False, True):
        for n, m in ((6, 1), (8, 1), (8, 4), (10, 1), (10, 4), (12, 1), (12, 10)):
            order = np.argsort(generator.random((families, m, len(pool))), axis=2)[:, :, :n]
            drawn = pool[order]
            rates = {}
            for kind, signs in (("relabelled", generator.choice([-1.0, 1.0], drawn.shape)), ("as_is", np.ones(drawn.shape))):
                hits = int(called(p_values(drawn * signs, until_clear), n, until_clear).any(axis=1).sum())
                rates[kind] = {"rate": hits / families, "interval": list(clopper_pearson(hits, families))}
            ok = rates["relabelled"]["interval"][0] <= 0.05 and rates["relabelled"]["interval"][1] <= 0.075
            name = f"real pairs, {n} seeds, {m} arm{'s' * (m > 1)}{', until clear' if until_clear else ''}"
            rows.append({"name": name, "families": families, **rates, "ok": ok})
    rows.append({
        "name": "the pool itself", "metric": metric, "pairs": len(pool), "mean": float(pool.mean()), "sd": float(pool.std(ddof=1)),
        "same_config_sd": float(math.sqrt(np.mean(pool**2) / 2)), "p": sign_flip(pool), "ok": True,
    })  # fmt: skip
    return rows


def line(result: dict[str, Any]) -> str:
    """One result in one line."""
    shown = f"{result['name']}: "
    if "predicted" in result:
        shown += f"predicted {result['predicted']:.3f}, observed {result['observed']:.3f}"
    elif "relabelled" in result:
        shown += f"relabelled {result['relabelled']['rate']:.4f}, as is {result['as_is']['rate']:.4f} of {result['families']:,}"
    elif "rate" in result:
        shown += f"{result['rate']:.4f} [{result['interval'][0]:.4f}, {result['interval'][1]:.4f}] of {result['families']:,}"
        shown += f", worst cell {result['worst_cell']['rate']:.4f}" if "worst_cell" in result else ""
    else:
        shown += ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("name", "ok"))
    return shown + ("" if result["ok"] else "  OUT OF BOUNDS")


def simulate(families: int, quick: bool) -> list[dict[str, Any]]:
    """Everything that needs no pool."""
    seeds, arms = ((6, 9, 12), (1, 3, 10)) if quick else (range(6, 13), range(1, 11))
    results: list[dict[str, Any]] = []

    def add(result: dict[str, Any]) -> None:
        results.append(result)
        print(line(result), flush=True)

    for until_clear in (False, True):
        for name in NOISE:
            add(calibrate(name, until_clear, seeds, arms, families, asked=2 if quick else 10))
        add(beside_an_effect(until_clear, families))
        sizes = [(6, 1), (9, 4), (12, 10)] if quick else SIZES
        for n, m in sizes:
            if until_clear and n < sequential_least_pairs(m, ALPHA):
                continue
            rows = families if n <= ENUMERATED or until_clear else min(families, 2_000)
            for scale in (0.6, 1.0, 1.3):
                add(planted(n, m, until_clear, scale, rows))
    add(three_seeds(100 if quick else 2_000))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=4_000, help="simulated families per cell")
    parser.add_argument("--quick", action="store_true", help="a corner of the grid")
    parser.add_argument("--pool", type=Path, help="CSV of real A/A pairs: columns arm, seed, METRIC")
    parser.add_argument("--metric", default="eval_bits_per_byte", help="the column of --pool")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    results = simulate(arguments.families, arguments.quick)
    if arguments.pool:
        results += pool_rates(arguments.pool, arguments.metric, 20_000)
        print("\n".join(line(result) for result in results if "real pairs" in result["name"] or "pool" in result["name"]))
    if not arguments.no_record:
        config = {
            "families_per_cell": arguments.families,
            "alpha": ALPHA,
            "quick": arguments.quick,
            "pool": arguments.pool and arguments.pool.name,
        }
        print(record("calibration", results, config=config))
    failed = [result["name"] for result in results if not result["ok"]]
    if failed:
        raise SystemExit(f"out of bounds: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
