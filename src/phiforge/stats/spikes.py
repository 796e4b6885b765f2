"""Jumps of a training loss, counted by one rule wherever they are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

WINDOW = 10  # calm losses that a spike is measured against
WIDE, TALL = 6.0, 0.05  # a spike is above their median by 6 robust standard deviations and by 5 %
_NORMAL = 1.4826  # median absolute deviation -> standard deviation, for normal values


def spikes(losses: Iterable[float | None]) -> int:
    """How many times the logged training loss jumped: above the median of the ten lines before by 6 of their robust standard
    deviations and by 5 %. A jump that lasts counts once; a loss that is no number is one.

    >>> spikes([3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3, 2.2, 2.1, 9.0, 8.0, 2.1])
    1
    """
    count, high = 0, False
    calm: list[float] = []
    for loss in losses:
        if loss is None or not math.isfinite(loss):
            jumped = True
        elif len(calm) < WINDOW // 2:
            jumped = False
        else:
            before = calm[-WINDOW:]
            middle = statistics.median(before)
            spread = _NORMAL * statistics.median(abs(value - middle) for value in before)
            jumped = loss > middle + max(WIDE * spread, TALL * abs(middle))
        count += jumped and not high
        high = jumped
        if not jumped and loss is not None:
            calm.append(loss)
    return count
