"""Libraries that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from phiforge.core.errors import DataError


def need(module: str, what: str) -> Any:
    """The imported module. Raises DataError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise DataError(f"{what} needs the library {package}, which is not installed", fix='pip install "phiforge[corpus]"') from None
