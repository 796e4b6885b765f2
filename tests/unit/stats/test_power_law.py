"""Laws are found again from their own points; what can't be known is wide, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from phiforge.stats.power_law import PowerLaw, fit_power_law, predict, redrawn, why_not

TRUE = PowerLaw(floor=0.9, scale=0.8, exponent=0.35, unit=1e6)
PLACES = np.array([1e5, 3e5, 1e6, 3e6, 1e7, 3e7])


def noisy(law: PowerLaw, places: np.ndarray, sd: float, seed: int) -> np.ndarray:
    values = np.array([law.at(place) for place in places])
    return values * np.exp(np.random.default_rng(seed).normal(0, sd, len(places)))


def test_an_exact_law_is_found_again() -> None:
    law = fit_power_law(PLACES, noisy(TRUE, PLACES, 0, 0))
    assert law.floor == pytest.approx(0.9, rel=1e-3) and law.exponent == pytest.approx(0.35, rel=1e-3)
    assert law.at(1e9) == pytest.approx(TRUE.at(1e9), rel=1e-3) and law.scatter < 1e-4 and law.n == 6


def test_one_broken_run_does_not_bend_it() -> None:
    values = noisy(TRUE, PLACES, 0, 0)
    values[2] *= 1.3
    assert fit_power_law(PLACES, values).at(1e8) == pytest.approx(TRUE.at(1e8), rel=0.04)


def test_intervals_hold_what_they_promise_and_widen_far_out() -> None:
    held = 0
    for seed in range(40):
        law = fit_power_law(PLACES, noisy(TRUE, PLACES, 0.01, seed))
        others = redrawn(law, PLACES, draws=200, seed=seed)
        near, far = predict(law, others, 1e7), predict(law, others, 1e10)
        assert far.high - far.low > 2 * (near.high - near.low) and near.low <= near.value <= near.high
        held += far.low <= TRUE.at(1e10) <= far.high
    assert held >= 34  # 95 % of 40 is 38; the noise is estimated from 6 runs


def test_even_runs_that_fit_well_leave_doubt() -> None:
    """Four points on a curve don't prove it: another seed would have moved each."""
    places = PLACES[:4]
    law = fit_power_law(places, noisy(TRUE, places, 0, 0))
    far = predict(law, redrawn(law, places, draws=200), 1e10)
    assert far.high - far.low > 0.1


@pytest.mark.parametrize(
    ("places", "said"),
    [([1e5, 1e6, 1e7], "too few runs to say: 3"), ([1e6, 1.1e6, 1.2e6, 1.3e6], "too like"), ([1e5, 1e5, 1e7, 1e7], "too like")],
)
def test_what_says_nothing_is_refused(places: list[float], said: str) -> None:
    assert said in (why_not(places) or "")
    with pytest.raises(ValueError, match=said):
        fit_power_law(places, [1.0] * len(places))


def test_numbers_must_be_numbers() -> None:
    with pytest.raises(ValueError, match="positive"):
        fit_power_law(PLACES, [1, 2, 3, 4, 5, float("nan")])
