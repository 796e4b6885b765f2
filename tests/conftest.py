"""Fixtures for every suite: pico models and texts built here, no downloads; real data only where it lies beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packed texts go to a folder of this session, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHIFORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
