"""Every golden-ratio idea as pure functions: rates, batches, phases, regularisation, sampling, shapes.

The document's names can be had from here: `from phiforge.golden import PHI, phi_learning_rate, PHITrainingConfig`. They are looked up when
asked for, so that a config of this room brings no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "PHI": "ratio",
    "INV_PHI": "ratio",
    "INV_PHI_SQUARED": "ratio",
    "phi_learning_rate": "learning_rate",
    "phi_batch_size": "batch",
    "phi_training_phases": "phases",
    "PHITrainingConfig": "api",
    "PHIExtendedConfig": "api",
    "PHIScheduler": "api",
    "PHILearningRateScheduler": "api",
    "PHIBatchScheduler": "api",
    "PHIRegularizationScheduler": "api",
    "PHIDataSampler": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
