"""Every schedule of the table through one suite; a new one is a row here."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from transformers import get_scheduler

from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED
from phiforge.train.schedules import ALIASES, SCHEDULES, WARMUPS, canonical, match_mean_rate, schedule, warmup_length

TOTALS = (1, 2, 10, 63, 500)
# ours -> transformers' name and arguments, where it computes the same
STOCK = {
    "constant": ("constant_with_warmup", {}),
    "linear": ("linear", {}),
    "linear_to_zero": ("linear", {}),
    "cosine": ("cosine", {}),
}


START = {"phi_cosine_literal": INV_PHI}  # the others start from 1
SAWS = ("phi_cyclic",)  # rise again within a run


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_rises_to_its_peak_then_never_rises_and_stays_in_range(name: str, total: int, warmup: int) -> None:
    warmup = min(warmup, total - 1)
    values = [schedule(name, total, warmup=warmup)(step) for step in range(total + 1)]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert values[warmup] == START.get(name, 1.0)
    if SCHEDULES[name].head == "linear":
        assert values[:warmup] == [step / warmup for step in range(warmup)]
    if name not in SAWS:
        assert all(later <= earlier for earlier, later in itertools.pairwise(values[warmup:]))
    assert schedule(name, total, warmup=warmup)(total + 5) == pytest.approx(values[-1]), "past its end a schedule keeps its last value"


@pytest.mark.parametrize("head", WARMUPS)
@pytest.mark.parametrize("warmup", [1, 2, 63])
def test_any_head_rises_from_zero_to_any_schedule(head: str, warmup: int) -> None:
    for name in SCHEDULES:
        rate = schedule(name, 100, warmup=warmup, warmup_type=head)
        values = [rate(step) for step in range(warmup + 1)]
        assert values[0] == 0.0 and values[-1] == START.get(name, 1.0)
        assert all(earlier < later for earlier, later in itertools.pairwise(values[:-1]))
        if warmup > 1 and head == "phi_literal":
            assert values[-2] < INV_PHI_SQUARED, "as written it reaches 0.382, and jumps"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("reference", SCHEDULES)
def test_a_matched_rate_has_the_mean_of_its_reference_and_its_own_shape(name: str, reference: str) -> None:
    own, wanted = (schedule(which, 120, warmup=9) for which in (name, reference))
    matched = match_mean_rate(own, wanted, 120)
    assert math.fsum(matched(step) for step in range(120)) == pytest.approx(math.fsum(wanted(step) for step in range(120)))
    ratio = matched(10) / own(10)
    assert all(matched(step) == pytest.approx(ratio * own(step)) for step in range(121))


def test_a_long_run_is_matched_by_its_evenly_spaced_points() -> None:
    matched = match_mean_rate(schedule("constant", 10**7), schedule("linear", 10**7), 10**7)
    assert matched(5) == pytest.approx(0.5, rel=1e-6)


def test_a_wrong_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_type='golden' is not one of linear, phi, phi_literal"):
        schedule("linear", 10, warmup_type="golden")


@pytest.mark.parametrize("name", [name for name, row in SCHEDULES.items() if row.floor])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_ends_at_its_floor(name: str, floor: float) -> None:
    assert schedule(name, 100, warmup=10, floor=floor)(100) == pytest.approx(floor, abs=1e-12)


def test_linear_to_zero_ends_at_zero() -> None:
    assert schedule("linear_to_zero", 100)(100) == 0.0


def test_the_unit_may_be_tokens() -> None:
    in_steps, in_tokens = schedule("cosine", 100, warmup=10), schedule("cosine", 100 * 2048, warmup=10 * 2048)
    assert [in_tokens(step * 2048) for step in range(101)] == pytest.approx([in_steps(step) for step in range(101)])


@pytest.mark.parametrize("ours, stock", STOCK.items())
@pytest.mark.parametrize("total, warmup", [(10, 0), (63, 5), (500, 50)])
def test_equals_transformers_to_the_last_bit(ours: str, stock: tuple[str, dict[str, float]], total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler(stock[0], optimizer, num_warmup_steps=warmup, num_training_steps=total).lr_lambdas[0]
    mine = schedule(ours, total, warmup=warmup)
    assert [mine(step) for step in range(total + 1)] == [theirs(step) for step in range(total + 1)]


def test_stable_then_decays() -> None:
    values = [schedule("warmup_stable_decay", 100, warmup=10, decay_ratio=0.2)(step) for step in range(101)]
    assert values[10:83] == [1.0] * 73
    assert values[91] == pytest.approx(0.5)


def test_cosine_is_half_way_at_half_time() -> None:
    assert schedule("cosine", 100)(50) == pytest.approx(0.5)
    assert schedule("cosine", 90)(30) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def test_warmup_is_steps_or_a_ratio_and_never_the_whole_run() -> None:
    assert warmup_length(100, warmup_steps=7, warmup_ratio=0.5) == 7
    assert warmup_length(101, warmup_ratio=0.1) == 11
    assert warmup_length(3, warmup_steps=50) == 2
    assert warmup_length(1, warmup_ratio=0.5) == 0


@pytest.mark.parametrize("alias, name", ALIASES.items())
def test_aliases_lead_to_rows(alias: str, name: str) -> None:
    assert canonical(alias) == name
    assert name in SCHEDULES


def test_a_wrong_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'cosin' is not a schedule; did you mean 'cosine'"):
        schedule("cosin", 10)


def test_a_floor_without_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr_min_ratio=0\.1 has no meaning"):
        schedule("constant", 10, floor=0.1)


def test_a_parameter_that_the_schedule_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter 'decay_ratio'"):
        schedule("cosine", 10, decay_ratio=0.1)
