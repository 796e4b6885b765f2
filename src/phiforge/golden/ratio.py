"""The golden ratio and the two parts that it cuts a whole into; computed, never typed."""

from __future__ import annotations

import math

PHI = (1.0 + math.sqrt(5.0)) / 2.0
"""phi = (1 + sqrt 5) / 2 = 1.618..., the positive root of x^2 = x + 1."""

INV_PHI = 1.0 / PHI
"""1/phi = phi - 1 = 0.618..., the larger part of a whole."""

INV_PHI_SQUARED = 1.0 / PHI**2
"""1/phi^2 = 2 - phi = 0.381..., the smaller part: INV_PHI + INV_PHI_SQUARED = 1."""
