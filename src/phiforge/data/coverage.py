"""How far a corpus speaks of the seven content axioms, by source, and which mix of its sources would speak of all of them more evenly.

A word of the axiom lexicon is a hit for its pole. Rates are hits per 1,000 words; a pole's share is its part of all hits. The
lexicon is English and lists some hundreds of words a pole, so that rates tell sources from each other, not how much of a text is
"about" an axiom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiforge.data.words import Hashes, words
from phiforge.models.thyme.lexicon import CONTENT, POLES, lexicon

POLE_NAMES = tuple((axiom, pole) for axiom in CONTENT for pole in POLES[axiom])  # the order of every (14,) here
# In every text whatever it is about, and a tenth of all words of a novel: they would drown the rest of sociality.
_GRAMMAR = frozenset("i me my mine myself we us our ours ourselves".split())
LEAST_SHARE = 0.02  # of all hits; 14 even poles would have 7 % each
FEWEST_WORDS = 1000
_FEWEST_RATE = 20.0  # hits per 1,000 words, below which a text is hardly English
_MOST_REPEATS = 4.0  # times a text may be repeated before it teaches clearly less than new text (Muennighoff et al. 2023)
_STEPS, _STILL = 5000, 1e-9


@cache
def _table() -> tuple[Hashes, NDArray[np.int8]]:
    """Sorted hashes of the lexicon's words, and which of the 14 poles each speaks of: (F,), (F, 14)."""
    found: dict[int, list[bool]] = {}
    for form, scores in lexicon().items():
        content = scores[: len(CONTENT)]
        if form not in _GRAMMAR and any(content):
            found[int(words(form).hashes[0])] = [side for s in content for side in ((s or 0) > 0, (s or 0) < 0)]
    order = sorted(found)
    return np.array(order, np.uint64), np.array([found[key] for key in order], np.int8)


def hits(hashes: Hashes) -> NDArray[np.int64]:
    """(14,): how many of these words (hashes of `data.words`) speak for each pole.

    >>> from phiforge.data.words import words
    >>> dict(zip(POLE_NAMES, hits(words("A stone, two STONES").hashes).tolist()))["animacy", "non-living"]
    2
    """
    keys, poles = _table()
    at = np.searchsorted(keys, hashes)
    at[at == len(keys)] = 0
    counted = np.bincount(at[keys[at] == hashes], minlength=len(keys))
    return counted @ poles.astype(np.int64)


def describe(words_by_source: Mapping[str, int], hits_by_source: Mapping[str, NDArray[np.int64]], least_share: float) -> dict[str, Any]:
    """For the report: coverage of the whole and of each source, what is short, and the suggested mix.

    words_by_source: {source: words}, hits_by_source: {source: (14,)}.
    """
    whole = _rates(sum(words_by_source.values()), sum(hits_by_source.values(), np.zeros(len(POLE_NAMES), np.int64)))
    sources = {name: _rates(count, hits_by_source[name]) for name, count in words_by_source.items() if count >= FEWEST_WORDS}
    weights = balanced_weights(
        {name: found["per_1000_words"] for name, found in sources.items()}, {name: words_by_source[name] for name in sources}
    )
    short = [_short("the corpus", whole, least_share)] + [_short(name, found, least_share) for name, found in sources.items()]
    return {
        "poles": [list(pole) for pole in POLE_NAMES],
        "least_share": least_share,
        "whole": whole,
        "sources": sources,
        "short": [line for line in short if line],
        "suggested_mix": weights,
    }


def _rates(count: int, found: NDArray[np.int64]) -> dict[str, Any]:
    total = int(found.sum())
    return {
        "words": int(count),
        "hits": total,
        "per_1000_words": [round(1000 * int(n) / max(1, count), 3) for n in found],
        "share": [round(int(n) / max(1, total), 4) for n in found],
    }


def _short(name: str, found: dict[str, Any], least: float) -> dict[str, Any] | None:
    """The poles of a text that have less than `least` of its hits; None where it is too little text, or not English."""
    if found["words"] < FEWEST_WORDS:
        return None
    if sum(found["per_1000_words"]) < _FEWEST_RATE:
        return {"source": name, "poles": [], "why": "hardly a word of the English lexicon: its coverage can't be told"}
    poles = [[*pole, share] for pole, share in zip(POLE_NAMES, found["share"], strict=True) if share < least]
    return {"source": name, "poles": poles, "why": f"below {least:.1%} of the hits"} if poles else None


def balanced_weights(
    coverage: Mapping[str, Sequence[float]],
    sizes: Mapping[str, float] | None = None,
    *,
    pull: float = 0.25,
    most_repeats: float = _MOST_REPEATS,
) -> dict[str, float]:
    """Shares of a training mix, by source, that speak of all poles more evenly than the sources as they lie there.

    coverage: {source: rates (P,) of each pole}; sizes: {source: words}, equal where none is given. The result sums to 1.

    It maximises   sum_p log(sum_s w_s r_sp) / P  +  pull * sum_s n_s log w_s   with w_s <= most_repeats * n_s, n_s the share of the words
    that are there. The first term is proportional fairness (Kelly 1997): what one pole gains in per cent must outweigh what the others
    lose, so how common a pole's words are as such does not matter; the second keeps the mix near the sizes. Both are concave, and
    the steps of expectation maximisation for mixture proportions lead to the only maximum. A source with hardly a hit (another
    language) keeps its share, as nothing is known of it.
    """
    names = list(coverage)
    size = np.array([float((sizes or {}).get(name, 1.0)) for name in names])
    if not names or size.sum() <= 0:
        return {}
    there = size / size.sum()
    rates = np.array([coverage[name] for name in names], float)
    known = rates.sum(-1) >= _FEWEST_RATE
    rates = rates[:, rates[known].sum(0) > 0]  # a pole that no source has can't be balanced
    if known.sum() < 2 or not rates.shape[1]:
        return dict(zip(names, there.tolist(), strict=True))
    inside = there[known].sum()
    natural = there[known] / inside
    weights = natural.copy()
    for _ in range(_STEPS):
        mixed = weights @ rates[known]
        gained = weights * (rates[known] / mixed).mean(-1)
        new = _capped((gained + pull * natural) / (1 + pull), most_repeats * natural)
        still = np.abs(new - weights).max() < _STILL
        weights = new
        if still:
            break
    result = there.copy()
    result[known] = weights * inside
    return dict(zip(names, result.tolist(), strict=True))


def _capped(weights: NDArray[np.float64], caps: NDArray[np.float64]) -> NDArray[np.float64]:
    """`weights` as a distribution under `caps` (which sum to 1 or more): what is cut off goes to the others in proportion."""
    weights = weights / weights.sum()
    full = np.zeros(len(weights), bool)
    for _ in range(len(weights)):
        over = (weights > caps) & ~full
        if not over.any():
            break
        full |= over
        weights = np.where(full, caps, weights)
        free = 1 - weights[full].sum()
        weights[~full] *= free / max(weights[~full].sum(), 1e-300)
    return weights
