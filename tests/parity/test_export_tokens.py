"""Token ids of a megabyte of prose, code, emoji and the Universal Declaration in its languages: training = llama.cpp."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer
from phiforge.export import sample
from phiforge.export.gguf import write_gguf
from phiforge.export.native import NativeModel
from phiforge.export.parity import check_token_ids
from phiforge.export.vocabulary import read_vocabulary
from tests.pico_export import pico_config, pico_model

SIZE = 1_000_000


@pytest.fixture(scope="module")
def megabyte(shared_data: Path) -> str:
    """Half declarations (a piece of every language), the rest prose and code, with emoji and signs throughout."""
    with gzip.open(shared_data / "udhr" / "udhr2.jsonl.gz", "rt", encoding="utf-8") as stream:
        declarations = [json.loads(line)["text"] for line in stream]
    prose = "".join(path.read_text(encoding="utf-8") for path in sorted((shared_data / "peps").rglob("*.rst"))[:40])
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.glob("*.py")))
    pieces = [text[:1400] for text in declarations] + [prose[i : i + 2000] for i in range(0, 200_000, 2000)] + [code, sample.TOKENS_TEXT]
    random.Random(0).shuffle(pieces)
    text = ("\n" + sample.SIGNS).join(pieces)
    return text.encode("utf-8")[:SIZE].decode("utf-8", errors="ignore")


def gguf_of(tokenizer: Tokenizer | None, folder: Path) -> Path:
    size = (tokenizer or Tokenizer.load(folder)).vocab_size
    model = pico_model(pico_config("llama", size, width=32, context=32), [0] * 64, steps=0)
    model.save_pretrained(folder)
    return write_gguf(folder, folder / "m.gguf", "Q8_0").path


@pytest.mark.parametrize("pre_tokenizer", ["llama-bpe", "qwen2", "gpt-2"])
def test_our_tokenizers(pre_tokenizer: str, megabyte: str, tmp_path: Path) -> None:
    assert len(megabyte.encode("utf-8")) > 0.99 * SIZE
    tokenizer = train_tokenizer([megabyte[:200_000]], 2048, pre_tokenizer=pre_tokenizer)
    tokenizer.save(tmp_path)
    with NativeModel(gguf_of(tokenizer, tmp_path), window=8) as model:
        check = check_token_ids(tmp_path, model, megabyte, read_vocabulary(tmp_path, tokenizer.vocab_size))
    assert check.passed, check.line()


def test_borrowed_gpt2(shared_data: Path, megabyte: str, tmp_path: Path) -> None:
    for file in ("tokenizer.json",):
        (tmp_path / file).write_bytes((shared_data / "tokenizers" / "gpt2" / file).read_bytes())
    with NativeModel(gguf_of(None, tmp_path), window=8) as model:
        check = check_token_ids(tmp_path, model, megabyte[:300_000], read_vocabulary(tmp_path, 50257))
    assert check.passed, check.line()
