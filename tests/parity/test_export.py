"""Exported = trained: every layout and type through llama.cpp, and every wrong export that one could make is caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phiforge.core.gates import GateReport
from phiforge.data.chat import CHATML, PLAIN
from phiforge.export import gguf as writer
from phiforge.export.gguf import write_gguf
from phiforge.export.layouts import LAYOUTS, Layout, Rule
from phiforge.export.native import NativeModel
from phiforge.export.ollama import modelfile
from phiforge.export.parity import ServedModel, parity_gate
from phiforge.export.vocabulary import Vocabulary, read_vocabulary
from tests.pico_export import KINDS, pico_folder

MODELFILE = modelfile("model.gguf", CHATML, stops=["<|im_end|>"])
PREDICTIONS = ("largest |difference", "mean KL", "top-1", "llama.cpp runs")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: pico_folder(kind, tmp_path_factory.mktemp(kind), kv_heads=4 if kind == "starcoder2" else 2) for kind in KINDS}


def failing(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outtype", ["F32", "F16", "BF16", "Q8_0"])
def test_an_honest_export_passes(kind: str, outtype: str, folders: dict[str, Path], tmp_path: Path) -> None:
    written = write_gguf(folders[kind], tmp_path / "model.gguf", outtype)
    report = parity_gate(folders[kind], written.path, outtype=outtype, modelfile=MODELFILE)
    assert report.passed, "; ".join(check.line() for check in report.checks if not check.passed)
    assert len(report.checks) >= 9


def test_a_model_with_small_context_is_compared_in_windows(tmp_path: Path) -> None:
    folder = pico_folder("llama", tmp_path / "model", context=96, steps=30)
    report = parity_gate(folder, write_gguf(folder, tmp_path / "m.gguf", "F32").path, outtype="F32")
    assert report.passed, failing(report)
    assert any("512 positions" in check.name for check in report.checks)


def test_a_base_model_with_the_plain_template(tmp_path: Path) -> None:
    folder = pico_folder("llama", tmp_path / "model", steps=0, template="plain")
    text = modelfile("model.gguf", PLAIN, stops=["<|eos|>"])
    report = parity_gate(folder, write_gguf(folder, tmp_path / "m.gguf", "F32").path, outtype="F32", modelfile=text)
    assert report.passed, failing(report)
    assert sum("chat" in check.name for check in report.checks) == 4


# ---- deliberately wrong exports ------------------------------------------------------------------------------------------


def rules(layout: Layout, change: Callable[[Rule], Rule | None]) -> Layout:
    return dataclasses.replace(layout, tensors=tuple(new for rule in layout.tensors if (new := change(rule)) is not None))


def swap_q_and_k(rule: Rule) -> Rule:
    names = {"q_proj": "k_proj", "k_proj": "q_proj"}
    found = next((name for name in names if name in rule.source), None)
    return rule if found is None else dataclasses.replace(rule, source=rule.source.replace(found, names[found]))


def transpose_square(rule: Rule) -> Rule:
    return dataclasses.replace(rule, how="transpose") if rule.target == "blk.{i}.attn_output.weight" else rule


def no_rope_order(rule: Rule) -> Rule:
    return dataclasses.replace(rule, how="copy") if rule.how.startswith("rope") else rule


def rope_order(rule: Rule) -> Rule:
    how = {"blk.{i}.attn_q.weight": "rope_q", "blk.{i}.attn_k.weight": "rope_k"}.get(rule.target)
    return dataclasses.replace(rule, how=how) if how else rule


def no_bias(rule: Rule) -> Rule | None:
    return None if rule.target.startswith("blk.{i}.attn_") and rule.target.endswith("q.bias") else rule


def with_metadata(key: str, value: float) -> Callable[[Layout], Layout]:
    return lambda layout: dataclasses.replace(layout, metadata=lambda config: {**LAYOUTS[layout.name].metadata(config), key: value})


def with_rules(change: Callable[[Rule], Rule | None]) -> Callable[[Layout], Layout]:
    return lambda layout: rules(layout, change)


WRONG_LAYOUTS: dict[str, tuple[str, Callable[[Layout], Layout]]] = {
    "q and k swapped": ("starcoder2", with_rules(swap_q_and_k)),
    "square matrix transposed, starcoder2": ("starcoder2", with_rules(transpose_square)),
    "square matrix transposed, llama": ("llama", with_rules(transpose_square)),
    "square matrix not transposed, gpt2": (
        "gpt2",
        with_rules(lambda r: dataclasses.replace(r, how="copy") if "attn.c_proj" in r.source else r),
    ),
    "rows not brought to ggml's rotation": ("llama", with_rules(no_rope_order)),
    "rows brought to a rotation that is not used": ("starcoder2", with_rules(rope_order)),
    "another rope base": ("llama", with_metadata("rope.freq_base", 500.0)),
    "another epsilon, large": ("starcoder2", with_metadata("attention.layer_norm_epsilon", 0.5)),
}


def write_wrong(monkeypatch: pytest.MonkeyPatch, folder: Path, path: Path, outtype: str, change: Callable[[Layout], Layout]) -> Path:
    original = writer.layout_of
    with monkeypatch.context() as patch:
        patch.setattr(writer, "layout_of", lambda config: change(original(config)))
        patch.setattr(writer, "_check_shape", lambda *arguments: None)
        patch.setattr(writer, "_strip_prefix", strip_known(writer._strip_prefix, change))
        return write_gguf(folder, path, outtype).path


def strip_known(strip: Any, change: Callable[[Layout], Layout]) -> Any:
    """A layout that leaves tensors out must not be stopped by the writer's own check: the gate is on trial."""

    def known(layout: Layout, files: Any) -> dict[str, str]:
        sources = {rule.source.format(i=index) for rule in layout.tensors for index in range(9)}
        return {name: full for name, full in strip(layout, files).items() if name in sources}

    return known


