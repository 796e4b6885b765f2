"""Every printed example in golden/ is true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import phiforge.golden

MODULES = sorted(path.stem for path in Path(phiforge.golden.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"phiforge.golden.{name}"))
    assert not failed
