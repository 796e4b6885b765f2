"""The scan's door: what it takes, what it refuses and how it says so, which form it chooses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from phiforge.nn import recurrence, recurrence_native
from phiforge.nn.recurrence import scan


def _inputs(**other: Any) -> dict[str, Any]:
    return {"k": torch.zeros(2, 3, 4), "v": torch.zeros(2, 3, 5)} | other


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"form": "fast"}, "form='fast': one of auto, loop"),
        ({"chunk": 0}, "chunk=0: at least 1"),
        ({"v": torch.zeros(2, 4, 5)}, "v (2, 4, 5): (B, T, dk) and (B, T, dv) are expected"),
        ({"k": torch.zeros(2, 0, 4), "v": torch.zeros(2, 0, 5)}, "T=0"),
        ({"q": torch.zeros(2, 3, 4)}, "q (2, 3, 4): expected (2, 3, 1, 4)"),
        ({"log_decay": torch.zeros(2, 3)}, "expected (2, 3, 4) or (2, 3, 1)"),
        ({"beta": torch.zeros(2, 3, 1)}, "beta (2, 3, 1): expected (2, 3)"),
        ({"state": torch.zeros(2, 4, 5)}, "state (2, 4, 5): expected (2, 5, 4)"),
        ({"reset": torch.zeros(2, 3)}, "reset is torch.float32: bool is expected"),
        (
            {"k": torch.zeros(2, 3, 4).double(), "v": torch.zeros(2, 3, 5).double(), "form": "native"},
            "form='native': the native form works in",
        ),
        ({"form": "triton"}, "form='triton': the Triton form works on CUDA, not on cpu"),
    ],
)
def test_refusals(other: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=re.escape(words)):
        scan(**_inputs(**other))


def test_without_a_compiler_chunks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence_native, "library", lambda: "no C compiler (cc, gcc, clang) on this machine")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert recurrence._choose("auto", torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)) == "chunk"
    with pytest.raises(ValueError, match="no C compiler"):
        scan(**_inputs(form="native"))


def test_wide_states_go_to_chunks() -> None:
    wide = torch.zeros(1, 1, recurrence_native.MOST_WIDTH + 1)
    assert recurrence._choose("auto", wide, torch.zeros(1, 1, 1)) == "chunk"
    assert scan(wide, torch.zeros(1, 1, 2)).final.shape == (1, 2, wide.shape[2])


def test_nothing_asked_nothing_given() -> None:
    made = scan(**_inputs())
    assert made.read is None and made.states is None and made.final.shape == (2, 5, 4)
