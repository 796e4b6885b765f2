import numpy as np
import pytest

from phiforge.core.errors import ConfigError
from phiforge.evaluate import ngram
from phiforge.evaluate.compressors import conditional_bits_per_byte, plain_bits_per_byte
from phiforge.evaluate.ngram import Ngram, reference_bits
from phiforge.evaluate.sampling import sample_text


def texts(seed: int, sizes: list[int], alphabet: int = 6) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [bytes(rng.integers(97, 97 + alphabet, size).astype(np.uint8)) for size in sizes]


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_counts_by_sorting_equal_the_formula(order):
    train = [*texts(0, [700, 1, 0, 2, 3, 300]), b"\x00\x00\x00\x00abc\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"abcdefgh" * 3]
    held_out = [*texts(1, [400, 0, 1, 2, 5], alphabet=9), b"\x00" * 6, b"\xff" * 8, "æøå 日本".encode()]
    fast, slow = Ngram.fit(train, order).bits(held_out), reference_bits(train, held_out, order)
    np.testing.assert_allclose(fast, slow, rtol=1e-12)


def test_pieces_do_not_show(monkeypatch):
    train, held_out = texts(2, [900, 800]), texts(3, [500, 3, 700])
    whole = Ngram.fit(train, 5).bits(held_out)
    monkeypatch.setattr(ngram, "_CHUNK", 37)
    np.testing.assert_array_equal(Ngram.fit(train, 5).bits(held_out), whole)


def test_it_is_a_distribution():
    """The probabilities of all 256 next bytes add up to one, after a known context, a half-known one and an unknown one."""
    model = Ngram.fit([b"the cat sat on the mat; the rat sat too"], 4)
    for context in (b"the", b"qqa", b"zzzz", b""):
        p = [2 ** -model.bits([context + bytes([byte])])[-1] for byte in range(256)]
        assert sum(p) == pytest.approx(1, abs=1e-12)


def test_documents_do_not_see_each_other():
    model = Ngram.fit([b"abcab", b"cabca"], 4)
    np.testing.assert_array_equal(model.bits([b"abc", b"abc"]), np.tile(model.bits([b"abc"]), 2))
    one, two = Ngram.fit([b"ab" * 50], 3), Ngram.fit([b"a", b"b"] * 50, 3)
    assert one.bits([b"abab"]).sum() < two.bits([b"abab"]).sum()


def test_nothing_learned_is_eight_bits():
    assert Ngram.fit([], 5).bits([b"hello"]).tolist() == [8.0] * 5
    assert len(Ngram.fit([b"x"], 5).bits([])) == 0


@pytest.mark.parametrize("order", [0, 9])
def test_order_has_limits(order):
    with pytest.raises(ConfigError, match="outside 1 to 8"):
        Ngram.fit([b"x"], order)


def test_tiny_shakespeare_reference_values(shared_data):
    """The last tenth: 5-gram 2.41 bits per byte, xz 2.52 given the first nine tenths."""
    text = (shared_data / "tiny-shakespeare" / "input.txt").read_bytes()
    at = int(len(text) * 0.9)
    assert Ngram.fit([text[:at]], 5).bits([text[at:]]).mean() == pytest.approx(2.41, abs=0.01)
    assert conditional_bits_per_byte(text[:at], text[at:]) == pytest.approx(2.52, abs=0.01)


def test_xz_profits_from_what_it_has_read():
    text = b"".join(texts(4, [20_000], alphabet=16))
    assert plain_bits_per_byte(text) == pytest.approx(4, abs=0.6)
    assert conditional_bits_per_byte(text, text[5_000:15_000]) < 0.2
    assert conditional_bits_per_byte(b"", text) == pytest.approx(plain_bits_per_byte(text), abs=0.1)


def test_sample_is_whole_below_the_cap_and_even_above():
    documents = [f"document {i} " + "x" * (i % 90) for i in range(4_000)]
    everything = sample_text(lambda: documents, 10**9)
    assert everything.complete and everything.note == "" and len(everything.documents) == 4_000
    part = sample_text(lambda: iter(documents), 50_000)
    assert 45_000 <= part.bytes_taken <= 50_000 and part.bytes_total == everything.bytes_total
    assert part.bytes_taken == sum(map(len, part.documents)) and "evenly" in part.note
    numbers = [int(document.split()[1]) for document in part.documents]
    assert min(numbers) < 50 and max(numbers) > 3_950 and 1_800 < np.median(numbers) < 2_200
    assert sample_text(lambda: documents, 50_000) == part


def test_sample_of_one_large_document_is_its_beginning():
    part = sample_text(lambda: ["ab" * 50_000, "c"], 1_000)
    assert 900 <= part.bytes_taken <= 1_000 and (b"ab" * 50_000).startswith(part.documents[0])


@pytest.mark.parametrize(("order", "vocabulary"), [(1, 40), (3, 1000), (3, 32_000), (3, 1 << 21), (2, 2)])
def test_tokens_are_counted_as_bytes_are(order, vocabulary):
    rng = np.random.default_rng(order + vocabulary)
    used = rng.permutation(vocabulary)[:9] if vocabulary > 9 else np.arange(vocabulary)
    train = [rng.choice(used, size).astype(np.int64) for size in (300, 1, 2, 5, 80)]
    rows = rng.choice(used, (7, 21))
    rows[0, 0], rows[1, 3] = vocabulary - 1, 0
    starts = np.cumsum([0, *(len(document) for document in train[:-1])])
    model = Ngram.fit_tokens(np.concatenate(train), starts, vocabulary, order)
    slow = reference_bits([d.tolist() for d in train], rows.tolist(), order, vocabulary)
    np.testing.assert_allclose(model.bits_of_rows(rows).ravel(), slow, rtol=1e-12)


def test_grams_of_tokens_have_limits():
    with pytest.raises(ConfigError, match="outside 1 to 4 for a vocabulary of 32,000"):
        Ngram.fit_tokens(np.zeros(9, np.int64), np.zeros(1, np.int64), 32_000, 5)
