"""The plan of a run, against one made step by step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiforge.core.errors import ConfigError
from phiforge.golden.config import PhaseConfig, PhiConfig
from phiforge.golden.schedules import schedule
from phiforge.golden.timetable import Timetable, timetable_of_rows, timetable_of_steps

G = (1 + 5**0.5) / 2
GROWING = PhiConfig(phi_batch_progression=True)
ALL = PhiConfig(
    phi_batch_progression=True, phi_training_phases=True, phi_dropout_schedule=True, phi_weight_decay_schedule=True, base_dropout=0.1
)


def make(phi: PhiConfig, kind: str, length: int, base: int, **bases: Any) -> Timetable:
    if kind == "rows":
        return timetable_of_rows(phi, rows=length, base_batch=base, **bases)
    return timetable_of_steps(phi, steps=length, base_batch=base, **bases)


@st.composite
def configs(draw: st.DrawFn) -> PhiConfig:
    block = st.builds(PhaseConfig, batch_size=st.none() | st.integers(1, 64))
    return PhiConfig(
        phi_batch_progression=draw(st.booleans()),
        phi_training_phases=draw(st.booleans()),
        max_batch_size=draw(st.integers(64, 128)),
        batch_phi_phases=draw(st.integers(1, 6)),
        phase1=draw(block),
        phase2=draw(block),
    )


@settings(max_examples=150, deadline=None)
@given(configs(), st.sampled_from(["rows", "steps"]), st.integers(1, 700), st.integers(1, 40))
def test_every_query_equals_walking_through_the_run(phi: PhiConfig, kind: str, length: int, base: int) -> None:
    plan = make(phi, kind, length, base)
    assert (plan.rows if kind == "rows" else plan.steps) == length
    row, phases = 0, []
    for step in range(plan.steps):
        assert plan.rows_before(step) == row
        assert plan.progress(step) == row / plan.rows
        segment = plan.segment(step)
        assert segment == plan.segment_of_row(row)
        full = plan.batch(step) == segment.batch
        assert full or (kind == "rows" and step == plan.steps - 1 and 0 < plan.batch(step) < segment.batch)
        phases.append(plan.phase(step))
        row += plan.batch(step)
    assert row == plan.rows == plan.rows_before(plan.steps) == plan.rows_before(plan.steps + 5)
    assert phases == sorted(phases)
    assert sum(segment.steps for segment in plan.segments) == plan.steps and sum(segment.rows for segment in plan.segments) == plan.rows
    assert all(a.first_step + a.steps == b.first_step and a.first_row + a.rows == b.first_row for a, b in itertools.pairwise(plan.segments))
    two = phi.phi_training_phases or (phi.phi_batch_progression and phi.batch_phi_phases > 1) or phi.phase1 != phi.phase2
    if two and plan.steps > 1:
        assert set(phases) == {1, 2}, "neither phase is empty"
    assert sum(rows for _, rows, _ in plan.phases()) == plan.rows


@pytest.mark.parametrize("kind", ["rows", "steps"])
@pytest.mark.parametrize("phi", [PhiConfig(), GROWING, ALL], ids=["off", "growing", "all"])
def test_one_step(kind: str, phi: PhiConfig) -> None:
    plan = make(phi, kind, 1, 8)
    assert plan.steps == 1 and plan.phase(0) == 1 and plan.progress(0) == 0.0
    assert plan.batch(0) == (1 if kind == "rows" else 8)


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_the_documents_batches_are_applied_over_the_tokens(epochs: int) -> None:
    rows = 5000 * epochs
    plan = timetable_of_rows(ALL, rows=rows, base_batch=8)
    assert [segment.batch for segment in plan.segments] == [8, 12, 20]
    assert [segment.phase for segment in plan.segments] == [1, 2, 2]
    for segment, share in zip(plan.segments, (0.382, 0.309, 0.309), strict=True):
        assert abs(segment.rows / rows - share) < 20 / rows + 1e-3
    assert plan.focus(0) == "exploration" and plan.focus(plan.steps - 1) == "exploitation"


@pytest.mark.parametrize("kind", ["rows", "steps"])
def test_ten_million_steps_are_found_at_once(kind: str) -> None:
    plan = make(ALL, kind, 10**7 if kind == "steps" else 10**8, 8, rate_of=lambda total: schedule("phi_decay", total))
    for step in (0, 1, plan.steps // 3, plan.steps - 2, plan.steps - 1):
        assert plan.rows_before(step + 1) - plan.rows_before(step) == plan.batch(step)
        p = plan.rows_before(step) / plan.rows
        assert plan.rate_at(step) == pytest.approx(G**-p, rel=1e-12)
        assert plan.dropout_at(step) == pytest.approx(0.1 * G**-p)
    assert plan.phase_border / plan.rows == pytest.approx(0.381966, abs=1e-5)
    assert len(plan.segments) == 3


def test_one_batch_phase_and_the_cap_are_valid() -> None:
    def sizes(phi: PhiConfig) -> list[int]:
        plan = timetable_of_steps(phi, steps=400, base_batch=8)
        return sorted({plan.batch(step) for step in range(400)})

    assert sizes(PhiConfig(phi_batch_progression=True, batch_phi_phases=1)) == [8]
    assert sizes(PhiConfig(phi_batch_progression=True, batch_phi_phases=6, max_batch_size=25)) == [8, 12, 20, 25]


@pytest.mark.parametrize("name", ["linear", "cosine", "warmup_stable_decay", "phi_wsd"])
@pytest.mark.parametrize("phi", [PhiConfig(), PhiConfig(phi_training_phases=True, phi_weight_decay_schedule=True)], ids=["off", "phases"])
def test_a_constant_batch_has_the_rate_of_a_step_schedule_to_the_last_bit(name: str, phi: PhiConfig) -> None:
    stock = schedule(name, 213, warmup=11)
    for plan in (
        timetable_of_steps(phi, steps=213, base_batch=7, rate_of=lambda total: schedule(name, total, warmup=11)),
        timetable_of_rows(phi, rows=213 * 7, base_batch=7, rate_of=lambda total: schedule(name, total, warmup=11)),
    ):
        assert [plan.rate_at(step) for step in range(213)] == [stock(step) for step in range(213)]
        assert {plan.batch(step) for step in range(213)} == {7}


def test_a_phase_has_its_own_settings() -> None:
    phi = PhiConfig(
        phi_dropout_schedule=True,
        phase1=PhaseConfig(dropout=0.3, batch_size=4),
        phase2=PhaseConfig(learning_rate=5e-4, weight_decay=0.5, lr_scheduler_type="linear", batch_size=16),
    )
    plan = timetable_of_rows(
        phi, rows=10_000, base_batch=8, learning_rate=1e-3, dropout=0.1, weight_decay=0.01, phase_rates={2: schedule_shape("linear")}
    )
    border = plan.segments[1].first_step
    assert plan.segments[1].first_row == pytest.approx(3820, abs=2)
    assert {plan.batch(step) for step in range(border)} == {4}
    assert {plan.batch(step) for step in range(border, plan.steps - 1)} == {16}
    assert (plan.dropout_at(0), plan.dropout_at(border)) == (0.3, pytest.approx(0.1 * G ** -plan.progress(border)))
    assert (plan.weight_decay_at(0), plan.weight_decay_at(border)) == (0.01, 0.5)
    assert plan.learning_rate_at(border - 1) == 1e-3
    for step in range(border, plan.steps):
        own = (plan.rows_before(step) - plan.phase_border) / (plan.rows - plan.phase_border)
        assert plan.learning_rate_at(step) == pytest.approx(5e-4 * (1 - own))


def schedule_shape(name: str) -> Any:
    from phiforge.golden.schedules import SCHEDULES

    return SCHEDULES[name].shape


def test_a_phases_own_rate_waits_for_the_warm_up() -> None:
    phi = PhiConfig(phase1=PhaseConfig(lr_scheduler_type="cosine"))
    plan = timetable_of_steps(
        phi,
        steps=100,
        base_batch=1,
        rate_of=lambda total: schedule("constant", total, warmup=10),
        warmup_of=lambda total: 10,
        phase_rates={1: schedule_shape("cosine")},
    )
    assert [plan.rate_at(step) for step in range(11)] == pytest.approx([step / 10 for step in range(11)])
    assert plan.rate_at(24) == pytest.approx((1 + math.cos(math.pi * 14 / 28)) / 2)
    assert plan.rate_at(38) == plan.rate_at(99) == 1.0


def test_which_settings_move() -> None:
    still = timetable_of_steps(PhiConfig(), steps=10, base_batch=8, dropout=0.2, weight_decay=0.1)
    assert not still.schedules_dropout and not still.schedules_weight_decay
    assert {(still.dropout_at(s), still.weight_decay_at(s), still.phase(s), still.focus(s)) for s in range(10)} == {
        (0.2, 0.1, 1, "exploration")
    }
    moving = timetable_of_steps(ALL, steps=10, base_batch=8, dropout=0.2, weight_decay=0.1)
    assert moving.schedules_dropout and moving.schedules_weight_decay
    assert moving.dropout_at(0) == 0.1, "base_dropout comes before the model's own"


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"phase2\.batch_size=200 is above max_batch_size=128"):
        timetable_of_steps(PhiConfig(phase2=PhaseConfig(batch_size=200)), steps=10, base_batch=8)
    with pytest.raises(ConfigError, match=r"swings up to 1.5 x 0.7"):
        timetable_of_steps(PhiConfig(phi_dropout_schedule="cyclic", base_dropout=0.7), steps=10, base_batch=8)
    with pytest.raises(ConfigError, match="a run over 0 rows"):
        timetable_of_rows(PhiConfig(), rows=0, base_batch=8)
    with pytest.raises(ConfigError, match="a batch of 0 rows"):
        timetable_of_rows(PhiConfig(), rows=9, base_batch=0)
    with pytest.raises(ConfigError, match="a run of 0 steps"):
        timetable_of_steps(PhiConfig(), steps=0, base_batch=8)
    with pytest.raises(ValueError, match="'cosin' is not a schedule"):
        PhaseConfig(lr_scheduler_type="cosin")
