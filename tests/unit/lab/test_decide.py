"""From outcomes to verdict.json: which pairs count, what holds a verdict back, and what is shown beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from phiforge.lab.arms import ArmPlan
from phiforge.lab.decide import Evidence, assemble, compare_all, noise_floor, reach, to_baseline_loss, value_at
from phiforge.lab.pairing import pairing
from phiforge.lab.trials import Outcome, Point, read_trial
from phiforge.stats.spikes import spikes

SHARED = [2.0, 2.1, 1.9, 2.3, 1.8, 2.2, 2.05, 1.95, 2.15]
BASE, ARM = ArmPlan(name="base", role="baseline", settings={}), ArmPlan(name="arm", role="arm", settings={})
CONTROL = ArmPlan(name="arm=rate", role="control", control_of="arm", settings={})


def outcomes(arm: str, shift: float = 0.0, *, failed: tuple[int, ...] = (), n: int = 9, status: str = "failed") -> list[Outcome]:
    """One outcome a seed; the difference to the baseline wobbles a little around `shift`."""
    return [
        Outcome(arm=arm, seed=seed, status=status if seed in failed else "complete", error="nan" if seed in failed else None,
                value=None if seed in failed else SHARED[seed] + shift * (1 + 0.1 * (seed % 3)))
        for seed in range(n)
    ]  # fmt: skip


def evidence(trials: dict[str, list[Outcome]], **more: Any) -> Evidence:
    arms = [arm for arm in (BASE, ARM, CONTROL) if arm.name in trials]
    return Evidence(**({"metric": "loss", "lower": True, "alpha": 0.05, "until_clear": False, "arms": arms, "trials": trials} | more))


def row(of: Evidence, arm: str = "arm", against: str = "base") -> dict[str, Any]:
    return next(found for found in compare_all(of) if (found["arm"], found["against"]) == (arm, against))


@pytest.mark.parametrize(
    ("shift", "lower", "verdict"), [(-0.2, True, "better"), (0.2, True, "worse"), (-0.2, False, "worse"), (0.2, False, "better")]
)
def test_the_direction(shift: float, lower: bool, verdict: str) -> None:
    found = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", shift)}, lower=lower))
    assert found["verdict"] == verdict and found["n"] == 9 and found["mean"] == pytest.approx(shift * 1.1)


def test_a_seed_that_one_side_lacks_is_no_pair_and_is_named() -> None:
    found = row(evidence({"base": outcomes("base", failed=(3,), status="missing"), "arm": outcomes("arm", -0.2, n=8)}))
    assert [pair["seed"] for pair in found["pairs"]] == [0, 1, 2, 4, 5, 6, 7] and found["verdict"] == "better"
    assert any("base: missing on 1 of 9 seeds (3); no pair" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("shift", "arm_fails", "base_fails", "verdict"),
    [
        (-0.2, (4,), (), "no detectable difference"),
        (-0.2, (4,), (4,), "better"),
        (-0.2, (), (4,), "better"),
        (-0.2, (4,), (5,), "no detectable difference"),
        (0.2, (4,), (), "worse"),
        (0.2, (), (4,), "no detectable difference"),
    ],
)
def test_what_survived_never_flatters(shift: float, arm_fails: tuple[int, ...], base_fails: tuple[int, ...], verdict: str) -> None:
    found = row(evidence({"base": outcomes("base", failed=base_fails), "arm": outcomes("arm", shift, failed=arm_fails)}))
    assert found["verdict"] == verdict
    assert any("flatters" in note for note in found["notes"]) == (verdict == "no detectable difference")


def test_a_run_that_was_never_logged_flatters_as_much_as_one_that_broke() -> None:
    found = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", -0.2, failed=(5,), status="missing")}))
    assert found["verdict"] == "no detectable difference" and "has no result on seed 5" in found["sentence"]


def test_a_small_difference_is_said_to_be_small() -> None:
    large = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", -0.2)}))
    small = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", -1e-4)}))
    assert large["verdict"] == small["verdict"] == "better"
    assert "small" not in large["sentence"] and "It is a small difference" in small["sentence"]


@pytest.mark.parametrize(
    ("shift", "beside", "verdict"),
    [
        (-0.2, 0.0, "better"),  # the baseline does as badly at the arm's setting
        (-0.2, -0.4, "no detectable difference"),  # there it beats the arm: the baseline's own setting was badly chosen
        (-0.2, -0.2, "no detectable difference"),
        (0.2, 0.0, "worse"),
        (0.2, 0.3, "no detectable difference"),  # the arm's setting was badly chosen
    ],
)
def test_what_tuning_drew_by_luck_is_no_verdict(shift: float, beside: float, verdict: str) -> None:
    base, arm, tuned = outcomes("base"), outcomes("arm", shift), outcomes("arm=tuned", beside)
    control = ArmPlan(name="arm=tuned", role="control", control_of="arm", settings={})
    found = row(
        evidence({"base": base, "arm": arm, "arm=tuned": tuned}, arms=[BASE, ARM, control], controls={"arm": ["arm=tuned"]}),
    )
    assert found["verdict"] == verdict
    assert any("tuning gave" in note for note in found["notes"]) == (verdict == "no detectable difference")


def test_before_the_last_run_there_is_no_verdict() -> None:
    found = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", -0.2)}, finished=False))
    assert found["verdict"] == "too few seeds to say" and "no verdict yet" in found["sentence"]
    clear = row(evidence({"base": outcomes("base"), "arm": outcomes("arm", -0.2)}, finished=False, until_clear=True))
    assert clear["verdict"] == "better", "what the sequential test has called stays called"


def test_three_seeds_never_decide() -> None:
    assert row(evidence({"base": outcomes("base", n=3), "arm": outcomes("arm", -9.0, n=3)}))["verdict"] == "too few seeds to say"


def test_controls_are_shown_outside_the_family() -> None:
    trials = {"base": outcomes("base", n=6), "arm": outcomes("arm", -0.2, n=6), "arm=rate": outcomes("arm=rate", -0.1, n=6)}
    of = evidence(trials, controls={"arm": ["arm=rate"]})
    assert row(of)["verdict"] == "better" and row(of)["family_size"] == 1, "6 pairs are enough for one arm, not for three"
    rows = [(found["arm"], found["against"], found["role"]) for found in compare_all(of)]
    assert rows == [("arm", "base", "arm"), ("arm=rate", "base", "control"), ("arm", "arm=rate", "control")]
    assert row(of, "arm", "arm=rate")["mean"] == pytest.approx(-0.1 * 1.1) and "outside" in row(of, "arm=rate")["notes"][-1]


def curve(*points: tuple[float, float]) -> tuple[Point, ...]:
    """Points at (seconds, value); 100 tokens and 10 steps a second."""
    return tuple(Point(step=round(10 * at), tokens=100 * at, seconds=at, value=value) for at, value in points)


def test_a_curve_is_read_straight_between_its_points() -> None:
    points = curve((1, 4.0), (3, 2.0), (5, 1.0))
    assert [value_at(points, at) for at in (0.5, 1, 2, 3, 4, 9)] == [None, 4.0, 3.0, 2.0, 1.5, 1.0]
    assert reach(points, 3.0, lower=True) == Point(step=20, tokens=200.0, seconds=2.0, value=3.0)
    assert reach(points, 4.5, lower=True) == points[0] and reach(points, 0.5, lower=True) is None
    up = curve((1, 1.0), (3, 3.0))
    assert reach(up, 2.0, lower=False) == Point(step=20, tokens=200.0, seconds=2.0, value=2.0)


def timed(arm: str, points: tuple[Point, ...]) -> list[Outcome]:
    return [Outcome(arm=arm, seed=seed, status="complete", value=points[-1].value, points=points) for seed in range(3)]


def test_equal_seconds_reads_every_curve_where_the_quickest_arm_ends() -> None:
    slow, quick = curve((2, 4.0), (8, 1.0)), curve((1, 4.0), (4, 2.0))
    found = row(evidence({"base": timed("base", slow), "arm": timed("arm", quick)}))["equal_seconds"]
    assert found == {"seconds": 4.0, "mean": -1.0, "interval": [-1.0, -1.0], "n": 3}


def test_what_it_takes_to_get_where_the_baseline_ends() -> None:
    base, arm = timed("base", curve((1, 4.0), (5, 2.0))), timed("arm", curve((1, 4.0), (3, 1.0)))
    found = to_baseline_loss(list(zip(arm, base, strict=True)), lower=True)
    assert found is not None and found["reached"] == found["of"] == 3 and found["baseline"]["tokens"] == 500
    assert found["seconds"] == pytest.approx(1 + 2 * 2 / 3) and found["tokens"] == pytest.approx(100 + 200 * 2 / 3)
    assert to_baseline_loss(list(zip(base, arm, strict=True)), lower=True) is None, "the other never gets there"


def test_the_noise_floor_is_of_the_baseline() -> None:
    floor = noise_floor(evidence({"base": outcomes("base"), "arm": outcomes("arm", -5)}, noise=[(1.0, 1.2), (2.0, 2.0)]))
    assert floor["same_config_sd"] == pytest.approx(math.sqrt(0.04 / 2 / 2)) and 0.1 < floor["sd_over_seeds"] < 0.2


def test_verdict_json_has_no_number_that_json_has_not() -> None:
    import json

    trials = {"base": outcomes("base", n=1), "arm": [Outcome(arm="arm", seed=0, status="complete", value=1.0, metrics={"x": math.inf})]}
    verdict = assemble(evidence(trials), {"name": "x"}, folder=Path(), tuning={}, warnings=[])
    assert json.loads(json.dumps(verdict, allow_nan=False))["arms"][1]["trials"][0]["metrics"] == {"x": None}


# -- pairs and trials -------------------------------------------------------------------------------------------------


def streamed(arm: str, settings: dict[str, Any], **streams: Any) -> list[Outcome]:
    whole = {"initialisation": 1, "data_order": 2, "dropout": 3} | streams
    return [Outcome(arm=arm, seed=1, status="complete", value=1.0, streams=whole, settings=settings)]


def test_streams_are_shared_when_every_pair_has_the_same() -> None:
    base = streamed("base", {"model": {"size": 1}, "phi": {"phi_batch_progression": False}})
    other = streamed("large", {"model": {"size": 2}, "phi": {"phi_batch_progression": False}}, initialisation=9)
    grown = streamed("batch", {"model": {"size": 1}, "phi": {"phi_batch_progression": True}})
    shared, apart = pairing({"base": base, "large": other, "batch": grown}, "base")
    assert "the order of the training rows" in shared and "the first weights" not in shared
    assert "the first weights: large has its own (it differs in model.size)" in apart
    assert any("batch reads the same rows in the same order in batches of other sizes" in line for line in apart)
    assert any(line == "the tokenizer: not recorded by the runs" for line in apart)


def test_rows_drawn_by_difficulty_are_told() -> None:
    plain = {"phi": {"phi_training_phases": False, "phase1_focus": "exploration"}}
    hard = {"phi": {"phi_training_phases": True, "phase1_focus": "exploitation"}}
    _, apart = pairing({"base": streamed("base", plain), "data": streamed("data", hard)}, "base")
    told = "the rows themselves: data draws by difficulty where its focus is exploitation (phi.phi_training_phases, phi.phase1_focus)"
    assert told in apart


def test_without_pairs_nothing_is_said_of_them() -> None:
    assert pairing({"base": [], "arm": outcomes("arm")}, "base") == ([], [])


def test_spikes() -> None:
    falling = [3.0 - 0.02 * step for step in range(40)]
    assert spikes(falling) == 0 and spikes([]) == 0 and spikes([2.0]) == 0
    assert spikes([*falling, 5.0, 5.0, 2.2, 6.0]) == 2, "a jump that lasts counts once"
    assert spikes([*falling, None, 2.2, math.nan]) == 2
    noisy = [2.0 + 0.1 * ((step * 7) % 5 - 2) for step in range(60)]
    assert spikes(noisy) == 0


@pytest.mark.parametrize("text", [None, "", "{", '{"schema_version": 99}', "[]"])
def test_a_folder_that_holds_no_run_is_a_missing_trial(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    found = read_trial(tmp_path, arm="a", seed=1, metric="loss")
    assert found.status == "missing" and not found.over and not found.complete
