"""Difficulty of rows: closed forms, the model left as it was, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from phiforge.core.errors import ConfigError, DataError
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.train.difficulty import difficulties

VOCABULARY, LENGTH = 32, 16


class Text:
    """Rows of tokens, given; `cut` positions at the front of each row have no label."""

    def __init__(self, tokens: np.ndarray, cut: int = 0) -> None:
        self.tokens, self.cut = tokens, cut

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Any) -> dict[str, np.ndarray]:
        chosen = self.tokens[np.asarray(indices)]
        labels = chosen[:, 1:].copy()
        labels[:, : self.cut] = -100
        return {"input_ids": chosen[:, :-1], "shift_labels": labels, "position_ids": np.tile(np.arange(LENGTH), (len(chosen), 1))}


def random_rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (n, LENGTH + 1))


def pico(dropout: float = 0.0) -> Any:
    spec = {"family": "llama", "width": 16, "depth": 1, "heads": 2, "vocab_size": VOCABULARY, "context_length": LENGTH}
    model = build(resolve(DecoderSpec.model_validate(spec)), seed=0)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    return model.train()


def test_unigram_is_the_mean_surprise_under_the_corpus_own_counts() -> None:
    tokens = np.zeros((3, LENGTH + 1), np.int64)
    tokens[1] = 1
    tokens[2, : LENGTH // 2 + 1] = 1  # half ones, half zeros
    counts = np.array([1.5, 1.5]) * LENGTH
    expected = -np.log(counts / counts.sum())
    found = difficulties("unigram", Text(tokens), 3)
    assert found.dtype == np.float64
    assert np.allclose(found, [expected[0], expected[1], expected.mean()], rtol=0, atol=1e-12)


def test_unigram_over_many_rows_equals_one_count_of_all_and_leaves_out_what_is_not_learnt() -> None:
    tokens = random_rows(600)
    labels = tokens[:, 4:]
    p = np.bincount(labels.ravel(), minlength=VOCABULARY) / labels.size
    expected = -np.log(p[labels]).mean(axis=1)
    for vocabulary in (None, VOCABULARY, VOCABULARY + 8):
        assert np.allclose(difficulties("unigram", Text(tokens, cut=3), 600, vocabulary=vocabulary), expected, rtol=0, atol=1e-12)


def test_rows_without_a_label_are_the_easiest() -> None:
    rows = Text(random_rows(4), cut=LENGTH)
    assert difficulties("unigram", rows, 4).tolist() == [0.0] * 4
    assert difficulties("loss", rows, 4, model=pico()).tolist() == [0.0] * 4


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_loss_is_the_models_own(batch: int) -> None:
    rows, model = Text(random_rows(7), cut=2), pico()
    found = difficulties("loss", rows, 7, model=model, batch=batch)
    model.eval()
    for index in range(7):
        one = {name: torch.from_numpy(value) for name, value in rows.batch([index]).items()}
        with torch.no_grad():
            assert found[index] == pytest.approx(float(model(**one, labels=one["shift_labels"], use_cache=False).loss), abs=1e-5)


def test_loss_of_a_packed_row_does_not_see_across_its_documents() -> None:
    model, tokens = pico(), random_rows(2)
    tokens[1, 9:] = tokens[0, 9:]  # the second document is the same, what is before it differs

    class Packed(Text):
        def batch(self, indices: Any) -> dict[str, np.ndarray]:
            found = super().batch(indices)
            found["position_ids"][:, 9:] -= 9
            found["shift_labels"][:, :9] = -100
            return found

    a, b = difficulties("loss", Packed(tokens), 2, model=model)
    assert a == pytest.approx(b, abs=1e-6)
    assert abs(np.subtract(*difficulties("loss", Text(tokens, cut=9), 2, model=model))) > 1e-5  # seen across, they would differ


def test_the_model_is_left_as_it_was() -> None:
    model = pico(dropout=0.5)
    model.model.layers[0].mlp.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = difficulties("loss", Text(random_rows(6)), 6, model=model)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert np.array_equal(first, difficulties("loss", Text(random_rows(6)), 6, model=model))  # no dropout in it


def test_labels_of_transformers_are_moved_by_one() -> None:
    class Labelled(Text):
        def batch(self, indices: Any) -> dict[str, np.ndarray]:
            chosen = self.tokens[np.asarray(indices)]
            return {"input_ids": chosen, "labels": chosen.copy()}

    class Shifted(Text):
        def batch(self, indices: Any) -> dict[str, np.ndarray]:
            chosen = self.tokens[np.asarray(indices)]
            return {"input_ids": chosen, "shift_labels": np.pad(chosen[:, 1:], ((0, 0), (0, 1)), constant_values=-100)}

    tokens, model = random_rows(5)[:, :LENGTH], pico()
    for kind in ("unigram", "loss"):
        assert np.array_equal(difficulties(kind, Labelled(tokens), 5, model=model), difficulties(kind, Shifted(tokens), 5, model=model))


def test_a_column_is_taken_as_it_is() -> None:
    rows = Text(random_rows(4))
    assert difficulties("column:hardness", rows, 4, column=[3, 1, 3, 0]).tolist() == [3.0, 1.0, 3.0, 0.0]


@pytest.mark.parametrize(
    "kind, column, kind_of, said",
    [
        ("loss", None, ConfigError, "needs a model"),
        ("column:x", None, ConfigError, "no column 'x'"),
        ("column:x", [1, 2], DataError, "2 values for 4 rows"),
        ("column:x", ["a", "b", "c", "d"], DataError, "not a number"),
        ("column:x", [1, float("nan"), 2, float("nan")], DataError, "row 1 of 4 has nan (2 such rows)"),
        ("column:x", [1, float("inf"), 2, 3], DataError, "row 1 of 4 has inf"),
        ("column:", [1, 2, 3, 4], ConfigError, "must be unigram"),
        ("guess", None, ConfigError, "must be unigram"),
    ],
)
def test_what_is_refused_in_one_line(kind: str, column: Any, kind_of: type[Exception], said: str) -> None:
    with pytest.raises(kind_of) as caught:
        difficulties(kind, Text(random_rows(4)), 4, column=column)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_has_diverged_is_refused() -> None:
    model = pico()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match="row 0 of 3 has nan"):
        difficulties("loss", Text(random_rows(3)), 3, model=model)
