"""The two training phases: 38.2 % of the training, then 61.8 %."""

from __future__ import annotations

from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import INV_PHI_SQUARED


def phi_training_phases(total_epochs: float) -> tuple[float, float]:
    """Epochs of phase 1 and of phase 2; neither is ever empty.

    The document's whole epochs where they can be divided so, int(38.2 %) and the rest, which is from 3 epochs on; for 1 or 2 epochs, where
    that leaves phase 1 empty, and for fractions of an epoch, exactly 38.2 % and 61.8 % (ours). A training run counts in tokens and has its
    border at 38.2 % of them, whatever the epochs (`phase_border`).

    >>> phi_training_phases(10), phi_training_phases(3)
    ((3, 7), (1, 2))
    >>> [round(epochs, 3) for epochs in (*phi_training_phases(1), *phi_training_phases(2))]
    [0.382, 0.618, 0.764, 1.236]
    """
    if not total_epochs > 0:
        raise ConfigError(f"total_epochs={total_epochs} is not above 0")
    first = int(total_epochs * INV_PHI_SQUARED)
    if first < 1 or total_epochs != int(total_epochs):
        return total_epochs * INV_PHI_SQUARED, total_epochs - total_epochs * INV_PHI_SQUARED
    return first, int(total_epochs) - first


def phase_border(whole: int) -> int:
    """Where phase 2 begins among `whole` rows or steps: the nearest to 38.2 %, with at least one on both sides where there are two.

    >>> [phase_border(rows) for rows in (1, 2, 3, 10, 1000)]
    [1, 1, 1, 4, 382]
    """
    return max(1, min(round(whole * INV_PHI_SQUARED), whole - 1))
