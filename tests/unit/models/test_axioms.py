"""The lexicon, the labels made of it, the auxiliary loss, and the probe that asks whether it worked."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from phiforge.core.errors import ConfigError
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.models.thyme import axiom_probe, lexicon
from phiforge.models.thyme.axioms import AXIOMS, auxiliary_loss, token_labels, whole_words


def lemmas(axiom: str, sign: int) -> set[str]:
    """The lemmas of one pole."""
    return {e.lemma for e in lexicon.entries() if e.axiom == AXIOMS.index(axiom) and e.score * sign > 0}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary that knows most lexicon words, as they stand in a text."""
    words = [w for form in lexicon.lexicon() for w in (form, form.capitalize())]
    return train_tokenizer([" ".join(words) for _ in range(2)], 12_000)


class Units(torch.nn.Module):
    """A table of activations: what a first layer gives when nothing but the token decides."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def axiom_activations(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.table[input_ids])


# ---- the lexicon


@pytest.mark.parametrize("axiom", AXIOMS)
def test_both_poles_have_words_enough_and_share_none(axiom: str) -> None:
    least = 150 if axiom in lexicon.CONTENT else 60
    first, second = lemmas(axiom, 1), lemmas(axiom, -1)
    assert min(len(first), len(second)) >= least
    assert 0.5 < len(first) / len(second) < 2
    forms = [{e.form for e in lexicon.entries() if e.axiom == AXIOMS.index(axiom) and e.score * sign > 0} for sign in (1, -1)]
    assert not forms[0] & forms[1]
    for pole in (first, second):
        share = sum(map(lexicon.held_out, pole)) / len(pole)
        assert 0.14 < share < 0.26, "neither the probe nor the training may starve"


def test_every_entry_is_a_plain_word_once_with_a_score_in_range() -> None:
    seen = set()
    for entry in lexicon.entries():
        assert re.fullmatch("[a-z]+", entry.form) and entry.score in (-1.0, -0.5, 0.5, 1.0)
        assert (entry.form, entry.axiom) not in seen, entry
        seen.add((entry.form, entry.axiom))


def test_no_word_is_written_twice_in_a_pole() -> None:
    """A form twice with two strengths would keep the first and hide the mistake."""
    folder = Path(lexicon.__path__[0])
    for axiom in AXIOMS:
        sides = yaml.safe_load((folder / f"{axiom}.yaml").read_text(encoding="utf-8"))
        for side in sides.values():
            written = [(kind, word.split("/")[0].rstrip("~")) for kind, text in side.items() if kind != "pole" for word in text.split()]
            assert len(written) == len(set(written)), axiom


STAND = """
stone entity + | justice entity - | theories entity - | sheep animacy + | iron animacy - | children animacy + | kinder valence +
wept valence - | solitude sociality + | armies sociality - | running modality + | thinking modality - | worry modality - | atoms scale +
galaxy scale - | polygon openness + | stopped openness + | infinite openness - | singular cardinality + | hundreds cardinality -
hotter gradability + | prime gradability - | here deixis + | yonder deixis - | galloped dynamism + | motionless dynamism -
yesterday temporality + | tomorrow temporality -
"""


def test_words_stand_where_a_reader_puts_them() -> None:
    for word, axiom, sign in (line.split() for line in STAND.strip().replace("\n", "|").split("|")):
        assert lexicon.lexicon()[word][AXIOMS.index(axiom)] == {"+": 1, "-": -1}[sign], word


def test_a_word_says_nothing_about_most_axioms() -> None:
    assert all(None in scores for scores in lexicon.lexicon().values()) and lexicon.lexicon()["metaphysics"].count(None) == 11
    assert "the" not in lexicon.lexicon()


def test_a_family_is_held_out_whole() -> None:
    for family in (["happy", "happily", "happiness"], ["stone", "stony"], ["infinite", "infinity", "infinitely"]):
        assert len({lexicon.held_out(word) for word in family}) == 1


def test_the_lexicon_loads_without_torch() -> None:
    code = "import sys; from phiforge.models.thyme.lexicon import lexicon; assert len(lexicon()) > 4000; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- labels


def test_labels_sit_on_whole_words_alone(tokenizer: Tokenizer) -> None:
    labels = token_labels(tokenizer)
    assert labels.values.shape == labels.mask.shape == labels.held_out.shape == (len(tokenizer), 12)
    assert not (labels.mask & labels.held_out).any()
    assert (labels.values != 0).equal(labels.mask | labels.held_out) and labels.values.abs().max() == 1
    known = lexicon.lexicon()
    for token in (labels.mask | labels.held_out).any(-1).nonzero()[:, 0].tolist():
        text = tokenizer.pieces[token].decode()
        word = text.strip().lower()
        assert text in (f" {word}", f" {word.capitalize()}", word.capitalize())
        for axiom in range(12):
            expected = known[word][axiom]
            assert labels.values[token, axiom] == (expected or 0)


def test_case_and_inflections_share_a_label_and_a_side(tokenizer: Tokenizer) -> None:
    labels = token_labels(tokenizer)
    one = [int(tokenizer.encode(text)[0]) for text in (" mountain", " Mountain", " mountains") if len(tokenizer.encode(text)) == 1]
    assert len(one) >= 2
    assert len({tuple(labels.values[token].tolist()) for token in one}) == 1
    assert len({tuple(labels.mask[token].tolist()) for token in one}) == 1


def test_tokenizers_of_transformers_and_padded_vocabularies(tokenizer: Tokenizer, tmp_path: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours, other = token_labels(tokenizer), token_labels(theirs, vocab_size=len(tokenizer) + 64)
    assert other.values.shape[0] == len(tokenizer) + 64 and not other.mask[len(tokenizer) :].any()
    assert other.values[: len(tokenizer)].equal(ours.values)


def test_a_tokenizer_that_drops_blanks_is_labelled_too() -> None:
    lossy = train_tokenizer([" ".join(lexicon.lexicon())] * 2, 9_000, pre_tokenizer="whitespace")
    assert len({word.entry.form for word in whole_words(lossy)}) > 1000


def test_a_vocabulary_without_english_words_is_refused() -> None:
    letters = train_tokenizer(["ab ab ab"], 262)
    with pytest.raises(ConfigError, match="not one word"):
        token_labels(letters)


# ---- the loss


def test_the_loss_is_the_mean_squared_error_of_labelled_pairs() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.5, 0.0]])
    mask = torch.tensor([[False, False], [True, True], [True, False]])
    activations = torch.tensor([[[0.3, 0.2], [0.5, -0.5], [0.0, 0.9]]], requires_grad=True)
    loss = auxiliary_loss(activations, torch.tensor([[0, 1, 2]]), values, mask)
    assert loss.item() == pytest.approx((0.25 + 0.25 + 0.25) / 3)
    loss.backward()
    assert activations.grad is not None
    assert activations.grad[0, 0].tolist() == [0, 0] and activations.grad[0, 2, 1] == 0 and activations.grad[0, 1, 0] < 0


def test_a_batch_without_labels_costs_nothing() -> None:
    activations = torch.randn(2, 3, 12, requires_grad=True)
    loss = auxiliary_loss(activations, torch.zeros(2, 3, dtype=torch.long), torch.zeros(5, 12), torch.zeros(5, 12, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and activations.grad is not None and not activations.grad.any()


# ---- the probe


def test_auc_counts_pairs() -> None:
    generator = np.random.default_rng(3)
    scores, label = generator.integers(0, 6, (17, 2)) / 2, np.arange(17) % 3 == 0
    got = axiom_probe.auc(axiom_probe.wins(scores), label[None] * 1.0, ~label[None] * 1.0)[0]
    for unit in range(2):
        pairs = [(a > b) + (a == b) / 2 for a in scores[label, unit] for b in scores[~label, unit]]
        assert got[unit] == pytest.approx(np.mean(pairs))


def test_units_that_mean_their_axioms_are_recognised(tokenizer: Tokenizer) -> None:
    labels = token_labels(tokenizer)
    torch.manual_seed(0)
    report = axiom_probe.probe(Units(labels.values + 0.3 * torch.randn(labels.values.shape)), tokenizer)
    assert report["asked"] == report["separated"] == 12 and report["dominant"] >= 11
    for axiom in report["axioms"]:
        assert axiom["auc"] > 0.95 and axiom["p"] < 0.05 and abs(axiom["shuffled_auc"] - 0.5) < 0.03
        assert axiom["shuffled_best_other_auc"] > 0.55, "the best of eleven is lucky even when labels are shuffled"
    assert "12 of the 12" in report["sentence"]
    assert len(axiom_probe.rows(report)) == 12 and {len(row) for row in axiom_probe.rows(report)} == {len(axiom_probe.COLUMNS)}


def test_words_learned_by_heart_are_not_taken_for_meaning(tokenizer: Tokenizer) -> None:
    """A table that knows the trained words perfectly and the others not at all."""
    labels = token_labels(tokenizer)
    torch.manual_seed(1)
    report = axiom_probe.probe(Units(labels.values * labels.mask + 0.1 * torch.randn(labels.values.shape)), tokenizer)
    assert report["separated"] <= 1 and report["dominant"] == 0
    assert all(axiom["trained_auc"] > 0.95 and 0.2 < axiom["auc"] < 0.8 for axiom in report["axioms"])


def test_a_unit_in_the_wrong_place_is_noticed(tokenizer: Tokenizer) -> None:
    labels = token_labels(tokenizer)
    torch.manual_seed(2)
    moved = labels.values.roll(1, dims=1) + 0.1 * torch.randn(labels.values.shape)
    report = axiom_probe.probe(Units(moved), tokenizer)
    first = report["axioms"][0]
    assert report["dominant"] == 0 and first["best_other"] == AXIOMS[1] and first["margin"] < 0


def test_too_few_words_are_said_to_be_too_few() -> None:
    few = train_tokenizer([" stone stone justice justice sheep sheep iron iron mountain mountain happy happy"] * 3, 300)
    report = axiom_probe.probe(Units(torch.zeros(len(few), 12)), few)
    assert report["asked"] == 0 and "nothing can be said" in report["sentence"] and axiom_probe.rows(report)[0][3] == "too few words"


def test_the_formula_is_an_approximation() -> None:
    """pi^2 = (7 phi^2 + sqrt 2) / 2 as the training plan writes it: off by 6.3e-5 of its value."""
    phi = (1 + math.sqrt(5)) / 2
    ratio = (7 * phi**2 + math.sqrt(2)) / 2 / math.pi**2
    assert ratio != 1 and abs(ratio - 1) == pytest.approx(6.3e-5, rel=0.01)
