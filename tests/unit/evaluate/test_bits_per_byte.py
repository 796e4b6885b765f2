import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from phiforge.evaluate import bits_per_byte as module
from phiforge.evaluate.bits_per_byte import bits_of_bytes, bits_per_byte, score_text, token_losses
from phiforge.evaluate.windows import cut, evenly

VOCABULARY = 37
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module", params=["starcoder2", "llama"])
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "llama":
            made = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.3))
        else:
            made = Starcoder2ForCausalLM(Starcoder2Config(**SHAPE, sliding_window=None, initializer_range=0.3, residual_dropout=0.5))
    return made


def packed(lengths: list[int], bytes_each: int = 3) -> SimpleNamespace:
    rng = np.random.default_rng(len(lengths))
    documents = [np.concatenate(([1], rng.integers(5, VOCABULARY, length), [2])) for length in lengths]
    starts = np.cumsum([0] + [len(document) for document in documents])[:-1]
    return SimpleNamespace(tokens=np.concatenate(documents).astype(np.uint16), starts=starts, n_bytes=bytes_each * sum(lengths))


def slow_losses(model, text, context_length, stride) -> list[float]:
    """One token at a time: the window that scores a token, read alone, through the model's own logits."""
    model.eval()
    out = []
    for start, end in zip(text.starts, [*text.starts[1:], len(text.tokens)], strict=True):
        ids = torch.from_numpy(text.tokens[start : end - 1].astype(np.int64))  # bos and the text, without eos
        for i in range(1, len(ids)):
            step = 0 if i <= context_length else -(-(i - context_length) // stride)
            high = min(len(ids) - 1, context_length + step * stride)
            low = max(0, high - context_length)
            with torch.no_grad():
                logits = model(input_ids=ids[None, low:i]).logits[0, -1]
            out.append(-torch.log_softmax(logits, -1)[ids[i]].item())
    return out


@pytest.mark.parametrize(("context_length", "stride"), [(8, None), (8, 8), (7, 3), (5, 1), (64, None)])
def test_equals_the_slow_way(model, context_length, stride):
    text = packed([1, 30, 0, 8, 9, 17])
    fast = token_losses(model, text, context_length=context_length, stride=stride)
    slow = slow_losses(model, text, context_length, stride or max(1, context_length // 2))
    np.testing.assert_allclose(fast.loss, slow, atol=2e-5)
    text_tokens = [token for token in text.tokens if token > 2]
    assert fast.token.tolist() == text_tokens and fast.complete
    assert fast.document.tolist() == np.repeat([0, 1, 3, 4, 5], [1, 30, 8, 9, 17]).tolist()


def test_scores_are_the_sums_they_say(model):
    text = packed([40] * 12)
    losses = token_losses(model, text, context_length=16)
    scores = score_text(model, text, context_length=16)
    assert scores.bits_per_byte.value == pytest.approx(losses.loss.sum() / math.log(2) / text.n_bytes, rel=1e-6)
    assert scores.perplexity.value == pytest.approx(math.exp(losses.loss.mean()), rel=1e-5)
    assert scores.accuracy.value == pytest.approx(losses.correct.mean())
    assert (scores.n_tokens, scores.n_bytes, scores.bits_per_byte.cluster) == (480, 1440, "document")
    assert scores.bits_per_byte.standard_error > 0 and scores.accuracy.n == 480
    assert bits_per_byte(model, text, context_length=16) == scores.bits_per_byte


def test_bits_of_tokens_are_shared_among_their_bytes(model):
    losses = token_losses(model, packed([40] * 3), context_length=16)
    sizes = np.arange(VOCABULARY) % 4
    bits = bits_of_bytes(losses, sizes)
    assert len(bits) == sizes[losses.token].sum()
    spelled = sizes[losses.token] > 0
    assert bits.sum() == pytest.approx(losses.loss[spelled].sum() / math.log(2), rel=1e-5)
    assert (bits[: sizes[losses.token[0]]] == losses.loss[0] / max(1, sizes[losses.token[0]]) / math.log(2)).all()


def test_chunks_and_batches_do_not_show(model, monkeypatch):
    text = packed([90, 3, 50])
    whole = token_losses(model, text, context_length=16)
    monkeypatch.setattr(module, "_LOGIT_BYTES", 4 * VOCABULARY * 3)
    for batch_size in (1, 5):
        other = token_losses(model, text, context_length=16, batch_size=batch_size)
        np.testing.assert_allclose(other.loss, whole.loss, atol=2e-5)
        assert (other.correct == whole.correct).mean() > 0.99


def test_leaves_training_as_it_was(model):
    text = packed([30, 30])
    model.train()
    model.base_model.layers[1].eval()  # frozen on purpose
    modes = [part.training for part in model.modules()]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = token_losses(model, text, context_length=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    again = token_losses(model, text, context_length=8)
    np.testing.assert_array_equal(first.loss, again.loss)
    model.eval()
    np.testing.assert_array_equal(token_losses(model, text, context_length=8).loss, first.loss)


def test_modes_come_back_after_an_error(model):
    model.train()
    with pytest.raises(IndexError):
        token_losses(model, SimpleNamespace(tokens=np.array([1, 99, 2]), starts=np.array([0]), n_bytes=1), context_length=8)
    assert model.training


def test_a_head_that_knows_nothing_is_never_right():
    with torch.random.fork_rng():
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    torch.nn.init.zeros_(model.lm_head.weight)
    scores = score_text(model, packed([50] * 10), context_length=16)
    assert scores.accuracy.value == 0
    assert scores.perplexity.value == pytest.approx(VOCABULARY, rel=1e-5)
    assert scores.bits_per_byte.value == pytest.approx(math.log2(VOCABULARY) / 3, rel=1e-5)


def test_a_model_that_changes_its_logits_is_asked_for_them(model):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.config = SimpleNamespace(logit_scale=0.5)
            self.base_model = model.base_model

        def get_output_embeddings(self):
            return self.inner.get_output_embeddings()

        def forward(self, input_ids):
            return SimpleNamespace(logits=self.inner(input_ids=input_ids).logits * 0.5)

    text = packed([20])
    scaled = token_losses(Scaled(), text, context_length=32).loss
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.from_numpy(text.tokens[None, :-2].astype(np.int64))).logits[0] * 0.5
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(text.tokens[1:-1].astype(np.int64)), reduction="none")
    np.testing.assert_allclose(scaled, expected.numpy(), atol=2e-5)


def test_half_precision_is_near(model):
    text = packed([60, 60])
    exact = bits_per_byte(model, text, context_length=32).value
    assert bits_per_byte(model, text, context_length=32, precision="bf16").value == pytest.approx(exact, rel=0.02)


def test_a_part_is_spread_evenly_and_needs_the_bytes(model):
    text = packed([100] * 30)
    part = token_losses(model, text, context_length=16, limit_tokens=400)
    assert 200 <= len(part.loss) <= 400 and not part.complete
    assert len(set(part.document)) >= 20
    with pytest.raises(ValueError, match="token_bytes"):
        score_text(model, text, context_length=16, limit_tokens=400)
    sizes = np.full(VOCABULARY, 3)
    scores = score_text(model, text, context_length=16, limit_tokens=400, token_bytes=sizes)
    assert scores.n_bytes == 3 * len(part.loss)


def test_bytes_that_do_not_add_up_are_refused(model):
    with pytest.raises(ValueError, match="spell"):
        score_text(model, packed([10]), context_length=16, token_bytes=np.full(VOCABULARY, 2))


def test_windows_score_every_token_once_with_context():
    starts = np.array([0, 2, 50, 53])
    windows = cut(starts, 300, 16, 5)
    spans = zip(windows.start + windows.skip + 1, windows.start + windows.length + 1, strict=True)
    targets = np.concatenate([np.arange(*span) for span in spans])
    expected = np.concatenate([np.arange(3, 49), [51], np.arange(54, 299)])  # neither bos nor eos; the first document has no text
    assert targets.tolist() == expected.tolist()
    beginning = windows.skip == 0
    assert (windows.skip[~beginning] >= 11).all() and (windows.length <= 16).all()
    assert evenly(windows, 10**6) is windows and len(evenly(windows, 1)) == 1


@pytest.mark.parametrize("stride", [0, 17])
def test_stride_has_limits(stride):
    with pytest.raises(ValueError, match="stride"):
        cut(np.array([0]), 10, 16, stride)
