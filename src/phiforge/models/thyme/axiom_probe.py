"""Does unit k mean axiom k? Asked of words whose labels the auxiliary loss never used.

A unit means an axiom as far as it orders words of the first pole above words of the second. That share of well-ordered pairs is the area
under the ROC curve (Mann-Whitney's U over n+ n-): 0.5 says nothing, 1 separates them. All forms of a lemma make one word, so
that "dog" and "dogs" are no two witnesses; standard errors are bootstrapped over lemmas, within each pole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from phiforge.models.thyme import lexicon
from phiforge.models.thyme.axioms import AXIOMS, whole_words
from phiforge.stats.corrections import holm

FEWEST = 5  # lemmas of a pole, below which nothing is said
_DRAWS = 1000
_ALPHA = 0.05


@dataclass(frozen=True)
class AxiomProbe:
    """One axiom, on held-out lemmas. All but the counts is None where a pole has fewer than FEWEST of them."""

    axiom: str
    poles: tuple[str, str]
    words: tuple[int, int]  # held-out lemmas of each pole
    auc: float | None = None
    standard_error: float | None = None
    trained_auc: float | None = None  # on the lemmas that were trained on: what was learned by heart
    best_other: str | None = None  # the other unit that separates the poles best, in either direction
    best_other_auc: float | None = None
    margin: float | None = None  # auc - best_other_auc: above zero, the axiom's own unit is the best at it
    margin_error: float | None = None
    shuffled_auc: float | None = None  # mean over shuffled labels, with its spread: what chance gives unit k ...
    shuffled_deviation: float | None = None
    shuffled_best_other_auc: float | None = None  # ... and what picking the best of the others gives by chance
    p: float | None = None  # share of shuffles that do at least as well, Holm-corrected over the axioms


def probe(model: Any, tokenizer: Any, *, seed: int = 0) -> dict[str, Any]:
    """Ask a model with `axiom_activations(input_ids (B, T)) -> (B, T, 12)`. Each token is shown alone, at a text's beginning.

    Returns {"axioms": [AxiomProbe as a dict, ...], "separated", "dominant", "asked": counts, "sentence": what it came to}.
    """
    words = whole_words(tokenizer)
    tokens = sorted({word.token for word in words})
    activations = dict(zip(tokens, _activations(model, tokens), strict=True))
    grouped: dict[tuple[int, str], list[np.ndarray]] = {}
    scores: dict[tuple[int, str], float] = {}
    for token, entry in words:
        grouped.setdefault((entry.axiom, entry.lemma), []).append(activations[token])
        scores[entry.axiom, entry.lemma] = entry.score
    generator = np.random.default_rng(seed)
    results = []
    for index in range(len(AXIOMS)):
        lemmas = [lemma for axiom, lemma in grouped if axiom == index]
        units = {lemma: np.mean(grouped[index, lemma], axis=0) for lemma in lemmas}
        positive = {lemma: scores[index, lemma] > 0 for lemma in lemmas}
        results.append(_ask(index, units, positive, generator))
    return _report(_corrected(results))


def _activations(model: Any, tokens: list[int]) -> np.ndarray:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.tensor(tokens, dtype=torch.long, device=next(model.parameters()).device)[:, None]
            return model.axiom_activations(ids)[:, 0].float().cpu().numpy() if tokens else np.zeros((0, len(AXIOMS)), np.float32)
    finally:
        model.train(training)


def wins(scores: np.ndarray) -> np.ndarray:
    """(n, U) -> (U, n, n): 1 where the row's score is above the column's, a half where they are equal."""
    row, column = scores.T[:, :, None], scores.T[:, None, :]
    return (row > column) + 0.5 * (row == column)


def auc(won: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """won (U, n, n), weights of each word in both poles (R, n) -> (R, U): the share of pairs that are ordered right."""
    pairs = first.sum(-1) * second.sum(-1)
    return np.einsum("rum,rm->ru", np.einsum("rn,unm->rum", first, won, optimize=True), second, optimize=True) / pairs[:, None]


def _ask(index: int, units: dict[str, np.ndarray], positive: dict[str, bool], generator: np.random.Generator) -> AxiomProbe:
    name = AXIOMS[index]
    asked = sorted(lemma for lemma in units if lexicon.held_out(lemma))
    trained = sorted(lemma for lemma in units if not lexicon.held_out(lemma))
    label = np.array([positive[lemma] for lemma in asked], bool)
    counts = (int(label.sum()), int((~label).sum()))
    if min(counts) < FEWEST:
        return AxiomProbe(name, lexicon.POLES[name], counts)
    won = wins(np.stack([units[lemma] for lemma in asked]))
    own, other = _own_and_other(auc(won, label[None] * 1.0, ~label[None] * 1.0), index)
    others = np.delete(np.arange(len(AXIOMS)), index)
    boot_own, boot_other = _own_and_other(auc(won, *_resampled(label, generator)), index)
    shuffled = generator.permuted(np.tile(label, (_DRAWS, 1)), axis=1)
    by_chance, chance_other = _own_and_other(auc(won, shuffled * 1.0, ~shuffled * 1.0), index)
    return AxiomProbe(
        axiom=name,
        poles=lexicon.POLES[name],
        words=counts,
        auc=float(own[0]),
        standard_error=float(boot_own.std(ddof=1)),
        trained_auc=_known(index, units, positive, trained),
        best_other=AXIOMS[others[int(other[0].argmax())]],
        best_other_auc=float(other[0].max()),
        margin=float(own[0] - other[0].max()),
        margin_error=float((boot_own - boot_other.max(-1)).std(ddof=1)),
        shuffled_auc=float(by_chance.mean()),
        shuffled_deviation=float(by_chance.std(ddof=1)),
        shuffled_best_other_auc=float(chance_other.max(-1).mean()),
        p=float((1 + (by_chance >= own[0]).sum()) / (1 + _DRAWS)),
    )


def _own_and_other(values: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(R, U) -> unit k's own (R,), and the others' (R, U-1) taken in whichever direction they separate: they were never told one."""
    others = np.delete(values, index, axis=-1)
    return values[:, index], np.maximum(others, 1 - others)


