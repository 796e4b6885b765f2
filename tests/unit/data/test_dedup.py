"""Near duplicates are found whatever changed, other documents stay, and the order of the documents alone decides which is kept."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from phiforge.data import dedup
from phiforge.data.dedup import COLUMNS, DTYPE, empty, near_duplicates, shares, signature
from phiforge.data.words import grams, words

pytest.importorskip("rensa")
VOCABULARY = [
    a + b + c for a in ("ka", "lo", "mi", "tu", "re") for b in ("n", "st", "v", "rd", "l") for c in ("a", "o", "ing", "er", "us", "ip")
]


def story(seed: int, length: int) -> str:
    """A text of so many words that no other seed gives."""
    rng = random.Random(seed)
    common = "the of and to a in that it was he".split()
    drawn = [rng.choice(common) if rng.random() < 0.4 else rng.choice(VOCABULARY) for _ in range(length)]
    return " ".join(word + ("." if rng.random() < 0.1 else "") for word in drawn)


def rows(texts: list[str]) -> np.ndarray:
    return np.stack([row if (row := signature(text)) is not None else empty() for text in texts])


def edited(text: str, share: float, rng: random.Random) -> str:
    parts = text.split()
    for at in rng.sample(range(len(parts)), max(1, round(share * len(parts)))):
        parts[at] = rng.choice(VOCABULARY)
    return " ".join(parts)


@pytest.mark.parametrize("length", [50, 300, 4000])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_edited_copies_are_found(length: int, share: float) -> None:
    rng = random.Random(1)
    texts = [story(seed, length) for seed in range(20)]
    repeats = near_duplicates(rows(texts + [edited(text, share, rng) for text in texts]))
    assert (repeats[:20] == -1).all()
    assert (repeats[20:] == np.arange(20)).sum() >= 19


def test_another_look_of_the_same_words_gives_the_same_row() -> None:
    text = "He didn't say: “It is a well-known café in Königsberg,” but 1,000 others did; nobody knows."
    other = "HE DIDNT SAY IT IS A WELL-\n   KNOWN CAFE IN KONIGS-\nBERG BUT\n1000 OTHERS DID - NOBODY KNOWS"
    assert (signature(text) == signature(other)).all()


def test_texts_that_share_a_passage_stay() -> None:
    licence = story(0, 160)
    texts = [f"{licence}\n\n{story(seed, 200)}" for seed in range(1, 40)]
    texts += [f"{story(100, 3000)} {story(seed, 3000)}" for seed in range(101, 110)]
    assert (near_duplicates(rows(texts)) == -1).all()


def test_only_what_is_like_a_kept_document_goes() -> None:
    """a is like b and b like c, but c isn't like a: b goes, c stays."""
    base = story(1, 1000).split()
    a, b, c = (" ".join(base[: 1000 - cut] + story(9, cut).split()) for cut in (0, 150, 300))
    assert shares(a, b)[0] > 0.7 and shares(b, c)[0] > 0.7 and shares(a, c)[0] < 0.6
    assert near_duplicates(rows([a, b, c])).tolist() == [-1, 0, -1]
    # a copy of a copy repeats the first
    assert near_duplicates(rows([a, story(5, 700), a + " one", a + " two more"])).tolist() == [-1, -1, 0, 0]


def test_many_copies_and_a_bucket_of_many_kinds() -> None:
    texts = [story(seed, 60) for seed in range(60)]
    order = list(range(60)) * 5
    random.Random(0).shuffle(order)
    firsts = {kind: order.index(kind) for kind in range(60)}
    expected = [-1 if firsts[kind] == at else firsts[kind] for at, kind in enumerate(order)]
    assert near_duplicates(rows([texts[kind] for kind in order])).tolist() == expected


