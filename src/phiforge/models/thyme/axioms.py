"""Teaching unit k of Thyme's first layer to mean axiom k: labels for the tokens of a vocabulary, and the auxiliary loss.

The training plan names twelve axioms and leaves the units that should carry them without labels. Here a lexicon says where a word
stands (`lexicon`), and the loss pulls the unit there. Whether that worked is asked of words it never saw: `axiom_probe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phiforge.core.errors import ConfigError
from phiforge.models.thyme import lexicon
from phiforge.models.thyme.lexicon import AXIOMS as AXIOMS

_WHOLE = 4  # letters: a shorter piece without a blank before it is as likely the middle of a word


class TokenLabels(NamedTuple):
    """Where each token stands on each axiom. A pair (token, axiom) is in `mask`, in `held_out`, or in neither; never in both."""

    values: Tensor  # (V, 12) float32, -1..1; 0 where there is no label
    mask: Tensor  # (V, 12) bool: to train on
    held_out: Tensor  # (V, 12) bool: for the probe alone


class Word(NamedTuple):
    """A form that the vocabulary writes as one token."""

    token: int
    entry: lexicon.Entry


def whole_words(tokenizer: Any) -> list[Word]:
    """The lexicon's forms that `tokenizer` writes as one token: after a blank, plain or capitalised, and capitalised at a line's start.

    tokenizer: one of ours or of transformers. A form counts once for each axiom that knows it and each way to write it.
    """
    ways = {
        way: form
        for form in lexicon.lexicon()
        for way in (f" {form}", f" {form.capitalize()}", form.capitalize())[: 3 if len(form) >= _WHOLE else 2]
    }
    found: dict[str, set[int]] = {}
    for form, ids in zip(ways.values(), _encode(tokenizer, list(ways)), strict=True):
        if len(ids) == 1:
            found.setdefault(form, set()).add(int(ids[0]))
    unknown = _unknown(tokenizer)
    return [Word(token, entry) for entry in lexicon.entries() for token in sorted(found.get(entry.form, set()) - unknown)]


def _encode(tokenizer: Any, texts: list[str]) -> Iterable[Sequence[int]]:
    if hasattr(tokenizer, "convert_tokens_to_ids"):  # transformers, where one call a word takes seconds
        return list(tokenizer(texts, add_special_tokens=False)["input_ids"])
    return map(tokenizer.encode, texts)


def _unknown(tokenizer: Any) -> set[int]:
    """A vocabulary of words has one token for all that it does not know: that is no word."""
    token = getattr(tokenizer, "unk_token_id", None)
    return set() if token is None else {token}


def token_labels(tokenizer: Any, vocab_size: int | None = None) -> TokenLabels:
    """Labels for a vocabulary; `vocab_size` where the model's is larger than the tokenizer's (padded).

    Where two forms share a token (a tokenizer that ignores case) and disagree on the pole, the token gets no label.
    Raises ConfigError: not one word of the lexicon is a token.
    """
    size = len(tokenizer) if vocab_size is None else vocab_size
    scores: dict[tuple[int, int], list[float]] = {}
    held: set[tuple[int, int]] = set()
    for token, entry in whole_words(tokenizer):
        scores.setdefault((token, entry.axiom), []).append(entry.score)
        if lexicon.held_out(entry.lemma):
            held.add((token, entry.axiom))
    if not scores:
        raise ConfigError(
            "axioms: not one word of the English lexicon is a token of this vocabulary",
            fix="set model.axioms.weight=0, or train a tokenizer with a larger vocab_size on English text",
        )
    values = torch.zeros(size, len(AXIOMS))
    mask, held_out = torch.zeros_like(values, dtype=torch.bool), torch.zeros_like(values, dtype=torch.bool)
    for (token, axiom), found in scores.items():
        if min(found) * max(found) > 0:
            values[token, axiom] = sum(found) / len(found)
            (held_out if (token, axiom) in held else mask)[token, axiom] = True
    return TokenLabels(values, mask, held_out)


def auxiliary_loss(activations: Tensor, input_ids: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the labelled (token, axiom) pairs: a scalar, zero (with a gradient of zero) where a batch holds none.

    activations (B, T, 12) in (-1, 1), of the tokens input_ids (B, T) themselves; values, mask (V, 12) as in TokenLabels.
    Each occurrence counts, so that a frequent word weighs as much here as it does in the loss of the language model.
    """
    seen = mask[input_ids]
    error = (activations.float() - values[input_ids]) * seen
    return error.square().sum() / seen.sum().clamp(min=1)