def _resampled(label: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often each word is drawn: (R, n) for both poles, drawn with replacement within each."""
    weights = []
    for side in (label, ~label):
        drawn = np.zeros((_DRAWS, len(label)))
        drawn[:, side] = generator.multinomial(side.sum(), np.full(side.sum(), 1 / side.sum()), _DRAWS)
        weights.append(drawn)
    return weights[0], weights[1]


def _known(index: int, units: dict[str, np.ndarray], positive: dict[str, bool], lemmas: list[str]) -> float | None:
    label = np.array([positive[lemma] for lemma in lemmas], bool)
    if not label.any() or label.all():
        return None
    won = wins(np.stack([units[lemma] for lemma in lemmas])[:, index : index + 1])
    return float(auc(won, label[None] * 1.0, ~label[None] * 1.0)[0, 0])


def _corrected(results: list[AxiomProbe]) -> list[AxiomProbe]:
    """With Holm's p over the axioms that could be asked."""
    asked = {result.axiom: result.p for result in results if result.p is not None}
    adjusted = dict(zip(asked, holm(list(asked.values())), strict=True))
    return [replace(result, p=adjusted.get(result.axiom)) for result in results]


def _report(results: list[AxiomProbe]) -> dict[str, Any]:
    asked = [result for result in results if result.auc is not None]
    separated = [result for result in asked if result.p is not None and result.p < _ALPHA]
    dominant = [result for result in separated if (result.margin or 0) > 2 * (result.margin_error or 0)]
    return {
        "axioms": [{**asdict(result), "poles": list(result.poles), "words": list(result.words)} for result in results],
        "asked": len(asked),
        "separated": len(separated),
        "dominant": len(dominant),
        "sentence": _sentence(len(asked), len(separated), len(dominant)),
    }


def _sentence(asked: int, separated: int, dominant: int) -> str:
    if not asked:
        return "Too few held-out words are tokens of this vocabulary: nothing can be said about the axiom units."
    return (
        f"On held-out words, {separated} of the {asked} axiom units that could be asked order the poles of their own axiom better than"
        f" shuffled labels do (Holm-corrected p < {_ALPHA:g}); {dominant} of them do it better than every other unit, by more than two"
        " standard errors."
    )


COLUMNS = ("axiom", "+ / - pole", "held-out words", "AUC", "trained words", "best other unit", "own - best other", "by chance", "p")


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Lines for a table under COLUMNS, of what `probe` gave."""
    return [_row(axiom) for axiom in report["axioms"]]


def _row(a: dict[str, Any]) -> list[str]:
    named = [a["axiom"], " / ".join(a["poles"]), "{} + {}".format(*a["words"])]
    if a["auc"] is None:
        return [*named, "too few words", *[""] * (len(COLUMNS) - 4)]
    return [
        *named,
        f"{a['auc']:.2f} ± {a['standard_error']:.2f}",
        "" if a["trained_auc"] is None else f"{a['trained_auc']:.2f}",
        f"{a['best_other']} {a['best_other_auc']:.2f}",
        f"{a['margin']:+.2f} ± {a['margin_error']:.2f}",
        f"{a['shuffled_auc']:.2f} ± {a['shuffled_deviation']:.2f}; best other {a['shuffled_best_other_auc']:.2f}",
        f"{a['p']:.3f}",
    ]
