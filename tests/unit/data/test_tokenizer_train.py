"""Training a tokenizer: as the reference trainer would, of a sensible size, and the stage around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError, GateFailed
from phiforge.core.runs import Run, RunWriter, new_manifest
from phiforge.data import pretokenizers
from phiforge.data import tokenizer_train as stage
from phiforge.data.config import TokenizerTrainConfig
from phiforge.data.document import Document, write_documents
from phiforge.data.python_corpus import read_python
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.vocabulary import halves
from phiforge.export.vocabulary import read_vocabulary


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in read_python() if document.source.startswith("python/topics/")]


@pytest.mark.parametrize("pre", pretokenizers.PATTERNS)
def test_the_pieces_are_those_of_the_reference_trainer(texts: list[str], pre: str) -> None:
    """Pieces of one frequency come in another order, so the sets are compared, where the last frequency is not cut in two."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Reference

    reference = Reference(models.BPE())
    split = pre_tokenizers.Split(Regex(pretokenizers.PATTERNS[pre][0]), "isolated")
    reference.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pretokenizers.byte_alphabet()
    reference.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False))
    byte_of = {character: byte for byte, character in enumerate(alphabet)}
    merges = json.loads(reference.to_str())["model"]["merges"]
    theirs = [bytes(byte_of[c] for c in left + right) for left, right in merges]
    ours = stage.train_pieces(texts, 900, pretokenizers.PATTERNS[pre][0])
    assert ours[:256] == [bytes([b]) for b in range(256)] and len(ours) == 900
    assert len(set(ours[256:]) ^ set(theirs)) <= 4


def test_halves_are_the_merge_that_training_made(texts: list[str]) -> None:
    pieces = stage.train_pieces(texts, 800, pretokenizers.PATTERNS["llama-bpe"][0])
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    for piece in pieces[256:]:
        left, right = halves(piece, ranks)
        assert left + right == piece and max(ranks[left], ranks[right]) < ranks[piece]
        assert (left, right) == slow_halves(piece, ranks)
    with pytest.raises(ValueError, match="not one merge"):
        halves(b"abcdefgh", {**{bytes([b]): b for b in range(256)}, b"abcdefgh": 256})


def slow_halves(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [bytes([b]) for b in piece]
    while len(parts) > 2:
        at = min(range(len(parts) - 1), key=lambda i: (ranks.get(parts[i] + parts[i + 1], 1 << 30), i))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def test_no_piece_is_endless() -> None:
    text = "a" * 300_000 + " " + "xyz" * 50_000 + " " * 300_000 + "end of it all " * 20
    pieces = stage.train_pieces([text], 400, pretokenizers.PATTERNS["llama-bpe"][0])
    assert max(map(len, pieces)) <= 256 and len(pieces) > 270
    tokenizer = stage.train_tokenizer([text], 400)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("corpus", "parameters", "size"),
    [
        (8_000_000, None, 4096),
        (8_000_000, 7_000_000, 4096),
        (8_000_000, 1_000_000, 2048),
        (8_000_000, 100_000_000, 16_384),
        (800_000_000, 1_000_000_000, 32_768),
        (1_000_000, 7_000_000, 2048),
        (90_000, 7_000_000, 512),
        (100, None, 512),
    ],
)
def test_the_size_fits_corpus_and_model(corpus: int, parameters: int | None, size: int) -> None:
    assert stage.choose_vocab_size(corpus, parameters) == size


def test_sizes_as_people_write_them() -> None:
    assert [stage.parse_size(text) for text in ("300K", "7m", "1.3B", "5000")] == [300_000, 7_000_000, 1_300_000_000, 5000]
    with pytest.raises(ConfigError, match="no number of parameters"):
        stage.parse_size("big")


def train(tmp_path: Path, texts: list[str], **settings: Any) -> tuple[Tokenizer, dict[str, Any], str]:
    data = RunWriter(tmp_path / "data", new_manifest("data prepare", TokenizerTrainConfig()), TokenizerTrainConfig())  # type: ignore[call-arg]
    data.begin()
    (data.path / "documents").mkdir()
    made = [Document.of(text, f"d{i}") for i, text in enumerate(texts)]
    write_documents(data.path / "documents" / "train.jsonl.zst", made[1:])
    write_documents(data.path / "documents" / "validation.jsonl.zst", made[:1])
    data.end("complete")
    config = build(TokenizerTrainConfig, settings, where="test")
    run = RunWriter(tmp_path / "tokenizer", new_manifest("tokenizer train", config), config)
    run.begin()
    metrics = stage.run(config, {"data": Run.open(tmp_path / "data")}, run)
    return Tokenizer.load(run.path / "tokenizer"), metrics, (run.path / "log.txt").read_text()


