"""Reading safetensors a few rows at a time, and what is said of broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from phiforge.core.errors import DataError
from phiforge.export.tensors import TensorFiles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_are_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randn(9, 5, dtype=torch.float32).to(dtype)
    save_file({"a": torch.zeros(3, dtype=dtype), "w": tensor}, tmp_path / "model.safetensors")
    with TensorFiles(tmp_path) as files:
        np.testing.assert_array_equal(files.rows("w", 2, 7), tensor[2:7].float().numpy())
        np.testing.assert_array_equal(files.rows("w", 0, 9, np.empty(1 << 16, np.uint8)), tensor.float().numpy())


def broken(name: str, path: Path) -> None:
    save_file({"w": torch.zeros(64, 8)}, path)
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "no header": b"\xff" * 64,
        "not JSON": struct.pack("<Q", 8) + b"{nonsens" + bytes(100),
        "cut short": data[:-100],
        "integers": data.replace(b'"F32"', b'"I32"'),
    }
    path.write_bytes(changed[name])


@pytest.mark.parametrize("name", ["empty", "no header", "not JSON", "cut short", "integers"])
def test_a_broken_file_is_one_line(name: str, tmp_path: Path) -> None:
    broken(name, tmp_path / "model.safetensors")
    with pytest.raises(DataError) as error:
        TensorFiles(tmp_path)
    assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_no_model_and_a_shard_outside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model"):
        TensorFiles(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../other.safetensors"}}')
    with pytest.raises(DataError, match="plain file name"):
        TensorFiles(tmp_path)
