"""Golden regularisation over the whole run: dropout falls, weight decay rises, or both swing."""

from __future__ import annotations

import math
from typing import Literal

from phiforge.golden.ratio import PHI

Wave = bool | Literal["cyclic"]


def phi_dropout(base: float, p: float) -> float:
    """base * phi^(-p): from base down to base/phi. Document (the form is ours: it names only the schedule).

    >>> round(phi_dropout(0.1, 0.0), 6), round(phi_dropout(0.1, 1.0), 6)
    (0.1, 0.061803)
    """
    return base * float(PHI**-p)


def phi_weight_decay(base: float, p: float) -> float:
    """base * phi^p: from base up to phi * base. Document (the form is ours).

    >>> round(phi_weight_decay(0.01, 0.0), 6), round(phi_weight_decay(0.01, 1.0), 6)
    (0.01, 0.01618)
    """
    return base * float(PHI**p)


def phi_cyclic_value(base: float, p: float) -> float:
    """base * (1 + 0.5 sin(2 pi c)), c = position within periods of 1/phi of the run. Origin.

    >>> round(phi_cyclic_value(0.1, 0.0), 6), round(phi_cyclic_value(0.1, 0.25 / PHI), 6), round(phi_cyclic_value(0.1, 0.75 / PHI), 6)
    (0.1, 0.15, 0.05)
    """
    return base * (1.0 + 0.5 * math.sin(2.0 * math.pi * math.fmod(p * PHI, 1.0)))


def dropout_value(base: float, p: float, wave: Wave) -> float:
    """Dropout at progress p: constant (False), falling (True) or `cyclic`."""
    return phi_cyclic_value(base, p) if wave == "cyclic" else phi_dropout(base, p) if wave else base


def weight_decay_value(base: float, p: float, wave: Wave) -> float:
    """Weight decay at progress p: constant (False), rising (True) or `cyclic`."""
    return phi_cyclic_value(base, p) if wave == "cyclic" else phi_weight_decay(base, p) if wave else base
