"""Golden batches: how many rows an optimizer step takes as training goes on."""

from __future__ import annotations

from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import INV_PHI, INV_PHI_SQUARED, PHI

_FAR = 256  # phi^256 is above any cap; much further on it is above any float


def phi_batch_size(base_batch: int, phase: int, max_batch: int | None = None) -> int:
    """max(1, min(int(base * phi^phase), max_batch)). Document; the 1 is ours.

    Raises ConfigError for a base or a cap below 1, or a phase below 0.

    >>> [phi_batch_size(8, phase) for phase in range(5)], phi_batch_size(8, 9, max_batch=128)
    ([8, 12, 20, 33, 54], 128)
    """
    if base_batch < 1 or phase < 0 or (max_batch is not None and max_batch < 1):
        raise ConfigError(
            f"a batch of {base_batch} rows in phase {phase}, at most {max_batch}, is none", fix="1 row or more, phase 0 or later"
        )
    if phase > _FAR and max_batch is not None:
        return max_batch
    size = max(1, int(base_batch * PHI**phase))
    return size if max_batch is None else min(size, max_batch)


def batch_sizes(base_batch: int, phases: int, max_batch: int | None = None) -> list[int]:
    """The size in each of K batch phases.

    >>> batch_sizes(8, 3, 128), batch_sizes(8, 1)
    ([8, 12, 20], [8])
    """
    return [phi_batch_size(base_batch, phase, max_batch) for phase in range(phases)]


def batch_shares(phases: int) -> list[float]:
    """The share of all rows that each of K batch phases spans: phase 0 training phase 1 (38.2 %), the others training phase 2 in equal
    parts. K = 1 is one batch size throughout. Ours: the document leaves open when a batch phase begins.

    >>> [round(share, 3) for share in batch_shares(3)], batch_shares(1)
    ([0.382, 0.309, 0.309], [1.0])
    """
    if phases < 1:
        raise ConfigError(f"batch_phi_phases={phases} is not at least 1")
    return [1.0] if phases == 1 else [INV_PHI_SQUARED, *[INV_PHI / (phases - 1)] * (phases - 1)]