def test_the_stage(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_gpt2", lambda: None)
    tokenizer, metrics, log = train(tmp_path, texts, vocab_size=700)
    assert metrics["vocab_size"] == tokenizer.vocab_size == 700 and 2 < metrics["bytes_per_token"] < 5
    assert "not on this machine" in log and "gpt2_bytes_per_token" not in metrics
    assert tokenizer.chat_template and "<|im_start|>" in tokenizer.chat_template
    assert json.loads((tmp_path / "tokenizer" / "run.json").read_text())["gates"][0]["gate"] == "tokenizer"


def test_a_size_that_can_not_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_gpt2", lambda: None)
    tokenizer, metrics, log = train(tmp_path, ["a cat sat on a mat", "a cat and a hat sat"], vocab_size=5000, template="plain")
    assert tokenizer.vocab_size == metrics["vocab_size"] < 300
    assert "vocab_size is that, not 5,000" in log


def test_beside_gpt2(tmp_path: Path, texts: list[str], shared_data: Path) -> None:
    _, metrics, _ = train(tmp_path, texts, vocab_size=600, gpt2=str(shared_data / "tokenizers" / "gpt2"))
    assert 3 < metrics["gpt2_bytes_per_token"] < 6


def test_only_so_much_text_is_read(texts: list[str]) -> None:
    documents = [Document.of(text, "a") for text in texts]
    whole = sum(len(text) for text in texts)
    part = sum(len(text) for text in stage._evenly(documents, whole, whole // 4))
    assert 0.15 * whole < part < 0.35 * whole
    assert list(stage._evenly(documents, whole, whole)) == texts


def test_what_can_not_be_trained() -> None:
    with pytest.raises(ConfigError, match="vocab_size 261 is too small"):
        stage.train_tokenizer(["text"], 261)
    with pytest.raises(DataError, match="no two bytes to merge"):
        stage.train_tokenizer(["a", "b"], 300)
    with pytest.raises(ConfigError, match="pre_tokenizer"):
        build(TokenizerTrainConfig, {"pre_tokenizer": "gpt2"}, where="test")


def test_the_gate_catches_a_tokenizer_that_encodes_otherwise(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = stage.train_tokenizer(texts, 400)
    assert stage.check(tokenizer, texts[:3]).passed
    monkeypatch.setattr(tokenizer, "encode_reference", lambda text: tokenizer.encode(text)[:-1])
    with pytest.raises(GateFailed, match="encoded unlike the reference"):
        stage.check(tokenizer, texts[:3]).require()


LINES = 'The cat (a "tom") sat; the dogs, walking, sat too.\n\nIt was 12.5 cats!  Ça va?\t“Naïve” straße… 日本語のテキスト\n'


def test_whitespace_cuts_as_hugging_face_does(texts: list[str], tmp_path: Path) -> None:
    """Words and punctuation, blanks dropped: the ids are those of the saved file in `tokenizers`, over whole planes of characters."""
    import tokenizers

    tokenizer = stage.train_tokenizer([*texts, LINES * 50], 900, pre_tokenizer="whitespace")
    assert tokenizer.lossy and tokenizer.fast and tokenizer.pre == "whitespace"
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    points = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000), *range(0x10000, 0x11000), *range(0x1F000, 0x1FB00)]
    planes = ["".join(f"a{chr(c)}b {chr(c)}_{chr(c)}. {chr(c)}\n" for c in points[at : at + 512]) for at in range(0, len(points), 512)]
    for text in (LINES, texts[0], " \n\t", "", "x" + " " * 200_000 + "y", *planes):
        assert tokenizer.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids
    with pytest.raises(ConfigError, match=r"drops blanks, which llama.cpp can.t"):
        read_vocabulary(tmp_path, tokenizer.vocab_size)
    again = Tokenizer.load(tmp_path)
    assert again.decode(again.encode(LINES)) == tokenizer.decode(tokenizer.encode(LINES))


def test_blanks_that_were_dropped_are_guessed(texts: list[str]) -> None:
    text = "One must not say it, he said (again). She walked to the river and back to the stone house, walking slowly.\n" * 40
    tokenizer = stage.train_tokenizer([text], 700, pre_tokenizer="whitespace")
    assert tokenizer.decode(tokenizer.encode(text)).split() == text.split()
    assert stage.check(tokenizer, [text]).passed and len(stage.check(tokenizer, [text]).checks) == 2


def test_held_out_text_is_learnt_from_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_gpt2", lambda: None)
    sides = ["zqzqzq " * 300, "the cat sat on the mat " * 300]  # the first is held out
    unseen, _, log = train(tmp_path / "a", sides, vocab_size=300)
    assert b" zqzqzq" not in unseen.pieces and "held-out text too" not in log
    seen, _, log = train(tmp_path / "b", sides, vocab_size=300, include_validation=True, pre_tokenizer="whitespace")
    assert b"zqzqzq" in seen.pieces and "held-out text too" in log and "blanks" in log
