"""The types of a GGUF file: ggml's converters, our slow forms and the gguf package give the same bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from phiforge.export import encode
from phiforge.export.encode import BF16, F16, F32, Q8_0, SLOW, TYPES, TensorType, decode

KINDS = [F16, BF16, Q8_0]


def values(seed: int, rows: int = 64) -> np.ndarray:
    """Normal values of many magnitudes, with zeros, ties and blocks of zeros."""
    generator = np.random.default_rng(seed)
    out = generator.standard_normal((rows, 64)).astype(np.float32) * np.exp2(generator.integers(-26, 12, (rows, 1))).astype(np.float32)
    out[0] = 0
    out[1, :32] = np.arange(-16, 16) / 2
    out[2, ::2] = -0.0
    return out


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [64, 4096 + 97])  # the larger one is converted in two halves
def test_fast_slow_and_the_gguf_package_agree(kind: TensorType, seed: int, size: int) -> None:
    rows = values(seed, size)
    out = np.zeros(kind.size(rows.size), np.uint8)
    assert encode.encode(kind, rows, out)
    np.testing.assert_array_equal(out, SLOW[kind.name](rows))
    theirs = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind.name])
    np.testing.assert_array_equal(out, theirs.view(np.uint8).reshape(-1))
    np.testing.assert_array_equal(decode(kind, out), gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind.name]).reshape(-1))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_slow_form_serves_where_the_library_exports_nothing(kind: TensorType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = values(7)
    fast = np.zeros(kind.size(rows.size), np.uint8)
    encode.encode(kind, rows, fast)
    monkeypatch.setattr(encode, "_ggml", dict)
    slow = np.zeros(kind.size(rows.size), np.uint8)
    assert encode.encode(kind, rows, slow)
    np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(kind: TensorType, bad: float) -> None:
    rows = np.ones((1, 64), np.float32)
    rows[0, 40] = bad
    assert not encode.encode(kind, rows, np.zeros(kind.size(64), np.uint8))


def test_too_large_for_half_precision_is_told() -> None:
    rows = np.full((1, 32), 70_000.0, np.float32)
    assert not encode.encode(F16, rows, np.zeros(64, np.uint8))
    assert encode.encode(BF16, rows, np.zeros(64, np.uint8))
    assert not encode.encode(Q8_0, rows * 200, np.zeros(34, np.uint8))  # the scale would be infinite


def test_true_bits() -> None:
    assert [kind.bits for kind in (F32, F16, BF16, Q8_0)] == [32, 16, 16, 8.5]
