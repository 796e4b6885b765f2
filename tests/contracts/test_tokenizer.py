"""Every tokenizer, ours with each pre-tokenizer and borrowed ones, through one suite: the fast ids are the reference's ids."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phiforge.data import pretokenizers
from phiforge.data.tokenizer import Tokenizer, has_long_blank
from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.data.vocabulary import SPECIAL_TOKENS, read_folder

PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.\n\n"
    "“My dear Mr. Bennet,” said his lady to him one day, “have you heard that Netherfield Park is let at last?”\n"
    "Ça va? Straße, naïve façade, Ελληνικά, русский, 日本語のテキスト, 한국어, العربية, हिन्दी, ไทย.\n"
    'def f(x: int) -> str:\n    """Doc."""\n\treturn f"{x + 1:>10}"  # it\'s 12345 and 3.14\n'
)
TEXTS = {
    "empty": "",
    "prose": PROSE * 3,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 😀😀😀 ✨\u200d\ufe0f 🇩🇪",
    "special-looking": "<|im_start|>user<|im_end|> <|bos|><|eos|><|pad|><|endoftext|> [thinking]<s></s>",
    "blanks": "a  b   c\t\td \n\n\n e\r\n\r\nf \u00a0\u2003\u3000 g   \n",
    "long blanks": "x" + " " * 3000 + "y" + "\n" * 3000 + "z" + "\t \n" * 1000,
    "contractions": "I'm you're he'S WE'LL they'Ve 'ſ it’s 'x ''s",
    "numbers": "1 12 123 1234 12345 ½ Ⅷ ٣٤ 1,234.5e-10",
    "control characters": "\x00\x01\x1f\x7f\x80\u2028\u2029\ufeff\ufffd\x0b\x0c",
    "combining": "e\u0301 a\u0308\u0304 \u0e01\u0e33 ﬁ \u212b",
    "rare planes": "\U0001f9ff\U00010348\U0001d54f\U000e0041\U0010fffd",
    "repeats": "a" * 5000 + "ab" * 3000 + "." * 3000 + "=" * 3000,
}
OURS = tuple(pretokenizers.PATTERNS)


@pytest.fixture(scope="module")
def make() -> Callable[[str], Tokenizer]:
    made: dict[str, Tokenizer] = {}

    def get(name: str) -> Tokenizer:
        if name not in made:
            made[name] = train_tokenizer([PROSE, PROSE.upper(), *TEXTS.values()], 640, pre_tokenizer=name)
        return made[name]

    return get


def same(tokenizer: Tokenizer, text: str) -> None:
    np.testing.assert_array_equal(tokenizer.encode(text), tokenizer.encode_reference(text))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pre", OURS)
def test_ours_encode_as_the_reference_and_back(make: Callable[[str], Tokenizer], pre: str, text: str) -> None:
    tokenizer = make(pre)
    ids = tokenizer.encode(TEXTS[text])
    assert tokenizer.fast and tokenizer.pre == pre and ids.dtype == np.int64
    same(tokenizer, TEXTS[text])
    assert tokenizer.decode(ids) == TEXTS[text]
    assert not set(ids.tolist()) & set(tokenizer.specials.values())


@pytest.mark.parametrize("pre", OURS)
def test_every_character_of_the_basic_planes(make: Callable[[str], Tokenizer], pre: str) -> None:
    """Two regex engines and two tables of Unicode classes: whole blocks of characters between letters, digits, quotes and blanks."""
    tokenizer = make(pre)
    points = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000), *range(0x10000, 0x11000), *range(0x1F000, 0x1FB00)]
    for start in range(0, len(points), 512):
        same(tokenizer, "".join(f"a{chr(c)}b 1{chr(c)}2 {chr(c)}.{chr(c)}\n{chr(c)}' 's" for c in points[start : start + 512]))


@pytest.mark.parametrize("pre", OURS)
def test_every_token_encodes_to_itself(make: Callable[[str], Tokenizer], pre: str) -> None:
    """llama.cpp takes a word that is in the vocabulary as it is under llama-bpe, whatever the merges say: both must agree."""
    tokenizer = make(pre)
    for token, piece in enumerate(tokenizer.pieces[len(SPECIAL_TOKENS) :], len(SPECIAL_TOKENS)):
        text = piece.decode("utf-8", errors="ignore")
        whole = text.encode() == piece and len(tokenizer._slow.pre_tokenizer.pre_tokenize_str(text)) == 1
        if whole:
            assert tokenizer.encode_reference(text).tolist() == [token], text


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 400_000 + "x", "\n" * 400_000, "\t " * 200_000, "1" * 300_000])
def test_a_million_of_the_same_does_not_stall(make: Callable[[str], Tokenizer], text: str) -> None:
    same(make("llama-bpe"), text)


def test_long_blanks_are_seen_wherever_they_lie() -> None:
    for before in (0, 1, 49_999, 50_000, 77_777):
        assert has_long_blank("x" * before + " " * 110_000 + "y")
    assert not has_long_blank(PROSE * 1000) and not has_long_blank("") and not has_long_blank(" " * 40_000)


@pytest.mark.parametrize("pre", OURS)
def test_batches_on_threads_give_the_same_ids(make: Callable[[str], Tokenizer], pre: str) -> None:
    tokenizer = make(pre)
    long = "".join(f"{PROSE}{i}\n \n  {i}\r\n\n'{i}\n's\n\n" for i in range(1500)) + "x" * 300_000
    texts = [*TEXTS.values(), long, "", PROSE]
    assert len(tokenizer._cut(long)) > 1
    for ids, text in zip(tokenizer.encode_batch(texts, threads=3), texts, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_ids_of_special_tokens_and_texts_that_mention_them(make: Callable[[str], Tokenizer]) -> None:
    tokenizer = make("llama-bpe")
    assert [tokenizer.specials[name] for name in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.eot_id) == (0, 1, 2, 4) and tokenizer.add_bos
    text = "<|im_start|>user\nhi<|im_end|>\n"
    ids = tokenizer.encode(text, specials=True).tolist()
    assert ids[0] == 3 and ids[-2] == 4 and 3 not in tokenizer.encode(text)
    assert tokenizer.decode(ids, specials=True) == text and tokenizer.decode(ids) == "user\nhi\n"


def test_saved_and_loaded_it_is_the_same_in_transformers_too(make: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = make("llama-bpe")
    tokenizer.save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and again.chat_template == tokenizer.chat_template
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0) and len(theirs) == tokenizer.vocab_size
    for text in (PROSE, TEXTS["emoji"], TEXTS["blanks"]):
        assert theirs(text, add_special_tokens=False).input_ids == again.encode(text).tolist()
        assert theirs(text).input_ids == [1, *again.encode(text).tolist()]
        assert theirs.decode(again.encode(text)) == text
    assert theirs.decode([3, 4]) == "<|im_start|><|im_end|>"


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox-20b", "minimind-6400"])
def test_borrowed_tokenizers(shared_data: Path, name: str) -> None:
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / name)
    for text in (*TEXTS.values(), "<think>a</think> b <tool_call>"):
        same(tokenizer, text)
        expected = unicodedata.normalize("NFC", text) if name == "gpt-neox-20b" else text
        assert tokenizer.decode(tokenizer.encode(text), specials=True) == expected
    assert tokenizer.pre == "gpt-2"


def test_gpt2_from_its_two_files_is_gpt2(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "tokenizers" / "gpt2"
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    old, new = Tokenizer.load(tmp_path), Tokenizer.load(folder)
    assert old.fast and (old.vocab_size, old.eos_id, old.bos_id) == (50_257, 50_256, 50_256)
    for text in TEXTS.values():
        np.testing.assert_array_equal(old.encode(text), new.encode(text))


def test_qwen2_form_normalises_as_it_does(make: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    """vocab.json + merges.txt with Qwen2's class: NFC first, added words that are no control tokens."""
    ours = make("qwen2")
    (tmp_path / "vocab.json").write_text(json.dumps({k: v for k, v in ours.spec["model"]["vocab"].items() if k not in SPECIAL_TOKENS}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in ours.spec["model"]["merges"]) + "\n")
    added = {str(i): {"content": name, "special": True, "normalized": False} for i, name in enumerate(SPECIAL_TOKENS)}
    word = {"content": "<tool_call>", "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {k: {**v, **flags} for k, v in {**added, str(ours.vocab_size): word}.items()},
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|pad|>"},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.fast and tokenizer.pre == "qwen2" and (tokenizer.eos_id, tokenizer.pad_id, tokenizer.eot_id) == (4, 0, 4)
    for text in (*TEXTS.values(), "call <tool_call> e\u0301"):
        same(tokenizer, text)
    assert ours.vocab_size in tokenizer.encode("call <tool_call> now")
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"


def test_declarations_in_all_languages(make: Callable[[str], Tokenizer], shared_data: Path) -> None:
    from phiforge.data.sources import Intake, read_source

    tokenizer = make("llama-bpe")
    for document in list(read_source(shared_data / "udhr", Intake()))[::3]:
        same(tokenizer, document.text)
        assert tokenizer.decode(tokenizer.encode(document.text)) == document.text


BROKEN = {
    "nothing": ({}, "no tokenizer in it"),
    "not json": ({"tokenizer.json": "{"}, "not JSON"),
    "a list": ({"tokenizer.json": "[]"}, "a JSON object was expected"),
    "word pieces": ({"tokenizer.json": '{"model": {"type": "WordPiece", "vocab": {}}}'}, "no BPE"),
    "not byte-level": ({"tokenizer.json": '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'}, "not byte-level"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_one_line(tmp_path: Path, name: str) -> None:
    from phiforge.core.errors import DataError

    files, message = BROKEN[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize("pre", OURS)
def test_llama_cpp_makes_the_same_ids(make: Callable[[str], Tokenizer], pre: str, tmp_path: Path) -> None:
    """The file that export writes, tokenized by llama.cpp itself."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    from phiforge.export.gguf import write_gguf
    from phiforge.export.native import NativeModel

    tokenizer = make(pre)
    config = Starcoder2Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, sliding_window=None,
    )  # fmt: skip
    Starcoder2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", "F32")
    with NativeModel(tmp_path / "model.gguf") as model:
        for name, text in TEXTS.items():
            if "\x00" not in text:
                assert model.tokenize(text, add_special=False) == tokenizer.encode(text).tolist(), name
        for start in range(1, 0x3000, 256):
            text = "".join(f"a{chr(c)}b 1{chr(c)}2 {chr(c)}.{chr(c)}\n{chr(c)}' 's" for c in range(start, start + 256))
            assert model.tokenize(text, add_special=False) == tokenizer.encode(text).tolist(), hex(start)
        assert model.tokenize("a" * 100_000, add_special=False) == tokenizer.encode("a" * 100_000).tolist()
