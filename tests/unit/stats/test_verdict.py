"""The four words: when each is said, and what stands beside it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from phiforge.core.errors import DataError, PhiforgeError
from phiforge.stats.corrections import holm, least_pairs
from phiforge.stats.paired import sign_flip
from phiforge.stats.verdict import judge

DOWN = [-1.0, -2.0, -1.5, -0.5, -1.2, -0.9]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.01, 0.02], family=4) == pytest.approx([0.04, 0.06])
    with pytest.raises(ValueError, match="family=1"):
        holm([0.1, 0.2], family=1)


def test_least_pairs_is_the_arithmetic() -> None:
    assert [least_pairs(m) for m in (1, 2, 3, 4, 6, 7, 12, 13)] == [6, 7, 7, 8, 8, 9, 9, 10]
    assert least_pairs(1, 0.0625) == 5  # 2 / 32 is not above it
    with pytest.raises(ValueError, match="at least one"):
        least_pairs(0)


@pytest.mark.parametrize(("lower", "word"), [(True, "better"), (False, "worse")])
def test_six_unanimous_pairs_decide_for_one_arm(lower: bool, word: str) -> None:
    for until_clear in (False, True):
        found = judge({"a": DOWN}, lower_is_better=lower, until_clear=until_clear)["a"]
        assert found.verdict == word
        assert found.p_holm <= 0.05
        opposite = judge({"a": [-value for value in DOWN]}, lower_is_better=lower, until_clear=until_clear)["a"]
        assert {found.verdict, opposite.verdict} == {"better", "worse"}


@pytest.mark.parametrize("until_clear", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5])
def test_below_six_pairs_nothing_is_said(n: int, until_clear: bool) -> None:
    for values in ([-100.0] * n, list(-np.geomspace(1, 1e9, n)) if n else [], [0.0] * n):
        found = judge({"a": values}, until_clear=until_clear)["a"]
        assert found.verdict == "too few seeds to say"
        assert found.least_pairs == 6
        assert f"{n} pair" in found.sentence


@pytest.mark.parametrize("until_clear", [False, True])
def test_an_arm_more_asks_for_more_pairs(until_clear: bool) -> None:
    arms = {"a": DOWN, "b": DOWN}
    assert {found.verdict for found in judge(arms, until_clear=until_clear).values()} == {"too few seeds to say"}
    seven = {arm: [*values, -1.0] for arm, values in arms.items()}
    assert {found.verdict for found in judge(seven, until_clear=until_clear).values()} == {"better"}
    assert judge({"a": DOWN}, family_size=2)["a"].verdict == "too few seeds to say"


def test_a_small_arm_does_not_profit_from_its_neighbour() -> None:
    """Holm's later steps would let six pairs pass; the arithmetic of the family does not."""
    found = judge({"long": [-1.0 - i / 7 for i in range(12)], "short": DOWN})
    assert found["long"].verdict == "better"
    assert found["short"].verdict == "too few seeds to say"


def test_no_detectable_difference_and_what_it_could_have_found() -> None:
    values = np.random.default_rng(4).normal(0, 0.1, 10)
    found = judge({"a": values})["a"]
    assert found.verdict == "no detectable difference"
    assert found.p == found.p_holm == sign_flip(values)
    assert found.minimum_detectable == pytest.approx(np.std(values, ddof=1) * 1.0, rel=0.03)  # dz of 1.0 at 10 pairs
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]
    assert found.seeds_needed is None or found.seeds_needed > 10


@pytest.mark.parametrize("until_clear", [False, True])
def test_equal_runs_are_no_difference(until_clear: bool) -> None:
    """An arm that changed nothing: all zeros. And one in which few seeds differ at all."""
    found = judge({"a": [0.0] * 10, "b": [0.0] * 7 + [-1.0] * 3}, until_clear=until_clear)
    assert found["a"].verdict == found["b"].verdict == "no detectable difference"
    assert found["a"].p == 1.0 and found["a"].seeds_needed is None and found["a"].minimum_detectable is None


def test_everything_is_json_whatever_the_data() -> None:
    arms = {"a": DOWN, "none": [], "one": [1.0], "zero": [0.0] * 8, "equal": [0.1] * 9, "huge": [1e300, -1e299] * 5, "two": [1.0, 2.0]}
    for until_clear in (False, True):
        for found in judge(arms, until_clear=until_clear).values():
            text = json.dumps(asdict(found), allow_nan=False)
            assert json.loads(text)["verdict"] == found.verdict
            assert "\n" not in found.sentence and found.sentence.endswith(".")
            assert (found.e_value is not None) == until_clear
            assert found.verdict in found.sentence.lower() or "too few seeds" in found.sentence.lower()


def test_only_the_deciding_test_decides() -> None:
    """An outlier that the t test trips over: unanimous signs decide, t_p stays above 5 %."""
    found = judge({"a": [-0.1, -0.1, -0.12, -0.09, -0.11, -5.0]})["a"]
    assert found.t_p is not None and found.t_p > 0.05
    assert found.verdict == "better"


def test_a_mean_that_turned_round_is_not_clear() -> None:
    """The betting test remembers seven pairs downward; the mean now says upward: neither word is said."""
    found = judge({"a": [-0.1] * 7 + [9.0, 8.0, 7.0]}, until_clear=True)["a"]
    assert found.p_holm <= 0.05 and found.mean is not None and found.mean > 0
    assert found.verdict == "no detectable difference"


def test_bad_input_is_one_line() -> None:
    with pytest.raises(DataError, match=r"arm 'rate'.*pair 2 of 2 is nan"):
        judge({"rate": [1.0, float("nan")]})
    with pytest.raises(PhiforgeError, match="alpha=5"):
        judge({"a": DOWN}, alpha=5)
    with pytest.raises(DataError, match="family_size=1"):
        judge({"a": DOWN, "b": DOWN}, family_size=1)
    assert judge({}) == {} == judge({}, family_size=0)
