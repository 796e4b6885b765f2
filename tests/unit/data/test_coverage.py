"""Axiom words counted by source, what is short, and the mix that balances them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from phiforge.data import coverage
from phiforge.data.coverage import POLE_NAMES, balanced_weights, describe, hits
from phiforge.data.words import words
from phiforge.models.thyme.lexicon import CONTENT, lexicon

TEXT = (
    "The old stone bridge; a happy mother, two armies, and infinite galaxies. I thought of justice, we thought of Iron.\nBread\tand atoms!"
)


def slow(text: str) -> list[int]:
    """Word by word, as a reader would count."""
    found: Counter[tuple[int, bool]] = Counter()
    for word in re.findall("[a-z]+", text.lower()):
        for axiom, score in enumerate(lexicon().get(word, ())[: len(CONTENT)]):
            if score is not None and word not in {"i", "we"}:
                found[axiom, score > 0] += 1
    return [found[axiom, first] for axiom in range(len(CONTENT)) for first in (True, False)]


def value(weights: dict[str, float], rates: dict[str, list[float]], natural: dict[str, float], pull: float) -> float:
    """What balanced_weights maximises."""
    mixed = sum(weights[name] * np.array(rates[name]) for name in rates)
    return float(np.log(mixed).mean() + pull * sum(natural[name] * np.log(weights[name]) for name in rates))


def test_hits_are_those_of_reading_word_by_word() -> None:
    assert hits(words(TEXT).hashes).tolist() == slow(TEXT)
    assert sum(slow(TEXT)) > 12


def test_no_two_lexicon_words_share_a_hash_and_pronouns_are_no_content() -> None:
    forms = [form for form, scores in lexicon().items() if any(scores[: len(CONTENT)])]
    assert len({int(words(form).hashes[0]) for form in forms}) == len(forms)
    assert not hits(words("I we me us our myself").hashes).any()
    assert not hits(words("").hashes).any() and not hits(words("and the of").hashes).any()


def test_what_is_short_is_named_and_other_languages_are_not_judged() -> None:
    even = np.full(14, 100)
    poor = even.copy()
    poor[POLE_NAMES.index(("openness", "unbounded"))] = 1
    found = describe(
        {"even": 10_000, "poor": 10_000, "tiny": 10, "German": 10_000},
        {"even": even, "poor": poor, "tiny": poor // 50, "German": np.ones(14, int)},
        0.02,
    )
    short = {line["source"]: line for line in found["short"]}
    assert set(short) == {"poor", "German"}
    assert [pole[:2] for pole in short["poor"]["poles"]] == [["openness", "unbounded"]]
    assert short["German"]["poles"] == [] and "can't be told" in short["German"]["why"]
    assert "tiny" not in found["sources"] and found["whole"]["words"] == 30_010
    assert found["sources"]["even"]["per_1000_words"] == [10.0] * 14
    lenient = describe({"poor": 10_000}, {"poor": poor}, 0.0)
    assert lenient["short"] == []


def test_the_mix_leans_to_the_source_that_has_what_the_other_lacks() -> None:
    rates = {"physics": [20.0, 1.0], "novels": [10.0, 10.0]}
    weights = balanced_weights(rates, {"physics": 900, "novels": 100})
    assert sum(weights.values()) == pytest.approx(1) and 0.1 < weights["novels"] <= 0.4
    assert balanced_weights(rates, {"physics": 900, "novels": 100}, most_repeats=2)["novels"] == pytest.approx(0.2)
    assert balanced_weights(rates, {"physics": 900, "novels": 100}, pull=1e6)["novels"] == pytest.approx(0.1, abs=1e-4)


def test_it_is_the_maximum_and_the_commonness_of_a_pole_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    rates = {name: (generator.gamma(2, 5, 6) + 0.5).tolist() for name in "abcd"}
    sizes = dict(zip("abcd", (5.0, 1.0, 2.0, 2.0), strict=True))
    natural = {name: size / 10 for name, size in sizes.items()}
    weights = balanced_weights(rates, sizes, pull=0.1, most_repeats=100)
    best = value(weights, rates, natural, 0.1)
    for _ in range(300):
        other = dict(zip("abcd", generator.dirichlet(100 * np.array(list(weights.values()))), strict=True))
        assert value(other, rates, natural, 0.1) <= best + 1e-9
    scales = generator.gamma(2, 3, 6)
    scaled = balanced_weights({name: (np.array(rate) * scales).tolist() for name, rate in rates.items()}, sizes, pull=0.1, most_repeats=100)
    assert list(scaled.values()) == pytest.approx(list(weights.values()), abs=1e-5)


def test_nothing_to_balance_changes_nothing() -> None:
    assert balanced_weights({}) == {}
    assert balanced_weights({"a": [3.0, 4.0]}) == {"a": 1.0}
    assert balanced_weights({"a": [0.0, 0.0], "b": [0.0, 0.0]}, {"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}
    foreign = balanced_weights({"a": [20.0, 1.0], "b": [1.0, 20.0], "German": [0.0, 0.0]}, {"a": 50, "b": 10, "German": 40})
    assert foreign["German"] == pytest.approx(0.4) and foreign["b"] > 0.1
    assert sum(foreign.values()) == pytest.approx(1)


def test_the_grammar_words_are_in_the_lexicon() -> None:
    assert set(lexicon()) >= coverage._GRAMMAR
