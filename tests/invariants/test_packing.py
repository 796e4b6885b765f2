"""Packed documents don't see each other, rows equal the slow reference, and the cache survives what happens to caches."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from phiforge.core.errors import DataError, PreflightError
from phiforge.data import pack as packing
from phiforge.data.document import Document, DocumentFile, write_documents
from phiforge.data.pack import Packed, pack
from phiforge.data.packed import IGNORED, Rows, batch_by_loop
from phiforge.data.tokenizer import Tokenizer
from phiforge.data.tokenizer_train import train_tokenizer

TEXT = "the cat sat on the mat, and the dog did not. "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 20], 300)


def documents(count: int = 40, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    return [Document.of(f"{i} " + TEXT * draw.choice([0, 0, 1, 2, 5]) + "é😀" * draw.randrange(3), f"d{i}") for i in range(count)]


def test_what_is_packed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = [Document.of("the cat", "a"), Document("empty", "", "b"), Document.of("é <|eos|> the mat", "c")]
    packed = pack(made, tokenizer, tmp_path)
    expected = [[1, *tokenizer.encode(text).tolist(), 2] for text in ("the cat", "é <|eos|> the mat")]
    assert packed.tokens.tolist() == expected[0] + expected[1] and packed.tokens.dtype == np.uint16
    assert packed.starts.tolist() == [0, len(expected[0])] and packed.document_bytes.tolist() == [7, 18]
    assert (packed.n_tokens, packed.n_bytes, packed.n_documents) == (sum(map(len, expected)), 25, 2)
    assert packed.tokens.tolist().count(2) == 2  # what looks like <|eos|> in a document is text


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_as_many_bytes_as_they_need(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    def write(folder: Path) -> dict[str, object]:
        shard = packing.ShardWriter(folder, vocab_size)
        shard.write(np.array([1, vocab_size - 1, 2], np.uint32), 3)
        return shard.finish()

    packed = packing.cached(f"k{vocab_size}", tmp_path, 100, write)
    assert packed.tokens.dtype == dtype and packed.tokens.tolist() == [1, vocab_size - 1, 2]


@pytest.mark.parametrize("length", [1, 2, 7, 63, 64, 500])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_rows_equal_the_loop(tokenizer: Tokenizer, tmp_path: Path, length: int, offset: int) -> None:
    rows = Rows(pack(documents(), tokenizer, tmp_path), length, offset)
    indices = random.Random(length).sample(range(len(rows)), min(20, len(rows)))
    batch, slow = rows.batch(indices), batch_by_loop(rows, indices)
    for name in slow:
        assert batch[name].dtype == np.int64 and batch[name].shape == (len(indices), length)
        np.testing.assert_array_equal(batch[name], slow[name])
        np.testing.assert_array_equal(rows[indices[0]][name], slow[name][0])


def test_rows_cover_every_token_once_and_hide_only_borders(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = pack(documents(), tokenizer, tmp_path)
    rows = Rows(packed, 16)
    batch = rows.batch(range(len(rows)))
    np.testing.assert_array_equal(batch["input_ids"].ravel(), packed.tokens[: 16 * len(rows)])
    assert packed.n_tokens - 16 * len(rows) - 1 < 16
    labels, following = batch["shift_labels"].ravel(), packed.tokens[1 : 16 * len(rows) + 1]
    hidden = labels == IGNORED
    np.testing.assert_array_equal(np.flatnonzero(hidden) + 1, [s for s in packed.starts[1:] if s <= 16 * len(rows)])
    np.testing.assert_array_equal(labels[~hidden], following[~hidden])
    assert (batch["position_ids"][:, 0] == 0).all() and batch["position_ids"].max() < 16


def test_rows_out_of_range(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = pack(documents(3), tokenizer, tmp_path)
    rows = Rows(packed, 8)
    for wrong in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            rows[wrong]
    with pytest.raises(IndexError):
        rows.batch([0, len(rows)])
    np.testing.assert_array_equal(rows[-1]["input_ids"], rows[len(rows) - 1]["input_ids"])
    with pytest.raises(DataError, match="don't fill one row of context_length 5000"):
        Rows(packed, 5000)


def pico(family: str, attention: str) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

    sizes = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "attn_implementation": attention, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0)).eval()
    return Starcoder2ForCausalLM(Starcoder2Config(**sizes, sliding_window=None, pad_token_id=0)).eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["starcoder2", "llama"])
@pytest.mark.parametrize("training", [False, True])
def test_documents_do_not_see_each_other(tokenizer: Tokenizer, tmp_path: Path, family: str, attention: str, training: bool) -> None:
    """Change a token of the first document of a row: every logit of the others stays bit for bit, and its own change.

    use_cache=False is part of the contract: transformers looks for packed documents only where there is no cache.
    """
    rows = Rows(pack(documents(), tokenizer, tmp_path), 64)
    index = next(i for i in range(len(rows)) if (rows[i]["position_ids"] == 0).sum() >= 3)
    batch = {name: torch.from_numpy(values) for name, values in rows.batch([index, 0]).items()}
    second = int((batch["position_ids"][0, 1:] == 0).nonzero()[0]) + 1
    model = pico(family, attention).train(training)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, position_ids=batch["position_ids"], attention_mask=None, use_cache=False).logits.detach()

    changed = batch["input_ids"].clone()
    changed[0, 0] = (changed[0, 0] + 7) % 300
    before, after = logits(batch["input_ids"]), logits(changed)
    assert torch.equal(before[0, second:], after[0, second:]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[0, :second], after[0, :second])


@pytest.mark.parametrize("family", ["starcoder2", "llama"])
def test_a_packed_document_gives_what_it_gives_alone(tokenizer: Tokenizer, tmp_path: Path, family: str) -> None:
    rows = Rows(pack(documents(), tokenizer, tmp_path), 64)
    row = next(row for row in (rows[i] for i in range(len(rows))) if (row["position_ids"] == 0).sum() >= 3)
    start, end = np.flatnonzero(row["position_ids"] == 0)[1:3]
    model = pico(family, "sdpa")
    together = model(
        input_ids=torch.from_numpy(row["input_ids"])[None], position_ids=torch.from_numpy(row["position_ids"])[None], use_cache=False
    )
    alone = model(input_ids=torch.from_numpy(row["input_ids"][start:end])[None])
    torch.testing.assert_close(together.logits[0, start:end], alone.logits[0], rtol=1e-5, atol=1e-5)


# ---- the cache


def test_the_key_is_content_and_nothing_else(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = documents()
    key = pack(made, tokenizer, tmp_path).key
    renamed = [Document(f"x{d.id}", d.text, "elsewhere") for d in made]
    write_documents(tmp_path / "documents.jsonl.zst", made)
    other = train_tokenizer([TEXT * 3, "and more words than before"], 290)
    assert pack(renamed, tokenizer, tmp_path).key == key
    assert pack(DocumentFile(tmp_path / "documents.jsonl.zst"), tokenizer, tmp_path / "other").key == key
    tokenizer_again = Tokenizer(tokenizer.spec, tokenizer.settings, source="elsewhere")
    assert pack(made, tokenizer_again, tmp_path).key == key
    different = [
        pack(made[::-1], tokenizer, tmp_path).key,
        pack([Document.of(made[0].text + made[1].text, "a"), *made[2:]], tokenizer, tmp_path).key,
        pack(made, other, tmp_path).key,
        pack(made, tokenizer, tmp_path, template="chatml").key,
    ]
    monkeypatch.setattr(packing, "VERSION", packing.VERSION + 1)
    different.append(pack(made, tokenizer, tmp_path).key)
    assert len({key, *different}) == 6


def test_a_second_time_nothing_is_encoded(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(documents(), tokenizer, tmp_path)
    monkeypatch.setattr(Tokenizer, "raw_batch", None)
    np.testing.assert_array_equal(pack(documents(), tokenizer, tmp_path).tokens, first.tokens)
    assert not list((tmp_path / "packed").glob(".partial*"))


@pytest.mark.parametrize("name", ["tokens.bin", "starts.npy", "bytes.npy", "packed.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_cache_is_made_again(tokenizer: Tokenizer, tmp_path: Path, name: str, how: str) -> None:
    first = pack(documents(), tokenizer, tmp_path)
    tokens, file = first.tokens.tolist(), first.folder / name
    data = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data[:-9] if how == "cut" else data)
    with pytest.raises(DataError, match="delete the folder"):
        Packed.open(first.folder)
    assert pack(documents(), tokenizer, tmp_path).tokens.tolist() == tokens
    assert Packed.open(first.folder).tokens.tolist() == tokens


PACK = """
import sys, time
from pathlib import Path
from phiforge.data.document import DocumentFile
from phiforge.data.pack import pack
from phiforge.data.tokenizer import Tokenizer
folder = Path(sys.argv[1])
tokenizer, documents = Tokenizer.load(folder / "tokenizer"), DocumentFile(folder / "documents.jsonl.zst")
(folder / ("ready" + sys.argv[2])).touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.001)
packed = pack(documents, tokenizer, folder / "cache")
print(packed.key, packed.n_tokens, packed.tokens[-50:].tolist())
"""


def test_two_processes_at_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    write_documents(tmp_path / "documents.jsonl.zst", documents(400))
    command = [sys.executable, "-c", PACK, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(2)]
    results = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], results
    assert results[0] == results[1]
    assert len(list((tmp_path / "cache" / "packed").iterdir())) == 1


def test_what_can_not_be_packed(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no text to pack"):
        pack([], tokenizer, tmp_path)
    with pytest.raises(TypeError, match="not an iterator"):
        pack(iter(documents()), tokenizer, tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(packing, "preflight_disk", _full)
    with pytest.raises(PreflightError, match="PHIFORGE_CACHE"):
        pack(documents(), tokenizer, tmp_path / "full")
    assert not list((tmp_path / "full" / "packed").iterdir())


def _full(path: Path, need: int) -> None:
    raise PreflightError(f"{path}: needs {need} and less is free")


def test_the_cache_lies_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHIFORGE_CACHE", str(tmp_path))
    assert packing.cache_root() == tmp_path
    monkeypatch.delenv("PHIFORGE_CACHE")
    assert packing.cache_root() == Path.home() / ".cache" / "phiforge"
