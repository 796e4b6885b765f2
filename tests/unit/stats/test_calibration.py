"""The calibration script on a corner of its grid; all of it among the slow tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from phiforge.stats.corrections import holm

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = sys.modules.get("calibration")
    return loaded or importlib.import_module("calibration")


@pytest.mark.parametrize("until_clear", [False, True])
@pytest.mark.parametrize("noise", ["normal", "heavy-tailed (t, 2 degrees)", "tied (half zeros, else +-1, +-2)", "shared seed effects"])
def test_nothing_is_called_too_often_where_nothing_differs(calibration: ModuleType, noise: str, until_clear: bool) -> None:
    found = calibration.calibrate(noise, until_clear, (7, 10), (1, 2), 1_000, asked=4)
    low, high = found["interval"]
    assert low <= 0.05 and high <= 0.075
    assert found["decide_disagreed"] == 0 and found["families_asked_of_decide"] >= 4


def test_the_script_would_notice_a_test_that_is_too_eager(calibration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Holm's correction three arms are called too often: the bounds see it, and `decide` disagrees."""
    monkeypatch.setattr(calibration, "called", lambda p, pairs, until_clear: p <= 0.05)
    found = calibration.calibrate("normal", False, (10,), (3,), 1_000, asked=10)
    assert found["interval"][0] > 0.05 and not found["ok"] and found["decide_disagreed"] > 0


def test_planted_effects_and_three_seeds(calibration: ModuleType) -> None:
    for until_clear in (False, True):
        assert calibration.planted(9, 3, until_clear, 1.0, 2_000)["ok"]
        assert calibration.beside_an_effect(until_clear, 300)["ok"]
    assert calibration.three_seeds(30)["said_anything"] == 0


def test_the_vectorised_holm_is_holm(calibration: ModuleType) -> None:
    p = np.random.default_rng(0).uniform(0, 0.06, (300, 4))
    assert calibration.called(p, 12, False).tolist() == [[value <= 0.05 for value in holm(row)] for row in p.tolist()]


def test_the_pool_of_real_pairs(calibration: ModuleType) -> None:
    """The committed pool: 32 pairs of trainings that differ, in the seed of dropout alone; relabelled, 5 % holds."""
    pool = calibration.read_pool(BENCHMARKS / "results" / "calibration_pool.csv", "eval_bits_per_byte")
    assert len(pool) >= 32 and (pool != 0).all()
    rows = calibration.pool_rates(BENCHMARKS / "results" / "calibration_pool.csv", "eval_bits_per_byte", 500)
    assert all(row["relabelled"]["interval"][0] <= 0.05 for row in rows if "relabelled" in row)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_it(calibration: ModuleType) -> None:
    failed = [found for found in calibration.simulate(2_000, quick=False) if not found["ok"]]
    assert not failed, failed
