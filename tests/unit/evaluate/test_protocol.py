"""Perplexity over windows, against the obvious loop: one window, one document, one token at a time."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError
from phiforge.evaluate import protocol
from phiforge.evaluate.config import EvaluateConfig, ProtocolConfig
from phiforge.evaluate.ngram import reference_bits
from phiforge.evaluate.protocol import Stream, measure, metrics_of, model_nats, scores_of, trigram_of, windows_of

BOS, EOS, VOCABULARY = 1, 2, 23
SPECIALS = np.array([0, BOS, EOS])


def packed(seed: int, lengths: list[int]) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    documents = [rng.integers(3, VOCABULARY, length) for length in lengths]
    whole = [np.concatenate([[BOS], ids, [EOS]]) for ids in documents]
    starts = np.cumsum([0, *(len(ids) for ids in whole[:-1])])
    return SimpleNamespace(tokens=np.concatenate(whole).astype(np.uint16), starts=starts, n_bytes=3 * sum(lengths), documents=documents)


def llama(**changes: object) -> LlamaForCausalLM:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(shape | {"max_position_embeddings": 64, "initializer_range": 0.4} | changes)))
    return model.eval()


def by_loop(model, text, length: int, stride: int, borders: str) -> tuple[list[list[float]], list[int]]:
    """Nats of each window's predictions of text tokens, by a forward pass for each piece of a document in it; and the windows' starts."""
    tokens = [int(t) for t in text.tokens]
    if borders == "join":
        tokens = [t for t in tokens if t not in SPECIALS]
    found, starts, at = [], [], 0
    while at + length + 1 <= len(tokens):
        window, nats = tokens[at : at + length + 1], []
        for place in range(1, length + 1):
            if window[place] in SPECIALS:
                continue
            first = max((i for i in range(place) if window[i] == BOS), default=0)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([window[first:place]])).logits[0, -1]
            nats.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(window[place]))))
        found.append(nats)
        starts.append(at)
        at += stride
    return found, starts


@pytest.mark.parametrize("borders", ["keep", "join"])
@pytest.mark.parametrize("stride", [8, 16])
def test_it_is_what_the_loop_says(borders: str, stride: int) -> None:
    model, text = llama(), packed(0, [40, 3, 1, 29, 50])
    windows, _ = by_loop(model, text, 16, stride, borders)
    stream = Stream.of(text, SPECIALS, borders)
    cut = windows_of(stream, 16, stride)
    nats = model_nats(model, cut)
    assert len(nats) == len(windows) and cut.restarts == (borders == "keep")
    for row, scored, expected in zip(nats, cut.scored, windows, strict=True):
        np.testing.assert_allclose(row[scored], expected, rtol=1e-4, atol=1e-5)
    scores = scores_of(nats, cut.scored, 3, stream.bytes_per_token)
    batches = [np.concatenate(windows[i : i + 3]).mean() for i in range(0, len(windows), 3)]
    every = np.concatenate(windows)
    assert scores.perplexity == pytest.approx(math.exp(np.mean(batches)), rel=1e-5)
    assert scores.per_token == pytest.approx(math.exp(every.mean()), rel=1e-5)
    assert scores.bits_per_byte.value == pytest.approx(every.mean() / math.log(2) / 3, rel=1e-5)  # each token spells 3 bytes
    assert (scores.windows, scores.scored) == (len(windows), len(every))


def test_overlapping_windows_read_twice_what_disjoint_ones_read_once() -> None:
    stream = Stream.of(packed(1, [500]), SPECIALS, "join")
    twice, once = windows_of(stream, 64, 32), windows_of(stream, 64, 64)
    np.testing.assert_array_equal(twice.tokens[::2], once.tokens)
    assert len(once.tokens) == 7 and len(twice.tokens) == 14 and once.scored.all()
    np.testing.assert_array_equal(np.concatenate([once.tokens[0, :1], once.tokens[:, 1:].ravel()]), stream.tokens[: 64 * 7 + 1])


@pytest.mark.parametrize("most", [1, 100, 300, 10_000])
def test_a_part_is_whole_batches_from_all_of_the_text(most: int) -> None:
    stream = Stream.of(packed(9, [2000]), SPECIALS, "join")
    whole, part = windows_of(stream, 16, 8), windows_of(stream, 16, 8, batch=4, max_tokens=most)
    rows = {row.tobytes(): index for index, row in enumerate(whole.tokens)}
    at = [rows[row.tobytes()] for row in part.tokens]
    assert len(at) * 16 <= max(most, 4 * 16) and at == sorted(set(at)) and (len(at) % 4 == 0 or len(at) == len(whole.tokens))
    assert all(at[i] + 1 == at[i + 1] for i in range(len(at) - 1) if i % 4 != 3)
    if most == 300:
        assert at[0] == 0 and at[-1] > 0.7 * len(whole.tokens)


@pytest.mark.parametrize(("tokens", "logits"), [(16, 1 << 20), (4096, 1), (4096, 40 * VOCABULARY)])
def test_how_many_windows_go_together_does_not_show(monkeypatch: pytest.MonkeyPatch, tokens: int, logits: int) -> None:
    cut = windows_of(Stream.of(packed(2, [60, 30]), SPECIALS, "keep"), 16, 8)
    model = llama()
    whole = model_nats(model, cut)
    monkeypatch.setattr(protocol, "_TOKENS", tokens)
    monkeypatch.setattr(protocol, "_LOGITS", logits)
    np.testing.assert_allclose(model_nats(model, cut), whole, rtol=1e-5, atol=1e-6)
    model.config.logit_scale = 2.0  # the head can't be taken off any more: the same from whole logits
    np.testing.assert_allclose(model_nats(model, cut), whole, rtol=1e-5, atol=1e-6)


def test_learned_positions_begin_anew_with_each_document() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32, initializer_range=0.5))
    text = packed(3, [20, 30])
    windows, _ = by_loop(model.eval(), text, 16, 16, "keep")
    cut = windows_of(Stream.of(text, SPECIALS, "keep"), 16, 16)
    np.testing.assert_allclose(model_nats(model, cut)[cut.scored], np.concatenate(windows), rtol=1e-4, atol=1e-5)


def test_the_mode_of_the_model_is_put_back() -> None:
    model = llama().train()
    model_nats(model, windows_of(Stream.of(packed(2, [40]), SPECIALS, "keep"), 8, 8))
    assert model.training


@pytest.mark.parametrize("borders", ["keep", "join"])
def test_the_trigram_sees_the_window_and_no_more(borders) -> None:
    train, text = packed(4, [300, 200, 1]), packed(5, [70, 40])
    stream = Stream.of(text, SPECIALS, borders)
    cut = windows_of(stream, 16, 8)
    counted = trigram_of(train.documents, VOCABULARY, (BOS, EOS), borders)
    documents = [[BOS, *ids.tolist(), EOS] if borders == "keep" else ids.tolist() for ids in train.documents]
    slow = reference_bits(documents, cut.tokens.tolist(), 3, VOCABULARY).reshape(cut.tokens.shape)[:, 1:]
    np.testing.assert_allclose(protocol.ngram_nats(counted, cut), slow * math.log(2), rtol=1e-12)


def test_all_that_a_config_asks_for() -> None:
    config = ProtocolConfig(length=16, batch=4, borders=["join", "keep"])
    train, text = packed(6, [400]), packed(7, [90, 50])
    found = measure(config, llama(), text, SPECIALS, lambda borders: trigram_of(train.documents, VOCABULARY, (BOS, EOS), borders))
    assert [(row["who"], row["borders"], row["stride"]) for row in found["rows"]] == [
        (who, borders, stride) for borders in ("join", "keep") for stride in (8, 16) for who in ("model", "trigram")
    ]
    assert found["tokens"] == 140 and found["bytes_per_token"] == 3
    metrics = metrics_of(found)
    assert metrics["protocol_perplexity"] == found["rows"][0]["perplexity"]
    assert metrics["protocol_trigram_disjoint_keep_bits_per_byte"] == found["rows"][7]["bits_per_byte"]["value"]
    assert len(metrics) == 16


def test_what_can_not_be_measured() -> None:
    text = packed(8, [20])
    with pytest.raises(ConfigError, match="length=100 is more than the model's 64"):
        model_nats(llama(), windows_of(Stream.of(packed(8, [200]), SPECIALS, "keep"), 100, 100))
    with pytest.raises(DataError, match="don't fill one window"):
        windows_of(Stream.of(text, SPECIALS, "keep"), 32, 32)
    with pytest.raises(DataError, match="no text"):
        Stream.of(SimpleNamespace(tokens=np.array([BOS, EOS]), starts=np.array([0]), n_bytes=0), SPECIALS, "keep")
    for wrong in ({"stride": 200}, {"borders": ["keep", "keep"]}, {"borders": []}, {"length": 0}):
        with pytest.raises(ConfigError):
            build(EvaluateConfig, {"protocol": wrong}, where="test")
    assert ProtocolConfig(length=128).strides == [64, 128] and ProtocolConfig(length=4, stride=4).strides == [4]
