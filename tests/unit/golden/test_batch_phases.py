"""Batch sizes and phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.core.errors import ConfigError
from phiforge.golden.batch import batch_shares, batch_sizes, phi_batch_size
from phiforge.golden.phases import phase_border, phi_training_phases


def test_the_documents_batches() -> None:
    assert batch_sizes(8, 3, 128) == [8, 12, 20]
    assert batch_sizes(8, 1, 128) == [8]
    assert batch_sizes(8, 8, 128) == [8, 12, 20, 33, 54, 88, 128, 128]
    assert phi_batch_size(200, 0, 128) == 128 and phi_batch_size(1, 0) == 1
    assert phi_batch_size(8, 10**6, 128) == 128, "no overflow"


@pytest.mark.parametrize(("base", "phase", "cap"), [(0, 0, None), (8, -1, None), (8, 0, 0)])
def test_a_batch_of_no_rows_is_refused(base: int, phase: int, cap: int | None) -> None:
    with pytest.raises(ConfigError, match="rows in phase"):
        phi_batch_size(base, phase, cap)


@given(st.integers(1, 32))
def test_shares_are_whole(phases: int) -> None:
    shares = batch_shares(phases)
    assert len(shares) == phases and sum(shares) == pytest.approx(1)
    assert phases == 1 or shares[0] == pytest.approx(0.381966011)


@given(st.integers(3, 10_000))
def test_whole_epochs_are_the_documents(total: int) -> None:
    first, second = phi_training_phases(total)
    assert (first, second) == (int(total * 0.381966011251), total - int(total * 0.381966011251))
    assert first >= 1 and second >= 1


@pytest.mark.parametrize("total", [1, 2, 0.5, 2.9, 10.5])
def test_epochs_that_do_not_divide_are_parted_exactly(total: float) -> None:
    first, second = phi_training_phases(total)
    assert first == pytest.approx(total * 0.381966011) and first + second == pytest.approx(total)
    assert first > 0 and second > 0


@pytest.mark.parametrize("total", [0, -1, float("nan")])
def test_no_epochs_are_refused(total: float) -> None:
    with pytest.raises(ConfigError, match="is not above 0"):
        phi_training_phases(total)


@given(st.integers(2, 10**9))
def test_neither_phase_is_empty(whole: int) -> None:
    border = phase_border(whole)
    assert 1 <= border <= whole - 1
    assert abs(border - whole * (3 - 5**0.5) / 2) <= 0.51 or whole <= 2