@pytest.mark.parametrize("name", WRONG_LAYOUTS)
@pytest.mark.parametrize("outtype", ["F16"])  # the looser limits: what they catch, F32's catch too
def test_a_wrong_layout_is_caught_by_the_predictions_alone(
    name: str, outtype: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, change = WRONG_LAYOUTS[name]
    path = write_wrong(monkeypatch, folders[kind], tmp_path / "m.gguf", outtype, change)
    report = parity_gate(folders[kind], path, outtype=outtype, modelfile=MODELFILE)
    assert any(check.startswith(PREDICTIONS) for check in failing(report)), failing(report)
    assert not all(check.startswith(PREDICTIONS) or "greedy" in check for check in failing(report)), "the contents check saw nothing"


def test_a_slightly_wrong_epsilon_is_caught(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-6 for 1e-5: too little for any limit on predictions of an F16 file, so the settings themselves are compared."""
    change = with_metadata("attention.layer_norm_rms_epsilon", 1e-6)
    path = write_wrong(monkeypatch, folders["llama"], tmp_path / "m.gguf", "F16", change)
    assert "settings that differ from config.json" in failing(parity_gate(folders["llama"], path, outtype="F16"))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_missing_bias_is_caught(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp takes a llama without biases and computes something else; a qwen2 without them it refuses to load."""
    folder = pico_folder(kind, tmp_path / "model", steps=30, **({"attention_bias": True} if kind == "llama" else {}))
    honest = parity_gate(folder, write_gguf(folder, tmp_path / "right.gguf", "F32").path, outtype="F32")
    assert honest.passed, failing(honest)
    path = write_wrong(monkeypatch, folder, tmp_path / "m.gguf", "F32", with_rules(no_bias))
    found = failing(parity_gate(folder, path, outtype="F32"))
    assert "tensors that are missing or too many" in found
    assert any(check.startswith(PREDICTIONS) for check in found), found


def rotate(vocabulary: Vocabulary) -> Vocabulary:
    plain = [i for i, kind in enumerate(vocabulary.types) if kind == 1]
    tokens = list(vocabulary.tokens)
    for here, there in zip(plain, plain[1:] + plain[:1], strict=True):
        tokens[here] = vocabulary.tokens[there]
    return dataclasses.replace(vocabulary, tokens=tokens)


WRONG_VOCABULARIES: dict[str, tuple[Callable[[Vocabulary], Vocabulary], str]] = {
    "tokens off by one": (rotate, "token ids"),
    "no beginning-of-text token": (lambda v: dataclasses.replace(v, add_bos=False), "token ids"),
    "another pre-tokenizer": (lambda v: dataclasses.replace(v, pre="gpt-2"), "token ids"),
    "merges in another order": (lambda v: dataclasses.replace(v, merges=v.merges[::-1]), "token ids"),
    "control tokens as text": (lambda v: dataclasses.replace(v, types=[1] * len(v.types)), "ids of rendered chats"),
    "another template": (lambda v: dataclasses.replace(v, chat_template=(v.chat_template or "").replace("['role'] +", "['role'] + ' ' +")),
                         "chat template in the GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_VOCABULARIES)
def test_a_wrong_vocabulary_is_caught(name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, where = WRONG_VOCABULARIES[name]
    with monkeypatch.context() as patch:
        patch.setattr(writer, "read_vocabulary", lambda *arguments: change(read_vocabulary(*arguments)))
        path = write_gguf(folders["llama"], tmp_path / "m.gguf", "F16").path
    found = failing(parity_gate(folders["llama"], path, outtype="F16", modelfile=MODELFILE))
    assert any(check.startswith(where) for check in found), found
    assert "settings that differ from config.json" in found


def test_a_wrong_modelfile_is_caught(folders: dict[str, Path], tmp_path: Path) -> None:
    path = write_gguf(folders["llama"], tmp_path / "m.gguf", "F16").path
    wrong = MODELFILE.replace("<|im_end|>\n{{ end }}", "<|im_end|>{{ end }}")
    assert failing(parity_gate(folders["llama"], path, outtype="F16", modelfile=wrong)) == ["chat template in the Modelfile"]


def test_a_damaged_weight_is_caught(folders: dict[str, Path], tmp_path: Path) -> None:
    path = write_gguf(folders["llama"], tmp_path / "m.gguf", "F32").path
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40  # one bit of one weight
    path.write_bytes(bytes(data))
    assert "tensors with other values than the model's" in failing(parity_gate(folders["llama"], path, outtype="F32"))


# ---- the two ways to ask llama.cpp ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["starcoder2", "llama"])
def test_all_positions_at_once_equal_one_request_a_position(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    path = write_gguf(folders[kind], tmp_path / "m.gguf", "F32").path
    ids = [1, *np.random.default_rng(0).integers(5, 500, 23).tolist()]
    with NativeModel(path) as fast:
        logits = fast.logits(ids).astype(np.float64)
        fast_text = fast.greedy(ids[:4], 12)
        fast_ids = fast.tokenize("Grüße, 世界! <|im_end|>")
    with ServedModel(path) as slow:
        log_probabilities = slow.logits(ids)
        assert slow.greedy(ids[:4], 12) == fast_text
        assert slow.tokenize("Grüße, 世界! <|im_end|>") == fast_ids
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(
        log_probabilities, expected, atol=5e-3 if kind == "starcoder2" else 1e-4
    )  # ggml rounds its GELU to half precision
