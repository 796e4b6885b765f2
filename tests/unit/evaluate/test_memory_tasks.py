"""The made tasks are what they say, and the bound on them is a bound."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from phiforge.evaluate.memory_tasks import ASK, IGNORED, KINDS, START, Alphabet, make, most_accuracy, row_length

LETTERS = Alphabet(keys=12, values=5)


@pytest.mark.parametrize("pairs", [1, 2, 7, 12])
def test_recall_can_be_answered_from_the_row_alone_and_in_one_way(pairs):
    batch = make("recall", pairs, 9, LETTERS, 3, "train", 0)
    assert batch.tokens.shape == (9, row_length("recall", pairs)) and batch.asked.sum() == 9 * pairs
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        pairs_of = dict(zip(tokens[1 : 1 + 2 * pairs : 2], tokens[2 : 2 + 2 * pairs : 2], strict=True))
        assert len(pairs_of) == pairs, "a key is there twice"
        assert tokens[0] == START and tokens[1 + 2 * pairs] == ASK
        assert sorted(tokens[2 + 2 * pairs :]) == sorted(pairs_of)
        assert targets[2 + 2 * pairs :] == [pairs_of[key] for key in tokens[2 + 2 * pairs :]]
        assert set(targets[: 2 + 2 * pairs]) == {IGNORED}
        assert all(2 <= key < 14 for key in pairs_of) and all(14 <= value < LETTERS.vocab_size for value in pairs_of.values())


@pytest.mark.parametrize("length", [1, 2, 33])
def test_copying_asks_for_the_string_and_shows_no_symbol_before_it_is_asked(length):
    batch = make("copy", length, 6, LETTERS, 0, "test")
    assert batch.tokens.shape == (6, row_length("copy", length))
    strings = batch.tokens[:, 1 : 1 + length]
    np.testing.assert_array_equal(batch.targets[:, 1 + length :], strings)
    np.testing.assert_array_equal(batch.tokens[:, 2 + length :], strings[:, :-1])
    assert (batch.targets[:, : 1 + length] == IGNORED).all() and (batch.tokens[:, 1 + length] == ASK).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_rows_and_another_one_others(kind):
    one, again, test = (make(kind, 8, 50, LETTERS, 1, *stream) for stream in (("train", 4), ("train", 4), ("test",)))
    np.testing.assert_array_equal(one.tokens, again.tokens)
    rows = {tuple(row) for row in one.tokens.tolist()}
    assert not rows & {tuple(row) for row in test.tokens.tolist()}
    assert not rows & {tuple(row) for row in make(kind, 8, 50, LETTERS, 2, "train", 4).tokens.tolist()}


def test_values_are_drawn_evenly():
    values = make("recall", 12, 2000, LETTERS, 0, "test").targets
    counts = np.bincount(values[values != IGNORED] - 14, minlength=5)
    assert np.abs(counts / counts.sum() - LETTERS.chance).max() < 4 * math.sqrt(0.2 * 0.8 / counts.sum())


def test_more_pairs_than_keys_are_refused():
    with pytest.raises(ValueError, match="13 pairs need as many keys"):
        make("recall", 13, 1, LETTERS, 0)


def test_the_bound_holds_for_a_memory_that_keeps_some_answers_whole():
    """Keep m of n answers in log2 V bits each and guess the others: no such scheme may beat the bound, and at the ends it meets it."""
    for values in (2, 5, 64):
        for kept in range(11):
            reached = (kept + (10 - kept) / values) / 10
            bound = most_accuracy(kept * math.log2(values), 10, values)
            assert bound >= reached - 1e-9
            if kept in (0, 10):
                assert bound == pytest.approx(reached, abs=1e-6)


def test_the_bound_falls_with_size_and_rises_with_bits():
    by_size = [most_accuracy(1000, size, 16) for size in (10, 250, 251, 400, 4000, 10**6)]
    assert by_size[:2] == [1.0, 1.0] and all(a > b for a, b in pairwise(by_size[1:]))
    assert by_size[-1] == pytest.approx(1 / 16, abs=0.02)
    assert most_accuracy(2000, 400, 16) > most_accuracy(1000, 400, 16)
