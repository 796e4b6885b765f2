"""Reading by place and asking for needles: held to the plain ways of doing the same, and to models whose answers are known."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from phiforge.evaluate.bits_per_byte import token_losses
from phiforge.evaluate.needle import CHOICES, Needles, ask, make_needles
from phiforge.evaluate.positions import Excerpt, by_position, carries_state, edges, held_bytes, longest, streamed, windowed
from phiforge.models.decoder import build
from phiforge.models.sizes import DecoderSpec, resolve
from phiforge.models.thyme.modeling import ThymeLM

VOCABULARY = 40


@pytest.fixture(scope="module")
def thyme():
    return ThymeLM(VOCABULARY, seed=1, width=32, depth=1, state_layers=2, dropout=0.0, initializer_range=0.3).eval()


@pytest.fixture(scope="module")
def attention():
    spec = DecoderSpec(family="llama", width=32, depth=2, heads=2, vocab_size=VOCABULARY, context_length=64, initializer_range=0.2)
    return build(resolve(spec), seed=0).eval()


def packed(*lengths: int, seed: int = 0) -> SimpleNamespace:
    """Random documents as [bos] tokens [eos]."""
    random = np.random.default_rng(seed)
    pieces = [np.concatenate([[0], random.integers(2, VOCABULARY, n), [1]]) for n in lengths]
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    return SimpleNamespace(tokens=np.concatenate(pieces).astype(np.uint16), starts=starts, n_bytes=sum(lengths))


def test_the_longest_documents_are_taken_and_cut():
    text = packed(5, 80, 0, 30, 80)
    excerpt = longest(text, 3, 50)
    assert excerpt.document_ids == (1, 3, 4) and excerpt.lengths.tolist() == [50, 30, 50]
    np.testing.assert_array_equal(excerpt.tokens[:51], text.tokens[7 : 7 + 51])
    assert excerpt.tokens[51] == 1, "a cut document still ends with eos, which is never predicted"


@pytest.mark.parametrize("chunk", [1, 7, 64, 500])
def test_streaming_equals_reading_whole(thyme, chunk):
    """The state carried over chunks and rows that leave early change nothing; the plain way reads each document in one window."""
    text = packed(1, 90, 37, 64)
    excerpt = longest(text, 4, 1000)
    found = streamed(thyme, excerpt, chunk=chunk)
    whole = token_losses(thyme, text, context_length=90)
    np.testing.assert_array_equal(found.token, whole.token)
    np.testing.assert_array_equal(found.document, whole.document)
    np.testing.assert_allclose(found.loss, whole.loss, atol=2e-4)
    assert found.position.tolist() == [p for n in (1, 90, 37, 64) for p in range(n)]


def test_a_state_that_is_emptied_reads_each_piece_as_if_it_began_there(thyme):
    excerpt = longest(packed(50), 1, 50)
    forgetful = streamed(thyme, excerpt, forget=20, chunk=13)
    pieces = []
    with torch.no_grad():
        for at in (0, 20, 40):
            ids = torch.from_numpy(excerpt.tokens[None, at : min(at + 20, 50) + 1])
            logits = thyme(input_ids=ids[:, :-1]).logits[0]
            pieces.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy())
    np.testing.assert_allclose(forgetful.loss, np.concatenate(pieces), atol=2e-4)
    assert np.abs(forgetful.loss - streamed(thyme, excerpt).loss)[20:].max() > 1e-3, "the control would not notice a state that is kept"


def test_bins_add_up_to_the_text_and_say_where_a_window_slides(attention):
    excerpt = longest(packed(200, 130), 2, 1000)
    losses = windowed(attention, excerpt, context_length=64)
    sizes = np.arange(VOCABULARY) % 4 + 1
    bins = by_position(losses, sizes, edges(200), context_length=64)
    assert [(place.first, place.last) for place in bins] == [(0, 15), (16, 31), (32, 63), (64, 127), (128, 199)]
    assert [place.how for place in bins] == ["whole"] * 3 + ["sliding"] * 2
    total = sum(place.score.value * place.score.n for place in bins)
    assert total == pytest.approx(losses.loss.astype(np.float64).sum() / np.log(2), rel=1e-6)
    assert sum(place.score.n for place in bins) == sizes[losses.token].sum()


def test_the_gain_of_the_past_is_the_difference_of_two_readings(thyme):
    excerpt = longest(packed(300), 1, 300)
    sizes = np.ones(VOCABULARY, np.int64)
    carried, forgetful = streamed(thyme, excerpt), streamed(thyme, excerpt, forget=16)
    bins = by_position(carried, sizes, [0, 16, 300], forgetful=forgetful)
    assert bins[0].gain.value == pytest.approx(0, abs=1e-6)
    apart = by_position(forgetful, sizes, [0, 16, 300])[1].score.value - bins[1].score.value
    assert bins[1].gain.value == pytest.approx(apart, abs=1e-9)


def test_what_is_kept_is_counted_from_tensors(thyme, attention):
    assert carries_state(thyme) and not carries_state(attention)
    assert held_bytes(thyme, 1) == held_bytes(thyme, 50) == 2304
    assert held_bytes(attention, 50) == 50 * 2 * 2 * 32 * 4  # keys and values, two layers, width 32, float32
    with torch.no_grad():
        full = attention(input_ids=torch.zeros((1, 50), dtype=torch.long), use_cache=True).past_key_values
    assert held_bytes(attention, 50) == sum(layer.keys.nbytes + layer.values.nbytes for layer in full.layers)


# -- needles


class Letters:
    """A tokenizer of characters: all numbers of four digits spell five tokens."""

    bos_id = 0
    _letters = " .0123456789" + "abcdefghijklmnopqrstuvwxyz"

    def encode(self, text: str) -> np.ndarray:
        return np.array([2 + self._letters.index(c) for c in text.lower()], np.int64)


@pytest.fixture(scope="module")
def needles() -> Needles:
    random = np.random.default_rng(0)
    documents = [random.integers(14, 40, n) for n in (150, 20, 400)]
    return make_needles(Letters(), documents, instances=6, longest=64, seed=5)


def test_needles_are_hidden_in_the_documents_and_say_what_is_asked(needles):
    letters = Letters._letters
    said = lambda ids: "".join(letters[i - 2] for i in ids)  # noqa: E731
    for i in range(len(needles)):
        fact, wrong, question = said(needles.needle[i]), said(needles.wrong[i]), said(needles.question[i])
        assert fact == question + said(needles.answer[i]) + "." and fact.startswith(" the secret number of ")
        assert wrong.startswith(question) and wrong != fact and wrong[len(question) : -1] in [said(c) for c in needles.choices[i]]
        assert len({said(choice) for choice in needles.choices[i]}) == CHOICES
    assert needles.book.shape == (6, 64) and len({tuple(row) for row in needles.book.tolist()}) > 1
    assert (needles.before[:, 0] == 0).all()


def test_texts_too_short_for_the_distance_hide_nothing():
    assert make_needles(Letters(), [np.full(90, 20)], instances=4, longest=64, seed=0) is None
    assert make_needles(Letters(), [], instances=4, longest=16, seed=0) is None


def plain(model, needles: Needles, distance: int, put: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """log P of answers (n, C, a) by reading the whole row anew for each: the obvious way."""
    out = np.zeros(answers.shape[:2])
    for i in range(len(needles)):
        for c in range(answers.shape[1]):
            row = np.concatenate([needles.before[i], put[i], needles.book[i, :distance], needles.question[i], answers[i, c]])
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(row[None, :-1])).logits[0].double().log_softmax(-1)
            a = answers.shape[2]
            out[i, c] = logits[-a:].gather(1, torch.from_numpy(row[-a:, None])).sum()
    return out


@pytest.mark.parametrize("kind", ["thyme", "attention"])
def test_forking_a_stream_equals_reading_everything_anew(request, kind, needles):
    model = request.getfixturevalue(kind)
    if kind == "attention":
        model = copy.deepcopy(model)
        model.config.max_position_embeddings = 512
    found = ask(model, needles, [16, 64], context_length=512 if kind == "attention" else None)
    none = np.zeros((len(needles), 0), np.int64)
    for one in found:
        ten = plain(model, needles, one.distance, needles.needle, needles.choices)
        own = ten[np.arange(len(needles)), needles.true]
        no = plain(model, needles, one.distance, none, needles.answer[:, None])[:, 0]
        wrong = plain(model, needles, one.distance, needles.wrong, needles.answer[:, None])[:, 0]
        assert one.gain.value == pytest.approx(np.mean(own - no) / np.log(2), abs=2e-3)
        assert one.gain_wrong.value == pytest.approx(np.mean(own - wrong) / np.log(2), abs=2e-3)
        assert one.choice.value == pytest.approx(np.mean(ten.argmax(1) == needles.true))
        assert one.gain.n == len(needles) and one.gain.standard_error > 0


def test_what_lies_outside_of_a_context_is_not_asked(attention, needles):
    room = needles.overhead() + 16
    found = ask(attention, needles, [16, 32], context_length=room)
    assert [one.asked for one in found] == [True, False]
    assert found[1].gain is None and found[1].to_json() == {"distance": 32, "asked": False}
    wide = ask(attention, needles, [16], context_length=4096)[0]
    assert found[0].gain.value != pytest.approx(wide.gain.value, abs=1e-9), "the book before the needle is left out first"


def test_a_budget_asks_fewer_of_the_far_ones(thyme, needles):
    near, far = ask(thyme, needles, [16, 64], budget=3 * 5 * 48)
    assert (near.choice.n, far.choice.n) == (6, 5)
    with pytest.raises(ValueError, match="beyond the 64 tokens"):
        ask(thyme, needles, [128])


class Perfect(torch.nn.Module):
    """Reads everything and remembers the last number it was told: what a model that finds every needle does."""

    _is_stateful = True

    def __init__(self, forgets: bool) -> None:
        super().__init__()
        self.forgets = forgets
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=VOCABULARY)

    def forward(self, input_ids, past_key_values=None, use_cache=True, logits_to_keep=0):
        seen = input_ids if past_key_values is None else torch.cat([past_key_values.state, input_ids], 1)
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, tokens in enumerate(seen.tolist()):
            text = "".join(Letters._letters[i - 2] if i >= 2 else "#" for i in tokens)
            begin = len(text) - input_ids.shape[1]
            for t in range(input_ids.shape[1]):
                before = text[: begin + t + 1]
                told = before.find(".")
                asked = before.rfind(" is")
                if told < 0 or self.forgets or asked < told:
                    continue
                number = before[told - 5 : told]
                done = len(before) - asked - 3
                if done < 5:
                    logits[row, t, 2 + Letters._letters.index(number[done])] = 20.0
        return SimpleNamespace(logits=logits, past_key_values=Kept(seen))


class Kept:
    """What Perfect goes on from."""

    def __init__(self, state: torch.Tensor) -> None:
        self.state = state

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.state = self.state.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.state = self.state[indices]


def test_a_model_that_remembers_gets_all_and_one_that_does_not_gets_nothing(needles):
    for one in ask(Perfect(forgets=False), needles, [16, 64]):
        assert one.choice.value == 1.0 and one.gain.value > 20 and one.gain_wrong.value > 20
        assert one.choice.standard_error > 0.1, "six of six is not always"
    for one in ask(Perfect(forgets=True), needles, [16, 64]):
        assert one.choice.value == 0.0, "a tie is no choice"
        assert one.gain.value == one.gain_wrong.value == 0.0


def test_an_excerpt_of_nothing_is_nothing(thyme):
    excerpt = longest(packed(0, 0), 3, 10)
    assert isinstance(excerpt, Excerpt) and len(excerpt.lengths) == 0
    assert len(streamed(thyme, excerpt).loss) == 0
