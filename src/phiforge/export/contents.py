"""What a GGUF file holds, read back by the `gguf` package (not by our writer) and held against the model folder.

Small mistakes hide from logits: another epsilon, a swapped bias of a model that hardly uses it. Here every tensor is compared with
the tensor it came from, by a second, separate statement of where it belongs, and every setting with config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from phiforge.core.gates import Check
from phiforge.export.layouts import Layout, is_tied
from phiforge.export.tensors import TensorFiles, read_json
from phiforge.export.vocabulary import read_vocabulary

# Half a step of each type, relative to the value (F16, BF16) or to the largest in reach (Q8_0: step max/127, scale in half precision).
HALF_STEP = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.5 / 127 + 2.0**-10}
SMALLEST = {"F32": 0.0, "F16": 2.0**-25, "BF16": 2.0**-133, "Q8_0": 2.0**-17}  # half of the smallest step near zero


def check_contents(model_dir: Path, path: Path, layout: Layout) -> list[Check]:
    """Three checks: tensors present, their values, metadata."""
    config = read_json(model_dir / "config.json")
    reader = gguf.GGUFReader(str(path))
    stored = {tensor.name: tensor for tensor in reader.tensors}
    with TensorFiles(model_dir) as files:
        expected = _expected(layout, config, files)
        missing = sorted(set(expected) - set(stored))
        extra = sorted(set(stored) - set(expected))
        wrong = [name for name, source in expected.items() if name in stored and not _same(files, source, stored[name], layout, config)]
    names = [f"{name} is missing" for name in missing] + [f"{name} does not belong" for name in extra]
    return [
        Check(name="tensors that are missing or too many", value=len(names), limit="0", passed=not names, note="; ".join(names[:3])),
        Check(name="tensors with other values than the model's", value=len(wrong), limit="0", passed=not wrong, note=", ".join(wrong[:3])),
        check_metadata(model_dir, reader, layout, config),
    ]


def _expected(layout: Layout, config: Mapping[str, Any], files: TensorFiles) -> dict[str, tuple[str, str]]:
    """GGUF name -> (name in the model folder, how it is laid)."""
    here = {name.removeprefix(layout.prefix): name for name in files.entries}
    found = {}
    for rule in layout.tensors:
        if rule.target == "output.weight" and is_tied(layout, config):
            continue
        for index in range(layout.dims(config)["L"] if "{i}" in rule.source else 1):
            if source := here.get(rule.source.format(i=index)):
                found[rule.target.format(i=index)] = (source, rule.how)
    return found


def _same(files: TensorFiles, source: tuple[str, str], stored: Any, layout: Layout, config: Mapping[str, Any]) -> bool:
    name, how = source
    values = files.rows(name, 0, files.entries[name].shape[0])
    written = _values(stored)
    if how == "transpose":
        written = written.T
    elif how.startswith("rope") and layout.name == "llama":
        heads = layout.dims(config)["H" if how == "rope_q" else "G"]
        pairs = written.reshape(heads, written.shape[0] // heads // 2, 2, -1)  # neighbours back to halves
        written = pairs.swapaxes(1, 2).reshape(values.shape)
    return written.shape == values.shape and _close(values, written, stored.tensor_type.name, how)


def _values(stored: Any) -> NDArray[np.float32]:
    kind = stored.tensor_type
    values = stored.data if kind.name in ("F32", "F16") else gguf.quants.dequantize(stored.data, kind)
    return np.asarray(values, np.float32)


def _close(values: NDArray[np.float32], written: NDArray[np.float32], kind: str, how: str) -> bool:
    if kind not in HALF_STEP:
        return False
    if kind == "Q8_0":
        whole = values.T if how == "transpose" else values
        near = np.abs(whole).max(axis=-1, keepdims=True)  # at least the block's own maximum
        size = near.T if how == "transpose" else near
    else:
        size = np.abs(values)
    return bool((np.abs(values - written) <= size * np.float32(HALF_STEP[kind]) + np.float32(SMALLEST[kind])).all())


def check_metadata(model_dir: Path, reader: Any, layout: Layout, config: Mapping[str, Any]) -> Check:
    """Every setting that llama.cpp computes with, and the tokenizer, against the model folder."""
    wanted: dict[str, Any] = {f"{layout.name}.{key}": value for key, value in layout.metadata(config).items()}
    vocabulary = read_vocabulary(model_dir, layout.dims(config)["V"])
    wanted |= {
        "general.architecture": layout.name,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.add_bos_token": vocabulary.add_bos,
        "tokenizer.ggml.bos_token_id": vocabulary.bos_id,
        "tokenizer.ggml.eos_token_id": vocabulary.eos_id,
        "tokenizer.ggml.eot_token_id": vocabulary.eot_id,
        "tokenizer.ggml.padding_token_id": vocabulary.pad_id,
        "tokenizer.chat_template": vocabulary.chat_template,
    }
    wrong = [
        f"{key} is {_shown(_field(reader, key))}, the model says {_shown(value)}"
        for key, value in wanted.items()
        if _unlike(reader, key, value)
    ]
    return Check(name="settings that differ from config.json", value=len(wrong), limit="0", passed=not wrong, note="; ".join(wrong[:2]))


def _field(reader: Any, key: str) -> Any:
    return reader.fields[key].contents() if key in reader.fields else None


def _unlike(reader: Any, key: str, value: Any) -> bool:
    found = _field(reader, key)
    if isinstance(value, float):
        return not isinstance(found, float) or np.float32(found) != np.float32(value)
    return bool(found != value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
