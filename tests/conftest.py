"""Fixtures for every suite: pico models and texts built here, no downloads; real data only where it lies beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts (books, PEPs, declarations); tests that use it skip where it is absent."""
    folder = Path(os.environ.get("PHIFORGE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "MANIFEST.json").is_file():
        pytest.skip("the folder of real texts (PHIFORGE_SHARED_DATA) is not on this machine")
    return folder
