"""One suite for every layout that is exported: a row in LAYOUTS is a row here."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from phiforge.core.errors import ConfigError, DataError
from phiforge.export.gguf import write_gguf
from phiforge.export.layouts import LAYOUTS, layout_of
from phiforge.export.tensors import TensorFiles
from tests.pico_export import KINDS, pico_config, pico_folder

ARCHITECTURES = {"starcoder2": "STARCODER2", "llama": "LLAMA", "qwen2": "QWEN2", "gpt2": "GPT2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: pico_folder(kind, tmp_path_factory.mktemp(kind), steps=0) for kind in KINDS}


def test_the_suite_covers_every_layout() -> None:
    assert set(LAYOUTS) == set(KINDS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_specification(kind: str) -> None:
    """Every target is a tensor that the gguf package knows for this architecture."""
    known = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, ARCHITECTURES[kind]), 2)
    names = {
        name.replace("{bid}", "0")
        for key in gguf.MODEL_TENSORS[getattr(gguf.MODEL_ARCH, ARCHITECTURES[kind])]
        for name in [gguf.TENSOR_NAMES[key]]
    }
    for rule in LAYOUTS[kind].tensors:
        assert rule.target.format(i=0).rsplit(".", 1)[0] in names, rule.target
        source = (LAYOUTS[kind].prefix + rule.source.format(i=0)) if rule.source != "lm_head.weight" else rule.source
        assert known.get_name(source, try_suffixes=(".weight", ".bias")) == rule.target.format(i=0), source


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_read_from_the_right_place(kind: str) -> None:
    """Literal values, all different, so that no two can be mixed up."""
    more = {"n_inner": 208, "layer_norm_epsilon": 3e-4} if kind == "gpt2" else {"intermediate_size": 208}
    more |= {} if kind == "gpt2" else {"norm_epsilon" if kind == "starcoder2" else "rms_norm_eps": 3e-4, "rope_theta": 5000.0}
    config = json.loads(pico_config(kind, 333, width=48, heads=6, kv_heads=3, context=77, **more).to_json_string(use_diff=False))
    epsilon = "attention.layer_norm_rms_epsilon" if kind in ("llama", "qwen2") else "attention.layer_norm_epsilon"
    expected = {"context_length": 77, "embedding_length": 48, "block_count": 2, "feed_forward_length": 208, "vocab_size": 333,
                "attention.head_count": 6, epsilon: 3e-4}  # fmt: skip
    if kind != "gpt2":
        expected |= {"attention.head_count_kv": 3, "rope.freq_base": 5000.0, "rope.dimension_count": 8}
    assert LAYOUTS[kind].metadata(config) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outtype", ["F32", "F16", "BF16", "Q8_0"])
def test_every_weight_is_in_the_file_once(kind: str, outtype: str, folders: dict[str, Path], tmp_path: Path) -> None:
    written = write_gguf(folders[kind], tmp_path / "m.gguf", outtype)
    reader = gguf.GGUFReader(str(written.path))
    with TensorFiles(folders[kind]) as files:
        stored = sum(int(np.prod(entry.shape)) for entry in files.entries.values())
    assert sum(int(tensor.n_elements) for tensor in reader.tensors) == stored == written.parameters
    assert written.path.stat().st_size == written.nbytes
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_half_precision_and_padding(kind: str, tmp_path: Path) -> None:
    """A sharded bfloat16 folder with a padded vocabulary gives the file that one float32 file of the same values gives."""
    folder = pico_folder(kind, tmp_path / "a", steps=0, dtype=torch.bfloat16, shard="100KB", extra_rows=7)
    assert (folder / "model.safetensors.index.json").is_file()
    written = write_gguf(folder, tmp_path / "a.gguf", "F32", name="same")
    whole = tmp_path / "b"
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(whole)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (whole / name).write_bytes((folder / name).read_bytes())
    assert write_gguf(whole, tmp_path / "b.gguf", "F32", name="same").sha256 == written.sha256
    assert written.plan.vocabulary.padded == 7
    assert written.plan.vocabulary.tokens[-1].startswith("[PAD")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu", "activation_function": "relu"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_parameters": None, "scale_attn_weights": False},
        {"sliding_window": 16, "use_sliding_window": True, "scale_attn_by_inverse_layer_idx": True},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_llama_cpp_computes_otherwise_is_refused(kind: str, change: dict[str, object]) -> None:
    config = {**json.loads(pico_config(kind, 333).to_json_string(use_diff=False)), **change}
    with pytest.raises(ConfigError) as refused:
        layout_of(config)
    assert "\n" not in str(refused.value) and kind in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_an_unknown_and_a_misshapen_tensor(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = load_file(folders[kind] / "model.safetensors")
    victim = next(name for name in source if "0" in name and name.endswith("weight"))
    for change, word in (
        ({name: value for name, value in source.items() if name != victim}, "missing"),
        (source | {"stranger.weight": np.zeros((2, 2), np.float32)}, "no place"),
        (source | {victim: np.zeros((3, 5), np.float32)}, "shape"),
        (source | {victim: np.full_like(source[victim], np.nan)}, "NaN"),
    ):
        folder = tmp_path / word
        folder.mkdir()
        for file in folders[kind].glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        save_file(change, folder / "model.safetensors")
        with pytest.raises(DataError, match=word):
            write_gguf(folder, tmp_path / "m.gguf", "F16")
        assert not (tmp_path / "m.gguf").exists() and not list(tmp_path.glob(".partial-*"))


def test_an_old_gpt2_checkpoint(folders: dict[str, Path], tmp_path: Path) -> None:
    """Names without the prefix, attention masks stored as buffers, the tied head stored too: as the first GPT-2 files are."""
    from safetensors.numpy import load_file, save_file

    source = load_file(folders["gpt2"] / "model.safetensors")
    old = {name.removeprefix("transformer."): value for name, value in source.items()}
    old |= {f"h.{i}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for i in range(2)} | {"lm_head.weight": old["wte.weight"].copy()}
    for file in folders["gpt2"].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes((folders["gpt2"] / "chat_template.jinja").read_bytes())
    save_file(old, tmp_path / "model.safetensors")
    expected = write_gguf(folders["gpt2"], tmp_path / "a.gguf", "F16", name="m").sha256
    assert write_gguf(tmp_path, tmp_path / "b.gguf", "F16", name="m").sha256 == expected
