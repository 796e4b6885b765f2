"""Every golden schedule against its closed form, written out again here, at 1,000 points; and over runs of every length."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, getcontext

import numpy as np
import pytest

from phiforge.core.errors import ConfigError
from phiforge.golden.learning_rate import cycle_borders, phi_learning_rate
from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED, PHI
from phiforge.golden.regularize import dropout_value, weight_decay_value
from phiforge.golden.schedules import SCHEDULES, WARMUPS, schedule

G = (1 + 5**0.5) / 2
POINTS = np.linspace(0.0, 1.0, 1000)
LENGTHS = (1, 2, 1000, 10**7)


def _cycles(p: float, k: int, inside: Callable[[int, float], float]) -> float:
    """Cycles of length L, L g, L g^2, ... that fill [0, 1]; the end belongs to the last one."""
    unit = 1 / sum(G**i for i in range(k))
    start = 0.0
    for i in range(k):
        length = unit * G**i
        if p < start + length - 1e-15 or i == k - 1:
            return inside(i, min(1.0, (p - start) / length))
        start += length
    raise AssertionError


# name, parameters -> the closed form of progress
FORMS: list[tuple[str, dict[str, float], Callable[[float], float]]] = [
    ("phi_decay", {}, lambda p: G ** (-p)),
    ("phi_decay", {"power": 2.5}, lambda p: G ** (-(p**2.5))),
    ("phi_decay", {"power": 0.5}, lambda p: G ** (-math.sqrt(p))),
    ("phi_cosine", {}, lambda p: (1 + math.cos(math.pi * p)) / 2 * G ** (-p)),
    ("phi_cosine", {"cycles": 1}, lambda p: (1 + math.cos(math.pi * p)) / 2 * G ** (-p)),
    ("phi_cosine", {"cycles": 2}, lambda p: _cycles(p, 2, lambda i, q: (1 + math.cos(math.pi * q)) / 2 * G ** (-i))),
    ("phi_cosine", {"cycles": 5}, lambda p: _cycles(p, 5, lambda i, q: (1 + math.cos(math.pi * q)) / 2 * G ** (-i))),
    ("phi_cosine_literal", {}, lambda p: (1 + math.cos(math.pi * p)) / 2 / G),
    ("phi_cyclic", {}, lambda p: _cycles(p, 4, lambda i, q: G ** (-q))),
    ("phi_cyclic", {"cycles": 1}, lambda p: G ** (-p)),
    ("phi_cyclic", {"cycles": 7}, lambda p: _cycles(p, 7, lambda i, q: G ** (-q))),
    ("phi_wsd", {}, lambda p: 1.0 if p <= 1 / G else (1 - p) / (1 - 1 / G)),
    ("phi_warmup", {}, lambda p: 1.0),
]


def test_the_ratio_is_phi_to_the_last_bit() -> None:
    getcontext().prec = 50
    exact = (1 + Decimal(5).sqrt()) / 2
    assert float(exact) == PHI and abs(PHI**2 - PHI - 1) < 1e-15
    assert abs(Decimal(INV_PHI) - 1 / exact) < Decimal("2e-16") and abs(Decimal(INV_PHI_SQUARED) - 1 / exact**2) < Decimal("2e-16")
    assert pytest.approx(1, abs=1e-15) == INV_PHI + INV_PHI_SQUARED


@pytest.mark.parametrize(("name", "parameters", "form"), FORMS, ids=[f"{name}{list(p.values())}" for name, p, _ in FORMS])
def test_equals_its_closed_form_at_a_thousand_points(name: str, parameters: dict[str, float], form: Callable[[float], float]) -> None:
    rate = schedule(name, 1000.0, **parameters)  # type: ignore[arg-type]
    assert [rate(float(p) * 1000.0) for p in POINTS] == pytest.approx([form(float(p)) for p in POINTS], abs=1e-12)


@pytest.mark.parametrize(("name", "parameters", "form"), FORMS, ids=[f"{name}{list(p.values())}" for name, p, _ in FORMS])
@pytest.mark.parametrize("total", LENGTHS)
def test_runs_of_every_length(name: str, parameters: dict[str, float], form: Callable[[float], float], total: int) -> None:
    rate = schedule(name, total, **parameters)  # type: ignore[arg-type]
    steps = sorted({int(p * (total - 1)) for p in POINTS})
    values = [rate(step) for step in steps]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)
    assert values == pytest.approx([form(step / total) for step in steps], abs=1e-9)


def test_every_golden_row_has_a_closed_form_here() -> None:
    assert {name for name in SCHEDULES if name.startswith("phi_")} == {name for name, _, _ in FORMS}


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_golden_cosine_has_a_floor(floor: float) -> None:
    rate = schedule("phi_cosine", 1.0, floor=floor)
    assert [rate(float(p)) for p in POINTS] == pytest.approx(
        [floor + (1 - floor) * (1 + math.cos(math.pi * p)) / 2 * G**-p for p in POINTS], abs=1e-12
    )


@pytest.mark.parametrize("total", LENGTHS)
def test_warm_ups_equal_their_closed_forms(total: int) -> None:
    places = [float(p) * total for p in POINTS[:-1]]
    literal = [1 - G ** (-s / total) for s in places]
    assert [WARMUPS["phi_literal"](s, total) for s in places] == pytest.approx(literal, abs=1e-12)
    assert [WARMUPS["phi"](s, total) for s in places] == pytest.approx([v / (1 - 1 / G) for v in literal], abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 13, 64])
def test_cycles_grow_by_phi_and_fill_the_run_exactly(k: int) -> None:
    borders = cycle_borders(k)
    assert len(borders) == k + 1 and borders[0] == 0.0 and borders[-1] == 1.0
    lengths = np.diff(borders)
    assert all(lengths > 0)
    if k > 1:
        assert lengths[1:] / lengths[:-1] == pytest.approx([G] * (k - 1), rel=1e-3 if k > 30 else 1e-9)
    peaks = [schedule("phi_cosine", 1.0, cycles=k)(border) for border in borders[:-1]]
    assert peaks == pytest.approx([G**-i for i in range(k)])


@pytest.mark.parametrize("total", [1, 2, 10, 37])
def test_the_documents_function_in_its_three_modes(total: int) -> None:
    base = 2e-4
    for e in POINTS * total:
        epoch = float(e)
        assert phi_learning_rate(base, epoch, total) == pytest.approx(base * G ** (-epoch / total))
        assert phi_learning_rate(base, epoch, total, "cosine_phi") == pytest.approx(
            base * (1 + math.cos(math.pi * epoch / total)) / 2 * 0.618033988749, abs=1e-15
        )
        wanted = base * (1 - G ** (-epoch / 0.5)) if epoch <= 0.5 else base
        assert phi_learning_rate(base, epoch, total, mode="warmup", warmup_epochs=0.5) == pytest.approx(wanted)


def test_the_documents_function_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="mode='cosine' of phi_learning_rate is not one of decay, warmup, cosine_phi"):
        phi_learning_rate(1e-3, 1, 10, "cosine")
    for epoch, total in ((-1, 10), (11, 10), (0, 0), (float("nan"), 10)):
        with pytest.raises(ConfigError, match="is outside 0 to total_epochs"):
            phi_learning_rate(1e-3, epoch, total)


def test_regularisation_equals_its_closed_forms() -> None:
    for point in POINTS:
        p = float(point)
        c = p * G - math.floor(p * G)  # periods of total / phi
        swing = 1 + 0.5 * math.sin(2 * math.pi * c)
        assert dropout_value(0.1, p, True) == pytest.approx(0.1 * G**-p)
        assert weight_decay_value(0.01, p, True) == pytest.approx(0.01 * G**p)
        assert dropout_value(0.1, p, "cyclic") == pytest.approx(0.1 * swing)
        assert weight_decay_value(0.01, p, "cyclic") == pytest.approx(0.01 * swing)
        assert (dropout_value(0.1, p, False), weight_decay_value(0.01, p, False)) == (0.1, 0.01)