def test_rows_in_a_file_and_in_small_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    texts = [story(seed, 80) for seed in range(30)]
    held = rows(texts + [edited(rng.choice(texts), 0.03, rng) for _ in range(30)])
    expected = near_duplicates(held)
    assert (expected >= 0).sum() >= 29
    held.tofile(tmp_path / "rows")
    monkeypatch.setattr(dedup, "_SLICE", 7)
    mapped = np.memmap(tmp_path / "rows", DTYPE, "r", shape=held.shape)
    assert (near_duplicates(mapped) == expected).all()
    assert (near_duplicates(list(held)) == expected).all()


def test_texts_too_short_repeat_nothing() -> None:
    assert signature("Only four words here.") is None and signature("") is None
    assert near_duplicates(rows(["Yes, sir."] * 3 + ["It is five words long"] * 2)).tolist() == [-1, -1, -1, -1, 3]
    assert near_duplicates([]).tolist() == []
    with pytest.raises(ValueError, match="document, version"):
        near_duplicates(np.zeros((3, COLUMNS - 1), DTYPE))


def test_the_texts_decide_at_the_border() -> None:
    """Pairs whose estimate is near a border follow what they exactly share, on either side."""
    found, expected = [], []
    for seed in range(60):
        length, share = (400, 60 + 2 * seed) if seed % 2 else (39, 2 + seed // 20)  # below 40 words pairs are no evidence
        base = story(seed, length)
        pair = [base, " ".join(base.split()[: length - share] + story(seed + 500, share).split())]
        fives, pairs = shares(*pair)
        expected.append(fives >= 0.8 or (length >= 40 and pairs >= 0.94 * 0.8))
        found.append(near_duplicates(rows(pair), text=pair.__getitem__)[1] == 0)
    assert found == expected and 10 < sum(expected) < 50


def test_the_estimate_is_near_the_share() -> None:
    base = story(1, 3000)
    for cut in (100, 500, 1500):
        other = " ".join(base.split()[:-cut] + story(2, cut).split())
        agree = (signature(base) == signature(other))[1 : 1 + dedup.FIVES].mean()
        assert agree == pytest.approx(shares(base, other)[0], abs=0.09)


def test_a_row_means_the_same_tomorrow() -> None:
    """Rows are kept in files: another value here needs another VERSION."""
    row = signature("Rows of numbers are kept in files, so they must not change their meaning.")
    assert row is not None and row.dtype == DTYPE and row.shape == (COLUMNS,) and dedup.VERSION == 1
    assert row[[0, 1, 2, 256, 257, 384]].tolist() == [14, 8356, 48342, 25363, 34011, 13057]


def test_words_know_where_they_lie() -> None:
    text = "One 'two' thr-\n  ee — ﬁve, 六七 8.5!\n" + "filler words to reach a second piece of the text " * 1000 + "the end"
    found = words(text)
    shown = [text[a:b] for a, b in zip(found.starts[:3], found.ends[:3], strict=True)]
    assert shown == ["One", "two", "thr-\n  ee"] and text[found.starts[-1] : found.ends[-1]] == "end"
    assert len(found) == 3 + 1 + 2 + 1 + 10 * 1000 + 2
    parts = [words(part).hashes for part in (text[:600], text[600:])]
    assert (np.concatenate(parts)[:50] == found.hashes[:50]).all() and parts[1][-1] == found.hashes[-1]
    assert len(grams(found.hashes[:4], 5)) == 0 and len(grams(found.hashes[:5], 5)) == 1


def test_real_books_keep_their_documents(shared_data: Path) -> None:
    """Pages of one book, stories of one kind: none repeats another; a whole book with other line ends does."""
    text = (shared_data / "eight-books" / "tom_sawyer.txt").read_text(encoding="utf-8")
    cut = text.split()
    pages = [" ".join(cut[at : at + 200]) for at in range(0, len(cut) - 200, 200)]
    repeats = near_duplicates(rows([*pages, text, " ".join(cut).upper()]))
    assert (repeats[:-1] == -1).all() and repeats[-1] == len(pages)
