"""The writer: small memory, no torch, whole files only, and vocabularies that llama.cpp reads as trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phiforge.core.errors import ConfigError, DataError, PreflightError
from phiforge.export import gguf as writer
from phiforge.export.gguf import write_gguf
from phiforge.export.vocabulary import CONTROL, NORMAL, UNUSED, read_vocabulary
from tests.pico_export import pico_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_folder("llama", tmp_path_factory.mktemp("model"), steps=0)


def changed(folder: Path, out: Path, name: str, **values: object) -> Path:
    """A copy of the folder with keys of one JSON file set."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    (out / name).write_text(json.dumps({**json.loads((out / name).read_text()), **values}))
    return out


def test_writing_needs_neither_torch_nor_transformers(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from phiforge.export.gguf import write_gguf; "
        f"write_gguf(Path({str(folder)!r}), Path({str(tmp_path / 'm.gguf')!r})); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert (tmp_path / "m.gguf").is_file()


@pytest.mark.parametrize("chunk", [1, 4096, 1 << 24])
def test_the_size_of_a_chunk_changes_nothing(chunk: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_gguf(folder, tmp_path / "a.gguf", "Q8_0", name="m").sha256
    monkeypatch.setattr(writer, "CHUNK", chunk)
    assert write_gguf(folder, tmp_path / "b.gguf", "Q8_0", name="m").sha256 == expected


def test_a_full_disk_is_refused_before_anything_is_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.core.hardware.free_disk", lambda path: 1000)
    with pytest.raises(PreflightError, match="disk"):
        write_gguf(folder, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_while_writing_leaves_the_old_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    before = write_gguf(folder, path).sha256
    monkeypatch.setattr(writer._Sink, "_write", lambda self, data: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(PreflightError, match="the disk is full"):
        write_gguf(folder, path, "F32")
    monkeypatch.undo()
    assert write_gguf(folder, tmp_path / "again.gguf").sha256 == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.gguf", "m.gguf"]


def test_an_unknown_type_and_an_unknown_architecture(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="outtype"):
        write_gguf(folder, tmp_path / "m.gguf", "Q4_K")
    with pytest.raises(ConfigError, match="mamba model can't go to llama") as refused:
        write_gguf(changed(folder, tmp_path / "other", "config.json", model_type="mamba"), tmp_path / "m.gguf")
    assert "\n" not in str(refused.value)


def test_our_vocabulary(folder: Path) -> None:
    found = read_vocabulary(folder, 520)
    assert (found.pad_id, found.bos_id, found.eos_id, found.eot_id) == (0, 1, 2, 4)
    assert found.types[:5] == [CONTROL] * 5 and found.types[5] == NORMAL and found.types[-1] == UNUSED
    assert found.pre == "llama-bpe" and found.add_bos and found.padded == 8
    with pytest.raises(DataError, match="no row"):
        read_vocabulary(folder, 300)


def test_a_pre_tokenizer_that_llama_cpp_does_not_know(folder: Path, tmp_path: Path) -> None:
    pre = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    with pytest.raises(ConfigError, match="pre-tokenizer"):
        read_vocabulary(changed(folder, tmp_path / "other", "tokenizer.json", pre_tokenizer=pre), 512)
    with pytest.raises(ConfigError, match="Lowercase"):
        read_vocabulary(changed(folder, tmp_path / "lower", "tokenizer.json", normalizer={"type": "Lowercase"}), 512)


def test_borrowed_gpt2(shared_data: Path) -> None:
    found = read_vocabulary(shared_data / "tokenizers" / "gpt2", 50257)
    assert found.pre == "gpt-2" and not found.add_bos and len(found.merges) == 50000
    assert found.chat_template is None and found.normalizer == ""
